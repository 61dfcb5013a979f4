"""The page of an index, for a browser and for programs: `build_app` makes it, `serve` runs it.

Example:
    ```python
    from modeling_dualspace.app import build_app, serve
    from modeling_dualspace.index import open_index

    serve(build_app([open_index("films-index", films="my_videos")]))
    ```
"""

import asyncio
import errno
import logging
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .app_files import Uploads, add_routes, load_gradio
from .app_gate import Gate
from .app_page import Page, page_css, page_theme
from .app_search import Catalogue, catalogues_of
from .media import Limits
from .optional import require

if TYPE_CHECKING:
    from .index import Index

logger = logging.getLogger(__name__)

LIMITS = Limits(seconds=600, bytes=200_000_000)
"""Of what a visitor may send."""
KEEP = 1_800.0
"""Seconds that it is kept."""


def build_app(
    indexes: Sequence["Index"],
    *,
    title: str = "DualSpace",
    results: Sequence[str | Path] | None = None,
    examples: Sequence[str] | None = None,
    limits: Limits = LIMITS,
    keep: float = KEEP,
) -> Any:
    """The page over some indexes, as an ASGI app (FastAPI's).

    Args:
        indexes: that can be searched; a visitor chooses where there are several.
        title: of the page.
        results: runs and results whose tables and curves are shown; None takes the run that each model lies in.
        examples: names of clips of the first index to begin with; None chooses some of different labels.
        limits: of what a visitor may send.
        keep: seconds that it is kept.
    """
    if not indexes:
        raise ValueError("A page searches an index, and none came: make one by `dualspace index`, and name its folder.")
    if limits.bytes is None:
        raise ValueError("A page takes files from anybody, so their size has a limit: pass Limits(bytes=200_000_000).")
    gr = load_gradio()
    fastapi = require("fastapi", extra="app")
    catalogues, uploads = catalogues_of(indexes, limits), Uploads(limits.bytes, keep)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        threading.Thread(target=_warm, args=(catalogues,), daemon=True).start()
        tidying = asyncio.create_task(_tidy(uploads))
        try:
            yield
        finally:
            tidying.cancel()
            with suppress(asyncio.CancelledError):
                await tidying

    app = fastapi.FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    add_routes(app, catalogues)
    _mount(gr, app, Page(gr, catalogues, title, results, examples, keep).build(), limits.bytes)
    app.add_middleware(Gate, uploads=uploads)
    return app


def _mount(gr: Any, app: Any, blocks: Any, most_bytes: int) -> None:
    """Puts the page into the app, with everything of Gradio's that it does not need left out."""
    gr.mount_gradio_app(
        app, blocks, path="/", theme=page_theme(gr), css=page_css(), max_file_size=most_bytes, allowed_paths=[],
        show_error=False, ssr_mode=False, enable_monitoring=False, run_history=False, mcp_server=False, pwa=False,
        footer_links=["api"], app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )  # fmt: skip
    blocks.has_launched = True  # else Gradio takes any path of this machine for an upload


def serve(app: Any, host: str = "127.0.0.1", port: int = 7860, *, open_browser: bool = False) -> None:
    """Runs the page until it is stopped by Ctrl-C.

    Args:
        app: of `build_app`.
        host: `0.0.0.0` lets others in.
        port: of the page.
        open_browser: show it.
    """
    uvicorn = require("uvicorn", extra="app")
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3))
    if open_browser:
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        threading.Timer(1.0, webbrowser.open, [f"http://{shown}:{port}/"]).start()
    server.run()


def free_port(host: str, port: int, tries: int = 100) -> int:
    """The port, or the next that nobody else has."""
    for number in range(port, port + tries):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind((host, number))
                return number
            except PermissionError:
                raise ValueError(f"Port {number} is not for everybody: choose one from 1024 on by --port.") from None
            except socket.gaierror:
                raise ValueError(f"{host} is no address of this machine: expected one like 127.0.0.1.") from None
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise ValueError(f"Nothing can listen at {host}, port {number} ({error}).") from None
    raise ValueError(f"The ports {port} to {port + tries - 1} are all taken: choose another by --port.")


def _warm(catalogues: Sequence[Catalogue]) -> None:
    """Loads what the first search would wait for; where that fails, the search says why."""
    for catalogue in catalogues:
        try:
            _ = catalogue.plane, catalogue.index.processor
        except Exception as error:
            logger.warning("%s has no model at hand to search by files with: %s", catalogue.name, error)


async def _tidy(uploads: Uploads) -> None:
    """Removes old uploads, every minute."""
    while True:
        await asyncio.sleep(min(60.0, uploads.keep))
        try:
            await asyncio.to_thread(uploads.tidy)
        except OSError as error:  # the next time, then
            logger.warning("Old uploads cannot be removed: %s", error)
