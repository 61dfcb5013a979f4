"""What goes to the Hub: one thing that a person names, or a whole release, a YAML file that names several."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .resources import resource
from .typed import build
from .yaml_files import read_yaml


@dataclass(frozen=True, kw_only=True)
class Item:
    """One repository.

    Args:
        name: of the repository; with a namespace where it is one thing alone.
        path: what goes there: a run, a model, a data set, a metric; none makes the metric on the spot.
        kind: `model`, `data set` or `metric`; found out otherwise.
        license: of a model, as the Hub calls it. A data set says it in its own card.
        data: where the data set is that results were measured on, if it is not where it was.
        card: a template that extends ours.
        carbon: grams of CO2 that the training emitted, if known.
        trust_remote_code: run code that comes with a model and is not this package's.
        private: nobody else shall see it, though others of the release may be public.
        made_by: the command that makes it, for whoever has not.
    """

    name: str
    path: str = ""
    kind: str = ""
    license: str = ""
    data: str = ""
    card: str = ""
    carbon: float | None = None
    trust_remote_code: bool = False
    private: bool = False
    made_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Several repositories that belong together.

    Args:
        items: the repositories.
        collection: the title of the collection of its models and what belongs to them; none where it is empty.
        description: of the collection.
        tag: of this release, in every repository; made of the content otherwise.
        private: whether nobody else shall see it.
    """

    items: list[Item]
    collection: str = ""
    description: str = ""
    tag: str = ""
    private: bool = False


def known_releases() -> list[str]:
    """The names of those that come with DualSpace.

    Example:
        ```python
        >>> "everything" in known_releases()
        True

        ```
    """
    return sorted(path.stem for path in resource("releases").glob("*.yaml"))


def find_release(name: str) -> Path | None:
    """The file of a release, by its path or, for ours, by its name; None where what is named is none."""
    path = Path(name)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return path
    return resource(f"releases/{name}.yaml") if not path.exists() and name in known_releases() else None


def load_release(file: Path, namespace: str) -> Release:
    """A release into a namespace."""
    release: Release = build(Release, read_yaml(file), str(file))
    if "/" in namespace:
        raise ValueError(f"{file} is a release of several repositories: name a namespace like me, not {namespace}.")
    if not release.items:
        raise ValueError(f"{file} names nothing to release: list `items`, each with a `name` and a `path`.")
    names = [item.name.lower() for item in release.items]  # the Hub takes Toy and toy for one
    twice = next((item.name for item in release.items if names.count(item.name.lower()) > 1), None)
    if twice:
        raise ValueError(f"{file} names {twice} twice: every repository has a name of its own.")
    items = [replace(item, name=repo_id_of(f"{namespace}/{item.name}")) for item in release.items]
    return replace(release, items=items)


def single(path: str, repo_id: str) -> Release:
    """One thing alone."""
    if not path or not Path(path).exists():
        close = difflib.get_close_matches(path, known_releases(), n=1)
        hint = f" Did you mean {close[0]}?" if close else f" Releases of ours are {', '.join(known_releases())}."
        raise ValueError(
            f"There is nothing at {path or 'an empty name'}: expected a run, a model, a data set, the metric's folder, "
            f"or a release.{hint}"
        )
    return Release(items=[Item(name=repo_id_of(repo_id), path=path)])


def repo_id_of(name: str) -> str:
    """The name; raises unless it is one that a repository of a namespace can have."""
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        came = " ".join(name.split())
        raise ValueError(f"A repository is called like me/dualspace-vegas, of letters, digits, -, _ and ., got {came}.")
    return name
