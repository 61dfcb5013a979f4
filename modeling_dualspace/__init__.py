"""DualSpace: finds video by sound and sound by video.

Importing the package makes `AutoConfig`, `AutoModel` and `AutoProcessor` know its models, and `pipeline` the task
`audio-visual-retrieval`.
"""

__version__ = "0.1.0"

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from . import baselines  # noqa: F401 - registers the compared systems
from .cca import CanonicalLayer, Directions, canonical_directions, whitening
from .configuration_dualspace import CrossModalConfig, DualSubspaceConfig
from .distributed import gather_rows
from .losses import canonical_correlation, discriminative_loss, orthogonality_loss
from .modeling_crossmodal import CrossModalModel, CrossModalOutput
from .modeling_dualspace import DualSubspaceModel
from .moments import ColumnMoments
from .pair_moments import Covariances, PairMoments
from .pipeline_dualspace import AudioVisualRetrievalPipeline
from .processing_dualspace import DualSubspaceProcessor

AutoConfig.register(DualSubspaceConfig.model_type, DualSubspaceConfig, exist_ok=True)
AutoModel.register(DualSubspaceConfig, DualSubspaceModel, exist_ok=True)
AutoProcessor.register(DualSubspaceConfig, DualSubspaceProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "audio-visual-retrieval", AudioVisualRetrievalPipeline, pt_model=AutoModel, type="multimodal"
)

__all__ = [
    "AudioVisualRetrievalPipeline",
    "CanonicalLayer",
    "ColumnMoments",
    "Covariances",
    "CrossModalConfig",
    "CrossModalModel",
    "CrossModalOutput",
    "Directions",
    "DualSubspaceConfig",
    "DualSubspaceModel",
    "DualSubspaceProcessor",
    "PairMoments",
    "canonical_correlation",
    "canonical_directions",
    "discriminative_loss",
    "gather_rows",
    "orthogonality_loss",
    "whitening",
]
