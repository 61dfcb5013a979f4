"""DualSpace: finds video by sound and sound by video.

Importing the package makes `AutoConfig` and `AutoModel` know its models.
"""

__version__ = "0.1.0"

from transformers import AutoConfig, AutoModel

from .cca import CanonicalLayer, Directions, canonical_directions, whitening
from .configuration_dualspace import CrossModalConfig, DualSubspaceConfig
from .distributed import gather_rows
from .losses import canonical_correlation, discriminative_loss, orthogonality_loss
from .modeling_crossmodal import CrossModalModel, CrossModalOutput
from .modeling_dualspace import DualSubspaceModel
from .moments import ColumnMoments
from .pair_moments import Covariances, PairMoments

AutoConfig.register(DualSubspaceConfig.model_type, DualSubspaceConfig, exist_ok=True)
AutoModel.register(DualSubspaceConfig, DualSubspaceModel, exist_ok=True)

__all__ = [
    "CanonicalLayer",
    "ColumnMoments",
    "Covariances",
    "CrossModalConfig",
    "CrossModalModel",
    "CrossModalOutput",
    "Directions",
    "DualSubspaceConfig",
    "DualSubspaceModel",
    "PairMoments",
    "canonical_correlation",
    "canonical_directions",
    "discriminative_loss",
    "gather_rows",
    "orthogonality_loss",
    "whitening",
]
