"""Configurations and constants that are closed against misspelt keys."""

import difflib
from collections.abc import Mapping
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
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"{type(self).__name__} has no key `{key}`.{hint}")
        super().__post_init__(**kwargs)


def constants_of(extractor: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The constants of a feature extractor: known ones alone, each of its default's type, and numbers not negative.

    Args:
        extractor: its name, for messages.
        defaults: by name.
        given: some of them, and what transformers itself keeps in a feature extractor's file.

    Example:
        ```python
        >>> constants_of("Ear", {"rate": 16_000, "scale": 1.0}, {"scale": 2})
        {'rate': 16000, 'scale': 2.0}

        ```
    """
    constants = dict(defaults)
    for key, value in given.items():
        if key.endswith("_type") or key.startswith("_") or key in ("auto_map", "processor_class"):
            continue
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else f" It has {', '.join(defaults)}."
            raise ValueError(f"{extractor} has no constant `{key}`.{hint}")
        kind = type(defaults[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{extractor}: `{key}` is like {defaults[key]!r}, got {value!r}.")
        if not isinstance(value, str) and not 0 <= value < float("inf"):
            raise ValueError(f"{extractor}: `{key}` is finite and not negative, got {value!r}.")
        constants[key] = kind(value)
    return constants
