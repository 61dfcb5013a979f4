"""What the local Hub reads of a README's front matter, and what it finds wrong with it."""

import re

import yaml

# A part of https://huggingface.co/docs/hub/repositories-licenses, which lists some 80.
LICENCES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 openrail++ afl-3.0 "
    "artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 "
    "cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-permissive-1.0 cdla-permissive-2.0 "
    "ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc mpl-2.0 ms-pl "
    "ncsa ofl-1.1 osl-3.0 postgresql unlicense zlib pddl odc-by odbl wtfpl llama2 llama3 gemma unknown other".split()
)
SDKS = ("gradio", "streamlit", "docker", "static")


def front_matter(text: str):
    """The YAML between the first two lines of three dashes: None where there is none, YAMLError where it is broken."""
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    return None if found is None else yaml.safe_load(found[1]) or {}


def card_data(text: str) -> dict:
    """The front matter where it is a mapping, nothing otherwise."""
    try:
        found = front_matter(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def card_errors(text: str, kind: str, need_licence: bool = True) -> tuple[list[str], list[str]]:
    """Errors and warnings of a card of a model, a data set or a space."""
    try:
        data = front_matter(text)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["The front matter must be a YAML mapping"], []
    errors = [*_licence_errors(data, need_licence), *_list_errors(data)]
    if kind == "model":
        errors += _model_index_errors(data.get("model-index"))
    if kind == "space" and data.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of {", ".join(SDKS)}')
    return errors, []


def _licence_errors(data: dict, needed: bool) -> list[str]:
    if "license" not in data:
        return ['"license" is missing'] if needed else []
    names = data["license"] if isinstance(data["license"], list) else [data["license"]]
    errors = [f'"license" must be an id that the Hub knows, not {name!r}' for name in names if name not in LICENCES]
    if "other" in names and bool(data.get("license_link")) and not data.get("license_name"):
        errors.append('"license_name" is missing beside "license_link"')
    return errors


def _list_errors(data: dict) -> list[str]:
    errors = []
    for key in ("datasets", "language", "tags", "metrics"):
        value = data.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            errors.append(f'"{key}" must be a list of strings, not {value!r}')
    return errors


def _model_index_errors(index) -> list[str]:
    if index is None:
        return []
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        return ['"model-index" must be a list of mappings']
    errors = []
    for number, model in enumerate(index):
        where = f"model-index[{number}]"
        errors += [] if isinstance(model.get("name"), str) else [f'"{where}.name" is required']
        results = model.get("results")
        if not isinstance(results, list):
            errors.append(f'"{where}.results" must be a list')
            continue
        for place, result in enumerate(results):
            errors += _result_errors(result, f"{where}.results[{place}]")
    return errors


def _result_errors(result, where: str) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{where}" must be a mapping']
    errors = []
    for key, needed in (("task", ("type",)), ("dataset", ("type", "name"))):
        value = result.get(key) if isinstance(result.get(key), dict) else {}
        errors += [f'"{where}.{key}.{name}" is required' for name in needed if not isinstance(value.get(name), str)]
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return [*errors, f'"{where}.metrics" is required']
    for place, metric in enumerate(metrics):
        for name in ("type", "value"):
            if not isinstance(metric, dict) or metric.get(name) is None:
                errors.append(f'"{where}.metrics[{place}].{name}" is required')
    return errors
