"""Optional packages, asked for by the extra that brings them."""

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional package, or says in one sentence how to get it.

    The import goes through `importlib`, so that the scan which decides what a repository with remote code needs never
    sees a literal `import` of something most people do not have.

    Example:
        ```python
        >>> require("json", extra="data").dumps([1])
        '[1]'

        ```
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there but lacks one of its own dependencies fails with that dependency's name: show it.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"This needs the package `{module}`, which is not installed: run `pip install 'dualspace[{extra}]'`.",
            name=error.name,
        ) from None
