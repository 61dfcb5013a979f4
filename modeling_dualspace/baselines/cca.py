"""Canonical correlation analysis."""

from huggingface_hub.dataclasses import strict

from ..canonical_system import LinearConfig, LinearModel


@strict
class CcaConfig(LinearConfig):
    """Defaults are those of the published tables: ten directions, a ridge of 1e-4 on raw features.

    `CanonicalConfig` and `LinearConfig` of `canonical_system` explain the settings.
    """

    model_type = "dualspace_cca"


class CcaModel(LinearModel):
    r"""Canonical correlation analysis: the linear maps along which pairs correlate most.

    $$T = (S_{aa} + rI)^{-1/2} S_{av} (S_{vv} + rI)^{-1/2} = U \Sigma V' \qquad
      a \mapsto (a - \mu_a)(S_{aa} + rI)^{-1/2} U \Sigma^p$$

    Hotelling, "Relations between two sets of variates", Biometrika 1936, with Vinod's ridge. One pass over the clips,
    in closed form; no label is read. `power=1` is the weighted form.

    Example:
        ```python
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> clips = {"audio_features": torch.randn(50, 4), "visual_features": torch.randn(50, 6)}
        >>> model = CcaModel(CcaConfig(audio_dim=4, visual_dim=6, embed_dim=3))
        >>> model.finish([clips])
        >>> model.get_visual_embeds(clips["visual_features"]).shape
        torch.Size([50, 3])

        ```
    """

    config_class = CcaConfig
    config: CcaConfig
    uses_labels = False
