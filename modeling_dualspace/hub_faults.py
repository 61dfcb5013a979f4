"""What goes wrong between here and the Hub: asked again where that helps, and said in words without what is secret."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before asking again."""
LONGEST = 300.0
"""The longest pause that is made because the Hub asks for one."""
AGAIN = (429, 500, 502, 503, 504)
STALE = (409, 412)
"""Somebody else's commit was first, or the answer to our own was lost."""
LOGGERS = ("httpx2", "httpx", *(f"httpcore2{part}" for part in ("", ".connection", ".http11", ".http2")))
KEEP = "Each repository is as it was, or complete, and what was uploaded is kept: run the same command again."


def patiently(ask: Callable[..., Any], *arguments: Any, too: Sequence[int] = (), **settings: Any) -> Any:
    """What is asked; again, after the pause the Hub asks for, where it was busy or the connection broke.

    `huggingface_hub` itself does so for uploads and listings, not for commits. What is asked here may be asked twice.

    Args:
        ask: what to call.
        *arguments: of it.
        too: further answers of the Hub after which to ask again, at once.
        **settings: of it.
    """
    for wait in WAITS:
        try:
            return ask(*arguments, **settings)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in (*AGAIN, *too):
                raise
            asked = error.response.headers.get("Retry-After", "") if status == 429 else ""
            time.sleep(min(float(asked), LONGEST) if asked.isdecimal() else 0.0 if status in too else wait)
        except (HTTPError, json.JSONDecodeError):  # no answer, or that of something in between
            time.sleep(wait)
    return ask(*arguments, **settings)


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """What goes wrong while something is done, in words."""
    try:
        with _secrets_kept():
            yield
    except OfflineModeIsEnabled:
        raise ValueError(
            f"{what}: HF_HUB_OFFLINE is set, so the Hub is not asked: unset it, or use --dry-run."
        ) from None
    except LocalTokenNotFoundError:
        raise ValueError(
            "Nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN; --dry-run needs neither."
        ) from None
    except json.JSONDecodeError:
        raise RuntimeError(f"{what}: what answered is not the Hub: is there a proxy in between? {KEEP}") from None
    except (HTTPError, RuntimeError) as error:
        # An upload hides what went wrong behind an error of its own.
        cause = error if isinstance(error, HTTPError) else error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise RuntimeError(f"{what}: {_explain(cause)}") from None
        if not isinstance(cause, HTTPError):
            raise
        raise RuntimeError(f"{what}: the connection to the Hub broke ({without_secrets(str(cause))}). {KEEP}") from None


def _explain(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = without_secrets(" ".join(str(error.server_message or "").split()))
    said = f" ({said})" if said else ""
    if status == 401:
        return f"the Hub does not know this token{said}: log in again by `hf auth login`, or set HF_TOKEN anew."
    if status == 403:
        return f"the token may not do this{said}: take one that may write there."
    if status == 404:
        return f"there is no such thing on the Hub, or this token may not see it{said}."
    if status == 413:
        return f"a file is too large for the Hub{said}: write the data set in smaller shards."
    if status in STALE:
        return f"somebody else keeps changing it at the same time{said}. {KEEP}"
    if status == 429:
        return f"the Hub asks for a pause{said}. {KEEP}"
    if status >= 500:
        return f"the Hub has a fault of its own, {status}{said}. {KEEP}"
    return f"the Hub refused it with {status}{said}: mend that, and run the same command again."


@contextmanager
def _secrets_kept() -> Iterator[None]:
    """What the libraries log of requests has no token in it, and no signed address."""

    def plain(record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True

    places: list[Any] = [*logging.getLogger("huggingface_hub").handlers, *map(logging.getLogger, LOGGERS)]
    for place in places:
        place.addFilter(plain)
    try:
        yield
    finally:
        for place in places:
            place.removeFilter(plain)


def without_secrets(text: str) -> str:
    """A text in which no token stands, nor what an address was signed with.

    Example:
        ```python
        >>> without_secrets("Bearer hf_" + "a" * 34)
        'Bearer [token]'

        ```
    """
    token = get_token()
    text = text.replace(token, "[token]") if token else text
    text = re.sub(r"(https?://[^\s?]+)\?[^\s'\")]+", r"\1", text)
    return re.sub(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}", "[token]", text)
