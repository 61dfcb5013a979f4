"""Configurations that are closed against misspelt keys."""

import difflib
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers itself passes to or stores in a configuration beside the declared fields.
_KEYS_OF_TRANSFORMERS = frozenset(
    {
        "_attn_implementation_internal",
        "_commit_hash",
        "_experts_implementation_internal",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "quantization_config",
        "torch_dtype",
    }
)


@strict
class ClosedConfig(PreTrainedConfig):
    """What a configuration extends that refuses keys it has no field for; transformers itself takes any."""

    def __post_init__(self, **kwargs: Any):
        known = {entry.name for entry in fields(self)} | _KEYS_OF_TRANSFORMERS
        for key in kwargs.keys() - known:
            theirs = {entry.name for entry in fields(PreTrainedConfig)} - {"id2label", "label2id"}
            close = difflib.get_close_matches(key, known - theirs, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"{type(self).__name__} has no key `{key}`.{hint}")
        super().__post_init__(**kwargs)
