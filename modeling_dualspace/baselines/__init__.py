"""The compared systems, one file each: what the dual-subspace model is measured against.

Each is a `CrossModalModel` with a model type of its own, `dualspace_<file name>`, that the Auto classes know once the
package is imported. No code of theirs goes to the Hub.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from ..processing_dualspace import DualSubspaceProcessor
from .acmr import AcmrConfig, AcmrModel
from .agah import AgahConfig, AgahModel
from .c_dcca import CDccaConfig, CDccaModel
from .cca import CcaConfig, CcaModel
from .cluster_cca import ClusterCcaConfig, ClusterCcaModel
from .cm_gan import CmGanConfig, CmGanModel
from .dcca import DccaConfig, DccaModel
from .dscmr import DscmrConfig, DscmrModel
from .kcca import KccaConfig, KccaModel
from .random import RandomConfig, RandomModel
from .tnn_c_cca import TnnCCcaConfig, TnnCCcaModel
from .ucal import UcalConfig, UcalModel
from .ugach import UgachConfig, UgachModel

SYSTEMS = (
    RandomModel, CcaModel, KccaModel, ClusterCcaModel, DccaModel, CDccaModel, TnnCCcaModel,
    DscmrModel, AcmrModel, UcalModel, UgachModel, AgahModel, CmGanModel,
)  # fmt: skip

for _model in SYSTEMS:
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)
    AutoProcessor.register(_model.config_class, DualSubspaceProcessor, exist_ok=True)

__all__ = [
    "SYSTEMS",
    "AcmrConfig",
    "AcmrModel",
    "AgahConfig",
    "AgahModel",
    "CDccaConfig",
    "CDccaModel",
    "CcaConfig",
    "CcaModel",
    "ClusterCcaConfig",
    "ClusterCcaModel",
    "CmGanConfig",
    "CmGanModel",
    "DccaConfig",
    "DccaModel",
    "DscmrConfig",
    "DscmrModel",
    "KccaConfig",
    "KccaModel",
    "RandomConfig",
    "RandomModel",
    "TnnCCcaConfig",
    "TnnCCcaModel",
    "UcalConfig",
    "UcalModel",
    "UgachConfig",
    "UgachModel",
]
