"""A random ranking: the floor of every table."""

from collections.abc import Iterable

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration_dualspace import CrossModalConfig
from ..distributed import from_first
from ..modeling_crossmodal import Batch, CrossModalModel
from ..row_hash import random_normals, random_salt, row_hash


@strict
class RandomConfig(CrossModalConfig):
    """Embeddings drawn once a clip.

    Args:
        seed: of the draw; None takes torch's, as any model's first weights do.
    """

    model_type = "dualspace_random"
    players = ()
    terms = ()
    makes_codes = False

    seed: int | None = None


class RandomModel(CrossModalModel):
    """Embeddings drawn at random: uniform on the sphere, once a clip and modality, by a seed.

    The draw is a hash of the clip's own features, so that the same clip has the same embedding wherever and with
    whatever other clips it is asked for; two clips with the same features share one.

    Example:
        ```python
        >>> model = RandomModel(RandomConfig(audio_dim=4, visual_dim=6, seed=1))
        >>> sounds = torch.randn(3, 4)
        >>> model.get_audio_embeds(sounds).shape
        torch.Size([3, 10])
        >>> torch.equal(model.get_audio_embeds(sounds)[2:], model.get_audio_embeds(sounds[2:]))
        True

        ```
    """

    config_class = RandomConfig
    config: RandomConfig
    uses_labels = False
    audio_salt: Tensor
    visual_salt: Tensor

    def __init__(self, config: RandomConfig):
        super().__init__(config)
        for name, width in (("audio_salt", config.audio_dim), ("visual_salt", config.visual_dim)):
            self.register_buffer(name, torch.zeros(width + 1, dtype=torch.int64))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            buffers = self.audio_salt, self.visual_salt
            salt = random_salt(sum(map(len, buffers)), self.config.seed)
            for buffer, part in zip(buffers, salt.split([len(buffer) for buffer in buffers]), strict=True):
                init.copy_(buffer, part)

    def finish(self, data: Iterable[Batch], validation: Iterable[Batch] | None = None) -> None:
        """Has all processes draw alike."""
        for salt in (self.audio_salt, self.visual_salt):
            salt.copy_(torch.tensor(from_first(salt.tolist)))

    def _embed_rows(self, features: Tensor, modality: str) -> Tensor:
        salt = getattr(self, f"{modality}_salt")
        # The last number tells seeds and modalities apart, whatever the row.
        keys = row_hash(features, salt[:-1]) + salt[-1]
        return nn.functional.normalize(random_normals(keys, self.config.embed_dim), dim=1).float().to(features.device)
