"""Models as a recipe asks for them: made for the data, from nothing or from a published one."""

import dataclasses
import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .configuration_dualspace import CrossModalConfig, spec_parts
from .distributed import agreed
from .loading import load_model
from .modeling_crossmodal import CrossModalModel
from .recipe import Recipe, check_players
from .training_data import TrainingData
from .typed import words

logger = logging.getLogger(__name__)


def check_config(recipe: Recipe, data: TrainingData) -> None:
    """Raises where no model can be made of the recipe and the data, as far as that can be seen without making one."""
    config = _config(recipe, data, None if recipe.init is None else _source(recipe).config)
    with torch.device("meta"):
        model: CrossModalModel = AutoModel.from_config(config)
    if not config.turns and any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has parameters to learn, and no batch would teach it: its config's `turns` "
            "is empty. Let it default to ['model'], or set model.turns=[model]."
        )
    refits = recipe.train.refit and "validation" in data.splits
    for part in (data, data.joined()) if refits else (data,):
        smallest = part.smallest_batch(recipe.train.batch_size)
        if config.turns and smallest < model.smallest_batch:
            raise ValueError(
                f"The smallest batch would have {smallest} clip{'s' * (smallest != 1)}, and this model needs "
                f"{model.smallest_batch} at least to learn from, better hundreds: raise train.batch_size, or bring "
                f"more clips ({len(part.splits['train']):,})."
            )


def check_settings(recipe: Recipe, data: TrainingData) -> None:
    """Raises where a recipe is wrong on whatever data: a value of `model`, or a player that the system has not.

    What fails on these data alone passes, and so does a model to start from, whose config decides too: `check_config`
    says what is wrong there.
    """
    if recipe.init is not None:
        return
    try:
        config = _config(recipe, data, None)
    except ValueError:
        _made(_kind(recipe.system), dict(recipe.model))  # raises, unless it is the data's fault
        return
    check_players(recipe.train, config.turns)


def _source(recipe: Recipe) -> CrossModalModel:
    """The model to start from."""
    name = str(recipe.init)
    try:
        source: Any = agreed(lambda: load_model(name))
    except (ValueError, TypeError) as error:
        raise ValueError(f"`init` is {name}, and cannot be started from: {str(error).split(' (MODEL')[0]}") from None
    if not isinstance(source, CrossModalModel):
        raise ValueError(f"`init` is {name}, a {type(source).__name__}, which this loop cannot train.")
    if recipe.system not in ("dualspace", *_names(source.config.model_type)):
        raise ValueError(f"`system` is {recipe.system}, and {name} is a {source.config.model_type}: leave it out.")
    return source


def build_model(recipe: Recipe, data: TrainingData, *, say: bool = True) -> CrossModalModel:
    """The model a recipe asks for, prepared on the data: ready for its first step.

    Args:
        recipe: `system` or `init`, and the fields of its config.
        data: decides widths and classes.
        say: log what is not taken over of the model to start from.
    """
    torch.manual_seed(recipe.train.seed)
    if recipe.init is None:
        model: Any = AutoModel.from_config(_config(recipe, data, None))
        model.to(data.device).prepare(data.passes("train"))
        return model
    source = _source(recipe)
    model = type(source)(_config(recipe, data, source.config))
    model.to(data.device)
    model.prepare(data.passes("train"))
    _take_over(model, source, recipe, logging.WARNING if say else logging.DEBUG)
    return model


def _names(model_type: str) -> tuple[str, str]:
    return model_type, model_type.removeprefix("dualspace_")


def _config(recipe: Recipe, data: TrainingData, start: CrossModalConfig | None) -> Any:
    """Fields of the recipe over those of the data over those of the model to start from."""
    facts = _facts(data)
    for key, value in facts.items():
        asked = recipe.model.get(key)
        if asked is not None and asked != value:
            raise ValueError(
                f"`model.{key}` is {asked} in the recipe and {value} in the data ({recipe.data.path}): leave it out of "
                "the recipe, or mend the data."
            )
    names = {} if data.class_names is None else {"id2label": dict(enumerate(data.class_names))}
    asked = recipe.model.get("id2label")
    given = None if asked is None else {str(index): name for index, name in dict(asked).items()}
    if names and given not in (None, {str(index): name for index, name in names["id2label"].items()}):
        raise ValueError(
            f"`model.id2label` names {asked} in the recipe, and the data {data.class_names}: leave it out."
        )
    if "model_type" in recipe.model:
        raise ValueError("`model` has no key `model_type`: a recipe says it by `system`.")
    if names:
        facts.pop("num_labels", None)
    fields = {key: value for key, value in recipe.model.items() if key != "num_labels"} if names else dict(recipe.model)
    fields |= facts | names
    if start is not None:
        # A record of what was, and whatever the classes decide, is not taken over.
        content = start.to_dict() | {"fusion_choice": None, "trained_on": None}
        if names or "num_labels" in facts:
            content = {
                key: value for key, value in content.items() if key not in ("id2label", "label2id", "num_labels")
            }
        content = {key: value for key, value in content.items() if key not in ("auto_map", "transformers_version")}
        return _made(type(start), _known(content, type(start)) | fields)
    return _made(_kind(recipe.system), fields)


def _kind(system: str) -> Any:
    """Of its config."""
    model_type = next((name for name in (f"dualspace_{system}", system) if name in CONFIG_MAPPING), None)
    if model_type is None or not issubclass(CONFIG_MAPPING[model_type], CrossModalConfig):
        raise ValueError(f"There is no system {system!r}.{_systems_like(system)}")
    return CONFIG_MAPPING[model_type]


def _systems_like(name: str) -> str:
    """What may have been meant."""
    kinds = {key: kind for key, kind in CONFIG_MAPPING.items() if key.startswith("dualspace")}
    ours = [key.removeprefix("dualspace_") for key, kind in kinds.items() if issubclass(kind, CrossModalConfig)]
    close = difflib.get_close_matches(name, ours, n=1)
    return f" Did you mean {close[0]}?" if close else f" `system` is one of {', '.join(sorted(ours))}."


def _made(kind: Any, fields: dict[str, Any]) -> Any:
    try:
        return kind(**fields)
    except StrictDataclassError as error:
        found = re.search(r"[Ff]ield '(\w+)' with value (.+?) doesn't match|for field '(\w+)'", str(error))
        name = (found[1] or found[3]) if found else None
        if name not in fields:
            raise ValueError(f"`model`: {error.__cause__ or error}") from None
        must = words({entry.name: entry.type for entry in dataclasses.fields(kind)}[name])
        raise ValueError(f"`model.{name}` cannot be {fields[name]!r}: it must be {must}.") from None


def _known(content: Mapping[str, Any], kind: type[CrossModalConfig]) -> dict[str, Any]:
    defaults = kind().to_dict()
    return {key: value for key, value in content.items() if defaults.get(key, None) != value and key != "model_type"}


def _facts(data: TrainingData) -> dict[str, Any]:
    """What the data decide."""
    facts: dict[str, Any] = dict(data.widths)
    if data.description is not None:
        facts["feature_spec"] = data.description.feature_spec
    if data.num_labels is not None:
        facts["num_labels"] = data.num_labels
    return facts


@torch.no_grad()
def _take_over(model: CrossModalModel, source: CrossModalModel, recipe: Recipe, level: int) -> None:
    """Tensors of the source that fit the new data, and of its last layers the rows of classes both know."""
    new, old, parts = model.state_dict(), source.state_dict(), source.parts()
    unfit = set(parts.get("fitted", ()))
    for modality, was, now in _features(source.config, model.config):
        if was != now and parts.get(f"{modality}_features"):
            unfit |= set(parts.get(f"{modality}_features", ()))
            logger.log(level, "The %s features are %s, and were %s: their first layer starts anew.", modality, now, was)
    last_layers = set[str]()
    if _class_names(source.config) != _class_names(model.config) and parts.get("classes"):
        last_layers = {*parts.get("classes", ()), *model.parts().get("classes", ())}
        common = _take_over_classes(model, source, unfit)
        but = f", but for the rows of {_few(common)}" if common else ""
        logger.log(level, "The classes are others than those of %s: the last layers start anew%s.", recipe.init, but)
    fits = {name for name, tensor in old.items() if name in new and tensor.shape == new[name].shape}
    kept = fits - unfit - last_layers
    for name in kept:
        new[name].copy_(old[name])
    fresh = sorted(name for name, _ in model.named_parameters() if name not in kept)
    said = {*last_layers, *unfit, *(name for names in model.parts().values() for name in names)}
    resized = [name for name in fresh if name not in said]
    if resized:
        what = "%d tensors have other sizes than in %s and start anew: %s."
        logger.log(level, what, len(resized), recipe.init, _few(resized))
    _refuse_to_freeze(fresh, recipe.train.freeze)


def _take_over_classes(model: CrossModalModel, source: CrossModalModel, unfit: set[str]) -> list[str]:
    """Copies the rows of classes both know into the last layers, and returns the names of those."""
    new, old = model.state_dict(), source.state_dict()
    before, after = _class_names(source.config), _class_names(model.config)
    common = [name for name in after if name in before]
    pairs = zip(model.parts().get("classes", ()), source.parts().get("classes", ()), strict=True)
    fit = [(name, other) for name, other in pairs if new[name].shape[1:] == old[other].shape[1:] and other not in unfit]
    if not common or not fit:
        return []
    rows = [after.index(name) for name in common], [before.index(name) for name in common]
    for name, other in fit:
        new[name][rows[0]] = old[other][rows[1]].to(new[name])
    return common


def _refuse_to_freeze(fresh: Sequence[str], freeze: Sequence[str]) -> None:
    for name in fresh:
        frozen = next((one for one in freeze if f"{name}.".startswith(f"{one}.")), None)
        if frozen is not None:
            raise ValueError(
                f"`train.freeze` keeps {frozen} as it is, and {name} in it starts anew, since it does not fit this "
                "data: freeze less, or use features and classes like those of the model."
            )


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def _features(was: Any, now: Any) -> list[tuple[str, str, str]]:
    """By modality, what the features of both are: what made them, where both say, and how wide they are."""
    found = []
    specs = [spec_parts(one.feature_spec) for one in (was, now)]
    for modality in ("audio", "visual"):
        widths = [f"{getattr(one, f'{modality}_dim')} wide" for one in (was, now)]
        if all(modality in spec for spec in specs):
            widths = [f"{spec[modality]}, {width}" for spec, width in zip(specs, widths, strict=True)]
        found.append((modality, widths[0], widths[1]))
    return found


def _class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(len(config.id2label or {}))]
