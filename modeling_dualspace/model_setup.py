"""Models as a recipe asks for them: made for the data, from nothing or from a published one."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .configuration_dualspace import CrossModalConfig
from .distributed import agreed
from .loading import load_model
from .modeling_crossmodal import CrossModalModel
from .recipe import Recipe
from .training_data import TrainingData

logger = logging.getLogger(__name__)


def build_model(recipe: Recipe, data: TrainingData) -> CrossModalModel:
    """The model a recipe asks for, prepared on the data: ready for its first step.

    Args:
        recipe: `system` or `init`, and the fields of its config.
        data: decides widths and classes.
    """
    torch.manual_seed(recipe.train.seed)
    if recipe.init is None:
        model: Any = AutoModel.from_config(_config(recipe, data, None))
        model.to(data.device).prepare(data.passes("train"))
        return model
    name = recipe.init
    source: Any = agreed(lambda: load_model(name))
    if not isinstance(source, CrossModalModel):
        raise ValueError(
            f"{recipe.init} is a {type(source).__name__}, which this loop cannot train: expected a CrossModalModel."
        )
    if recipe.system not in ("dualspace", *_names(source.config.model_type)):
        raise ValueError(
            f"`system` is {recipe.system}, and {recipe.init} is a {source.config.model_type}: leave it out."
        )
    model = type(source)(_config(recipe, data, source.config))
    model.to(data.device)
    model.prepare(data.passes("train"))
    _take_over(model, source, recipe)
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
        return type(start)(**_known(content, type(start)) | fields)
    model_type = next((name for name in (f"dualspace_{recipe.system}", recipe.system) if name in CONFIG_MAPPING), None)
    if model_type is None or not issubclass(CONFIG_MAPPING[model_type], CrossModalConfig):
        ours = [name for name in CONFIG_MAPPING if name.startswith("dualspace")]
        raise ValueError(f"There is no system {recipe.system!r}: `system` is one of {', '.join(ours)}.")
    return AutoConfig.for_model(model_type, **fields)


def _known(content: Mapping[str, Any], kind: type[CrossModalConfig]) -> dict[str, Any]:
    defaults = kind().to_dict()
    return {key: value for key, value in content.items() if defaults.get(key, None) != value and key != "model_type"}


def _facts(data: TrainingData) -> dict[str, Any]:
    """What the data decide."""
    facts: dict[str, Any] = dict(data.widths)
    if data.description is not None:
        facts["feature_spec"] = f"audio={data.description.audio} visual={data.description.visual}"
    if data.num_labels is not None:
        facts["num_labels"] = data.num_labels
    return facts


def _take_over(model: CrossModalModel, source: CrossModalModel, recipe: Recipe) -> None:
    """Tensors of the source that fit the new data, and of its last layers the rows of classes both know."""
    new, old = model.state_dict(), source.state_dict()
    parts = source.parts()
    unfit = set(parts.get("fitted", ()))
    for modality, was, now in _features(source.config, model.config):
        if was != now:
            unfit |= set(parts.get(f"{modality}_features", ()))
            logger.warning("The %s features are %s, and were %s: their first layer starts anew.", modality, now, was)
    before, after = _class_names(source.config), _class_names(model.config)
    same_classes = before == after
    of_classes = set() if same_classes else {*parts.get("classes", ()), *model.parts().get("classes", ())}
    fits = {name for name, tensor in old.items() if name in new and tensor.shape == new[name].shape}
    kept = fits - unfit - of_classes
    with torch.no_grad():
        for name in kept:
            new[name].copy_(old[name])
        if not same_classes:
            common = [one for one in after if one in before]
            rows = [after.index(one) for one in common], [before.index(one) for one in common]
            pairs = zip(model.parts().get("classes", ()), parts.get("classes", ()), strict=True)
            fit = [(name, other) for name, other in pairs if new[name].shape[1:] == old[other].shape[1:]]
            fit = [(name, other) for name, other in fit if other not in unfit]
            common = common if fit else []
            for name, other in fit if common else ():
                new[name][rows[0]] = old[other][rows[1]].to(new[name])
            logger.warning(
                "The classes are others than those of %s: its last layers start anew%s.",
                recipe.init, f", but for {', '.join(common[:5])}{' ...' if len(common) > 5 else ''}" if common else "",
            )  # fmt: skip
    fresh = sorted(name for name in dict(model.named_parameters()) if name not in kept)
    for name in fresh:
        frozen = next((one for one in recipe.train.freeze if f"{name}.".startswith(f"{one}.")), None)
        if frozen is not None:
            raise ValueError(
                f"`train.freeze` keeps {frozen} as it is, and {name} in it starts anew, since it does not fit this "
                "data: freeze less, or use features and classes like those of the model."
            )


def _features(was: Any, now: Any) -> list[tuple[str, str, str]]:
    """By modality, what the features of both are: what made them, where both say, and how wide they are."""
    found = []
    specs = [dict(part.split("=", 1) for part in (one.feature_spec or "").split() if "=" in part) for one in (was, now)]
    for modality in ("audio", "visual"):
        widths = [f"{getattr(one, f'{modality}_dim')} wide" for one in (was, now)]
        if all(modality in spec for spec in specs):
            widths = [f"{spec[modality]}, {width}" for spec, width in zip(specs, widths, strict=True)]
        found.append((modality, widths[0], widths[1]))
    return found


def _class_names(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(len(config.id2label or {}))]
