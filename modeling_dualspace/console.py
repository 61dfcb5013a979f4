"""Commands that end in an exit code and, when they fail, in one sentence."""

import signal
import sys
import threading
from collections.abc import Callable

from huggingface_hub.errors import StrictDataclassError

FAILURES = (ValueError, TypeError, OSError, RuntimeError, ImportError, StrictDataclassError)


def exit_code(program: str, command: Callable[[], int]) -> int:
    """Runs `command`; a failure is one sentence on stderr and 1, an interruption 130, never a traceback.

    Example:
        ```python
        >>> exit_code("dualspace", lambda: 0)
        0

        ```
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended tidies up as well
    try:
        return command()
    except FAILURES as error:
        print(f"{program}: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
