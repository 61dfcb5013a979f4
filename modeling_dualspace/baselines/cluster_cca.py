"""Cluster canonical correlation analysis (C-CCA)."""

from huggingface_hub.dataclasses import strict

from ..canonical_system import ClusterConfig, ClusterModel, LinearConfig, LinearModel


@strict
class ClusterCcaConfig(ClusterConfig, LinearConfig):
    """Defaults are the published method; `pairing="mixed", cluster_weight=0.8` is what its authors' code does.

    `ClusterConfig`, `CanonicalConfig` and `LinearConfig` of `canonical_system` explain the settings.
    """

    model_type = "dualspace_cluster_cca"


class ClusterCcaModel(ClusterModel, LinearModel):
    r"""Cluster CCA: the linear maps along which a sound correlates with all sights of its category.

    All audio-visual pairs of a category take part (Rasiwasia et al., "Cluster canonical correlation analysis", AISTATS
    2014), in closed form: see `ClusterModel` for the three ways to count them. Where all clips are labelled and nothing
    but pairs of a category counts, C categories have at most C - 1 directions; those past them are zero. `power=1` is
    the weighted form.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(60, 4), "visual_features": torch.randn(60, 6),
        ...          "labels": torch.arange(60) % 3}
        >>> model = ClusterCcaModel(ClusterCcaConfig(audio_dim=4, visual_dim=6, num_labels=3))
        >>> model.finish([clips])
        >>> int((model.layer.correlations > 0).sum())
        2

        ```
    """

    config_class = ClusterCcaConfig
    config: ClusterCcaConfig
