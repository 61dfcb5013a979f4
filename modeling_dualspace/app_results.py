"""What was found, as HTML: a card with a player for each clip. Whatever comes from data is escaped.

The page sets these strings as a whole (`${value}`): in a template of Gradio's, `{{...}}` would run them as code.
"""

import mimetypes
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from .app_map import times
from .app_query import WORDS, Answer
from .app_search import Catalogue
from .index_rows import Hit

EMPTY = """<div class="ds-empty"><h2>Find video by sound, and sound by video</h2>
<p>Drop a sound, a film or a picture, or record one. The clips that fit it best are shown here.</p></div>"""


def results_html(catalogue: Catalogue, answer: Answer) -> str:
    """All cards, and one line about them."""
    if not answer.hits:
        return f'{_line(answer)}<p class="ds-note" role="status">{escape(answer.note)}</p>'
    cards = "".join(_card(catalogue, hit, rank, answer.among) for rank, hit in enumerate(answer.hits, start=1))
    return f'{_line(answer)}<ol class="ds-cards">{cards}</ol>'


def error_html(sentence: str) -> str:
    """What went wrong, in one sentence."""
    return f'<p class="ds-note ds-error" role="alert">{escape(sentence)}</p>'


def examples_html(catalogue: Catalogue, hits: Sequence[Hit]) -> str:
    """Clips to begin with, a button each."""
    if not hits:
        return ""
    buttons = "".join(_example(catalogue, hit) for hit in hits)
    return f'<h3 class="ds-small">Or begin with one of these clips</h3><div class="ds-examples">{buttons}</div>'


def labels_html(catalogue: Catalogue, labels: Sequence[str]) -> str:
    """Labels in their colours, as the map has them."""
    return "".join(
        f'<span class="ds-label"><i class="dot {_style(catalogue.colours.get(label))}"></i>{escape(label)}</span>'
        for label in labels
    )


def player_html(url: str | None, name: str, *, sound: bool | None = None, extra: str = "") -> str:
    """A film, or a sound, that starts where the clip does.

    Args:
        url: of the clip; None where its film is not here.
        name: of the file.
        sound: whether there is nothing to see; None asks the name.
        extra: attributes.
    """
    if url is None:
        return '<p class="ds-gone">The film of this clip is not here.</p>'
    sound = is_sound(name) if sound is None else sound
    tag = "audio" if sound else "video playsinline"
    label = f'aria-label="{escape(name)}"'
    return f'<{tag} controls preload="none" src="{escape(url)}" {label} {extra}></{tag.split()[0]}>'


def is_sound(name: str) -> bool:
    """Whether a file of this name has nothing to see."""
    return (mimetypes.guess_type(name)[0] or "").startswith("audio/")


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{max(1, round(1000 * seconds))} ms"


def _line(answer: Answer) -> str:
    query, count = answer.query, len(answer.hits)
    what = "the picture" if query.picture else f"the {WORDS[query.modality]} of"
    found = f"{count} clip{'' if count == 1 else 's'} by {'their ' + WORDS[answer.among]}"
    return (
        f'<p class="ds-line" role="status"><b>{found}</b> for {what} <q>{escape(query.name)}</q>'
        f'<span class="ds-took">{_took(answer.seconds)}</span></p>'
    )


def _card(catalogue: Catalogue, hit: Hit, rank: int, among: str) -> str:
    name = hit.path or hit.clip_id
    url = catalogue.url(hit)
    score = "" if hit.score != hit.score else f"{hit.score:.2f}"
    share = 100 * min(1.0, max(0.0, 0.0 if hit.score != hit.score else hit.score))
    sound = is_sound(name)
    more = _details(hit)
    return (
        f'<li class="ds-card{" ds-sound" if sound else ""}" data-clip="{escape(hit.clip_id)}">'
        f'<div class="ds-frame">{player_html(url, name, sound=sound)}</div>'
        f'<div class="ds-head"><span class="ds-rank">{rank}</span>{labels_html(catalogue, hit.labels)}'
        f'<span class="ds-score" title="cosine of the embeddings">{score}</span></div>'
        f'<div class="ds-bar" aria-hidden="true"><i style="width:{share:.0f}%"></i></div>'
        f'<div class="ds-where"><span class="ds-name" title="{escape(name)}">{escape(_short(name))}</span>'
        f'<span class="ds-time">{times(hit)}</span></div>{more}'
        f'<button type="button" class="ds-again" data-clip="{escape(hit.clip_id)}" data-map="{catalogue.number}" '
        f'data-modality="{among}">Search with {"this sound" if among == "audio" else "these pictures"}</button></li>'
    )


def _details(hit: Hit) -> str:
    facts = {"clip": hit.clip_id, "film": hit.path, **hit.metadata}
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items() if value is not None
    )
    return f'<details class="ds-more"><summary>About this clip</summary><dl>{rows}</dl></details>'


def _example(catalogue: Catalogue, hit: Hit) -> str:
    name, url = hit.path or hit.clip_id, catalogue.url(hit)
    label = hit.labels[0] if hit.labels else _short(name)
    still = (
        ""
        if url is None or is_sound(name)
        else f'<video muted playsinline tabindex="-1" preload="none" src="{escape(url)}"></video>'
    )
    colour = _style(catalogue.colours.get(hit.labels[0])) if hit.labels else "none"
    return (
        f'<button type="button" class="ds-example" data-clip="{escape(hit.clip_id)}" data-map="{catalogue.number}" '
        f'title="{escape(name)}"><span class="ds-still">{still}</span>'
        f'<span class="ds-word"><i class="dot {colour}"></i><span>{escape(label)}</span></span></button>'
    )


def _style(colour: int | None) -> str:
    if colour is None:
        return "none"
    return f"series-{colour % 10}{' hollow' if colour // 10 % 2 else ''}"


def _short(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def pick_examples(catalogue: Any, wanted: Sequence[str] | None, count: int = 6) -> list[Hit]:
    """Clips of different labels whose films are here, out of the sample; or those that are named."""
    if wanted is not None:
        return [hit for hit in catalogue.index.get(list(wanted)) if hit is not None]
    there_are = [~np.isnan(rows).any(axis=1) for rows in catalogue.sample[1].values()]
    whole = [hit for hit, *there in zip(catalogue.sample[0], *there_are, strict=True) if all(there)]
    chosen: dict[str, Hit] = {}
    for fresh in (True, False):  # one of each label, and then whatever there is
        for hit in whole:
            if len(chosen) == count:
                break
            seen = {one.labels[:1] for one in chosen.values()}
            if hit.clip_id not in chosen and not (fresh and hit.labels[:1] in seen) and catalogue.url(hit) is not None:
                chosen[hit.clip_id] = hit
    return list(chosen.values())
