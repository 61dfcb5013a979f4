"""The page: what asks on the left, what was found on the right, and what it was found with."""

import threading
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .app_api import TOGETHER, Endpoints, chosen, picture_input
from .app_map import marks_of
from .app_model import about_html, model_html, style_variables
from .app_query import MOST, Asked, RefusedError, Wish
from .app_results import EMPTY, error_html, examples_html, pick_examples, results_html
from .app_search import Catalogue
from .figure_style import DARK, LIGHT
from .index_rows import OTHER

NOTHING = "There is nothing to search with yet: drop a file, record something, or take one of the clips below."
QUIET: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
SEARCH: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", **TOGETHER}


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def page_css() -> str:
    """The style sheet, with the colours of the project's figures."""
    return style_variables(LIGHT, DARK) + "\n" + _read("app_page.css")


def page_theme(gr: Any) -> Any:
    """Gradio's plainest, in the fonts that are there: none is fetched."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    blue = {"button_primary_background_fill": "#0067a3", "button_primary_background_fill_hover": "#00588c"}
    blue |= {"button_primary_text_color": "#ffffff", "color_accent": "#0067a3", "slider_color": "#0067a3"}
    dark = {f"{name}_dark": value for name, value in blue.items()} | {"slider_color_dark": "#6bbcf0"}
    dark |= {"body_background_fill_dark": "#0f1217", "block_background_fill_dark": "#171b22"}
    dark |= {"body_text_color_subdued": "#5c626d", "body_text_color_subdued_dark": "#a0a8b5"}
    known = {name: value for name, value in (blue | dark).items() if hasattr(theme, name)}
    return theme.set(**known, checkbox_background_color_selected="#0067a3", checkbox_border_color_selected="#0067a3")


class Page:
    """One page over some indexes.

    Args:
        gr: Gradio.
        catalogues: the indexes.
        title: of the page.
        results: runs and results that the model's tab shows; None takes what lies beside each model.
        examples: names of clips to begin with, of the first index; None chooses some.
        keep: seconds that an upload is kept.
    """

    def __init__(
        self, gr: Any, catalogues: Sequence[Catalogue], title: str, results: Sequence[str | Path] | None,
        examples: Sequence[str] | None, keep: float,
    ):  # fmt: skip
        self.gr, self.catalogues, self.title, self.keep = gr, catalogues, title, keep
        self.results, self.examples = results, examples
        self._models: dict[int, str] = {}
        self._drawing = threading.Lock()

    def build(self) -> Any:
        """Gradio's blocks."""
        gr = self.gr
        with gr.Blocks(title=self.title, analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML(self._header(), apply_default_css=False)
            with gr.Tabs():
                with gr.Tab("Search"), gr.Row(equal_height=False):
                    with gr.Column(scale=1, min_width=310, elem_id="ds-ask"):
                        self._ask()
                    with gr.Column(scale=3, min_width=310, elem_id="ds-found"):
                        self._found()
                with gr.Tab("Model") as model_tab:
                    shown = gr.HTML(apply_default_css=False)
                with gr.Tab("About"):
                    gr.HTML(about_html(self.catalogues, self.keep), apply_default_css=False)
            model_tab.select(self.model, self.name, shown, api_visibility="private", show_progress="minimal")
            self._connect()
            Endpoints(gr, self.catalogues).add()
        return blocks.queue(default_concurrency_limit=4, max_size=200, api_open=False)

    def _header(self) -> str:
        clips = sum(len(each.index) for each in self.catalogues)
        labels = {label for each in self.catalogues for label in each.labels}
        said = f"{clips:,} clips" + (f", {len(labels):,} labels" if labels else "")
        words = f"<p>{said}: find them by sound and by sight.</p>"
        return f'<header class="ds-header"><h1>{escape(self.title)}</h1>{words}</header>'

    def _ask(self) -> None:
        """What a visitor searches with, and how."""
        gr, first, names = self.gr, self.catalogues[0], [each.name for each in self.catalogues]
        self.kind = gr.Textbox("sound", visible=False)
        with gr.Tabs():
            with gr.Tab("Sound") as self.sound_tab:
                self.sound = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    show_label=False,
                    label="A sound",
                    elem_id="ds-sound",
                )
            with gr.Tab("Film") as self.film_tab:
                self.film = gr.Video(
                    sources=["upload", "webcam"], include_audio=True, show_label=False, label="A film",
                    webcam_options=gr.WebcamOptions(mirror=False), elem_id="ds-film",
                )  # fmt: skip
                choices = [("its pictures", "visual"), ("its sound", "audio")]
                self.modality = gr.Radio(choices, value="visual", label="Search with", elem_id="ds-modality")
            with gr.Tab("Picture") as self.picture_tab:
                self.picture = picture_input(
                    gr, sources=["upload", "webcam", "clipboard"], show_label=False, label="A picture",
                    elem_id="ds-picture",
                )  # fmt: skip
        choices = [("pictures", "visual"), ("sounds", "audio")]
        self.among = gr.Radio(choices, value="visual", label="Search among", elem_id="ds-among")
        self._filters(first)
        self.name = gr.Dropdown(
            names, value=names[0], label="Model and index", visible=len(names) > 1, elem_id="ds-model"
        )
        self.button = gr.Button("Search", variant="primary", elem_id="ds-go")
        script = _read("app_results.js")
        hits = pick_examples(first, self.examples)
        self.begin = gr.HTML(examples_html(first, hits), js_on_load=script, apply_default_css=False, elem_id="ds-begin")

    def _filters(self, first: Catalogue) -> None:
        """What may be found, and how much of it."""
        gr = self.gr
        with gr.Accordion("Filter, and how many", open=False, elem_id="ds-filter"):
            self.labels = gr.Dropdown(first.labels, multiselect=True, label="Labels, any of which", elem_id="ds-labels")
            self.where = gr.Textbox(
                label="What is known of a clip", placeholder="year>=2010, city=Oslo", elem_id="ds-where"
            )
            self.films = gr.Checkbox(label="The best clip of each film only")
            self.k = gr.Slider(1, MOST, 12, step=1, label="Clips, at most", elem_id="ds-k")

    def _found(self) -> None:
        """Where the answer goes."""
        gr = self.gr
        with gr.Tabs():
            with gr.Tab("Clips"):
                script = _read("app_results.js")
                self.cards = gr.HTML(EMPTY, js_on_load=script, apply_default_css=False, elem_id="ds-results")
            with gr.Tab("Map"):
                self.map = gr.HTML(
                    {"map": 0},
                    html_template=_read("app_map.html"),
                    js_on_load=_read("app_map.js"),
                    apply_default_css=False,
                    elem_id="ds-map",
                )

    def _connect(self) -> None:
        """What happens when."""
        gr = self.gr
        media, settings = [self.sound, self.film, self.picture, self.modality], self._settings
        found: dict[str, Any] = {"outputs": [self.cards, self.map], **SEARCH}

        def by_clip(event, *values):
            return self.by_clip(event._data, *values)

        by_clip.__annotations__["event"] = gr.EventData
        gr.on([self.button.click, self.where.submit], self.by_file, [self.kind, *media, *settings], **found)
        for kind, events in {
            "sound": [self.sound.upload, self.sound.stop_recording],
            "film": [self.film.upload, self.film.stop_recording],
            "picture": [self.picture.input],
        }.items():
            gr.on(events, self._of(kind), [*media, *settings], **found)
        for clips in (self.cards, self.map, self.begin):
            clips.select(by_clip, settings, **found)
        # Each kind of file asks by one modality, and finds by the other unless somebody says otherwise. The browser
        # sees to it alone: who drops a file at once is not to wait for an answer.
        other = '(modality === "audio" ? "visual" : "audio")'
        turns = {"sound": (self.sound_tab, '"visual"'), "film": (self.film_tab, other)}
        turns["picture"] = (self.picture_tab, '"audio"')
        for kind, (tab, among) in turns.items():
            tab.select(None, self.modality, [self.kind, self.among], js=f'(modality) => ["{kind}", {among}]')
        self.modality.change(None, self.modality, self.among, js=f"(modality) => {other}")
        self.name.change(self.turn, self.name, [self.labels, self.begin, self.map, self.cards], **QUIET)

    @property
    def _settings(self) -> list[Any]:
        return [self.among, self.k, self.labels, self.where, self.films, self.name]

    def _of(self, kind: str) -> Callable[..., Any]:
        def by_this_file(*values):
            return self.by_file(kind, *values)

        return by_this_file

    def by_file(self, kind, sound, film, picture, modality, among, k, labels, where, per_film, name):
        """Searches with what was sent."""
        queries = {
            "sound": Asked("audio", sound),
            "film": Asked(modality, film),
            "picture": Asked("visual", picture, picture=True),
        }
        if not queries[kind].path:
            return error_html(NOTHING), self.gr.skip()
        return self._answer(chosen(self.catalogues, name), queries[kind], Wish(among, k, labels, where, per_film))

    def by_clip(self, event, among, k, labels, where, per_film, name):
        """Searches with a clip: by the modality of it that was shown, or by the one that finds what is looked for."""
        number, modality = int(event["map"]), event.get("modality")
        catalogue = self.catalogues[number if 0 <= number < len(self.catalogues) else 0]
        if modality in OTHER:
            among = OTHER[modality]
        query = Asked(modality if modality in OTHER else OTHER[among], clip_id=str(event["clip_id"]))
        return self._answer(catalogue, query, Wish(among, k, labels, where, per_film))

    def _answer(self, catalogue: Catalogue, query: Asked, wish: Wish) -> tuple[Any, Any]:
        """What is shown: cards, and marks on the map."""
        try:
            answer = catalogue.search(query, wish)
        except RefusedError as error:
            return error_html(str(error)), self.gr.skip()
        return results_html(catalogue, answer), marks_of(catalogue, answer)

    def turn(self, name):
        """Another index: its labels, its clips to begin with, its map."""
        catalogue, gr = chosen(self.catalogues, name), self.gr
        begin = examples_html(catalogue, pick_examples(catalogue, None))
        return gr.update(choices=catalogue.labels, value=[]), begin, {"map": catalogue.number}, EMPTY

    def model(self, name):
        """The model's table and curves, drawn once."""
        catalogue = chosen(self.catalogues, name)
        with self._drawing:
            if catalogue.number not in self._models:
                self._models[catalogue.number] = model_html(catalogue, self.results)
            return self._models[catalogue.number]
