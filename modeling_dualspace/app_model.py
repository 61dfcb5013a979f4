"""What the page says of a model and of its index: results as a table, their figures, and how everything is used."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .app_files import in_words, kept_for
from .app_search import Catalogue
from .figure_style import to_svg
from .report_pictures import Picture, result_pictures, training_pictures
from .report_sources import Source, key_of, read_sources
from .results import check_result, headline, notes_of, read_run
from .retrieval_scores import DIRECTIONS

logger = logging.getLogger(__name__)

PLACES = ("map_audio_to_visual", "map_visual_to_audio", "map")
NAMES = ("Sound finds video", "Video finds sound", "Mean")


def model_html(catalogue: Catalogue, paths: Sequence[str | Path] | None = None) -> str:
    """Everything that is known of the model of an index.

    Args:
        catalogue: the index.
        paths: of runs and results; None takes the run that the model lies in, if there is one.
    """
    facts = catalogue.facts
    parts = [f"<h2>{escape(catalogue.name)}</h2>", _facts(facts)]
    try:
        sources = _sources(catalogue.index.model_place, paths)
        results = [(source, result) for source in sources for result in source.results]
        for source, result in results:
            check_result(result, f"The result of {source.name}")
        parts.append(_table(results))
        parts += _figures(sources)
    except (ValueError, OSError) as error:
        logger.warning("The results are left out: %s", error)
        parts.append('<p class="ds-muted">The results beside this model cannot be read, so they are left out.</p>')
    return f'<div class="ds-prose">{"".join(parts)}</div>'


def _sources(model: str, paths: Sequence[str | Path] | None) -> list[Source]:
    if paths is not None:
        return read_sources(paths)
    run = read_run(model)
    return read_sources([run.folder]) if run.folder is not None else []


def _facts(facts: Mapping[str, Any]) -> str:
    model = facts["model"]
    rows = {
        "Kind": model["model_type"],
        "Embeddings": f"{model['dim']} {'bits' if model.get('codes') else 'numbers'} a clip and track",
        "Features": model.get("feature_spec") or "nobody said what makes them",
        "Fingerprint": model["fingerprint"],
    }
    return _list(rows)


def _list(rows: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in rows.items())
    return f'<dl class="ds-facts">{items}</dl>'


def _table(results: Sequence[tuple[Source, Mapping[str, Any]]]) -> str:
    """A row a result."""
    if not results:
        return (
            '<p class="ds-muted">No result lies beside this model: <code>dualspace evaluate MODEL DATA</code> measures '
            "how well it retrieves.</p>"
        )
    body, notes = [], []
    for source, result in results:
        data, metrics = result["data"], result["metrics"]
        kind, values = _values(metrics)
        what = f"{Path(str(data['id'])).name}, {data['split']}{' (synthetic)' if data['synthetic'] else ''}"
        cells = [source.name, what, f"{metrics['gallery']:,}", kind, *(f"{value:.4f}" for value in values)]
        tags = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        body.append(f"<tr>{tags}</tr>")
        notes += [note for note in notes_of(metrics) if note not in notes]
    head = "".join(f"<th>{word}</th>" for word in ("Model", "Data", "Clips", "Measure", *NAMES))
    tail = "".join(f'<p class="ds-muted">{escape(note)}</p>' for note in notes)
    return (
        '<h3>Results, measured</h3><div class="ds-scroll" tabindex="0" role="region" aria-label="results"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{tail}"
    )


def _values(metrics: Mapping[str, Any]) -> tuple[str, list[float]]:
    """The measure, and its values in both directions and on average."""
    found = list(headline(metrics).values())  # the mean comes first
    return found[0][0], [value for _, value in (*found[1 : 1 + len(DIRECTIONS)], found[0])]


def _figures(sources: Sequence[Source]) -> list[str]:
    numbers = {source.name: number for number, source in enumerate(sources)}
    keys = dict.fromkeys(key_of(result) for source in sources for result in source.results)
    pictures = [
        picture
        for key in keys
        for picture in result_pictures([each for each in sources if each.result(key)], key, numbers, _tail(*key))
    ]
    pictures = [picture for picture in pictures if _has_course(picture)] + [*training_pictures(sources, numbers)]
    try:
        drawn = [_figure(picture) for picture in pictures]
    except ModuleNotFoundError as error:
        return [f'<p class="ds-muted">The curves are left out. {escape(str(error))}</p>']
    return [f'<div class="ds-figures">{"".join(drawn)}</div>'] if drawn else []


def _has_course(picture: Picture) -> bool:
    """Whether a curve has two points to go between: from 10 on, where the galleries are small, it may not."""
    curves = getattr(picture.draw, "keywords", {}).get("curves")
    return curves is None or any(sum(int(k) >= 10 for k in curve) > 1 for curve in curves.values())


def _tail(fingerprint: str, split: str) -> str:
    return re.sub(r"[^\w-]+", "-", f"{split}-{fingerprint[:4]}").strip("-")


def _figure(picture: Picture) -> str:
    svg = to_svg(picture.draw, f"ds-{picture.name}", f"{picture.title}. {picture.caption}")
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)  # which would be one of the whole page
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f"<figure><h3>{escape(picture.title)}</h3>{svg}{caption}</figure>"


def about_html(catalogues: Sequence[Catalogue], keep: float) -> str:
    """What is searched here, what happens to what a visitor sends, and how a program asks.

    Args:
        catalogues: the indexes.
        keep: seconds that an upload is kept.
    """
    parts = [*(_index(catalogue) for catalogue in catalogues), _promises(catalogues[0], keep), PROGRAM]
    return f'<div class="ds-prose">{"".join(parts)}</div>'


def _index(catalogue: Catalogue) -> str:
    facts = catalogue.facts
    labels = facts["labels"]
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(labels.items())[:40])
    having = facts.get("with", facts)
    rows = {
        "Clips": f"{facts['clips']:,}, of {facts['films']:,} films",
        "With sound": f"{having['audio']:,}",
        "With pictures": f"{having['visual']:,}",
        "Labels": (shown + (f" and {len(labels) - 40} more" if len(labels) > 40 else "")) or "none",
        "Searched": facts["engine"],
    }
    if facts.get("bytes") is not None:
        rows["Size"] = in_words(int(facts["bytes"]))
    if catalogue.metadata:
        rows["Filters"] = ", ".join(catalogue.metadata)
    return f"<h2>{escape(catalogue.name)}</h2>{_list(rows)}"


def _promises(catalogue: Catalogue, keep: float) -> str:
    limits = list(_limits(catalogue))
    said = f" It may have {' and '.join(limits)} at most." if limits else ""
    return (
        "<h2>What happens to your files</h2><p>What you send or record is turned into a vector, and kept for "
        f"{kept_for(keep)} after you last searched with it. Nobody else can fetch it.{said}</p>"
    )


def _limits(catalogue: Catalogue) -> Iterator[str]:
    limits = catalogue.limits
    if limits.bytes is not None:
        yield in_words(limits.bytes)
    if limits.seconds is not None:
        minutes = limits.seconds / 60
        yield f"{minutes:g} minutes" if minutes >= 2 else f"{limits.seconds:g} seconds"


PROGRAM = """<h2>From a program</h2>
<pre><code>from gradio_client import Client, handle_file

client = Client("ADDRESS OF THIS PAGE")
for hit in client.predict(handle_file("bark.wav"), k=5, api_name="/search_by_sound"):
    print(hit["score"], hit["film"], hit["start"], hit["labels"])</code></pre>
<p>There are <code>/search_by_sound</code>, <code>/search_by_film</code>, <code>/search_by_picture</code>,
<code>/search_by_clip</code> and <code>/describe</code>; what each takes is said under “Use via API” below.</p>"""


def style_variables(light: Sequence[str], dark: Sequence[str]) -> str:
    """The project's colours, for both themes, as a page has them."""

    def named(colours: Sequence[str]) -> str:
        return " ".join(f"--series-{number}: {colour};" for number, colour in enumerate(colours))

    return f":root {{ {named(light)} }}\n.dark {{ {named(dark)} }}\n" + "\n".join(
        f".series-{number} {{ --c: var(--series-{number}); }}" for number in range(len(light))
    )
