"""What programs call: endpoints with names, whose answers are JSON."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .app_query import MOST, Asked, RefusedError, Wish
from .app_search import Catalogue, public_facts

TOGETHER: dict[str, Any] = {"concurrency_limit": 4, "concurrency_id": "search"}
"""Searches that run at a time, of the page and of programs; more wait their turn."""
HITS = (
    "Returns a list of clips, the best first: clip_id, score (cosine), film, start and end (seconds), labels, "
    "metadata, and url, which is relative to the address of the page and None where the film is not there."
)


def chosen(catalogues: Sequence[Catalogue], name: str | None) -> Catalogue:
    """The index of that name."""
    return next((each for each in catalogues if each.name == name), catalogues[0])


class Endpoints:
    """What programs may ask.

    Args:
        gr: Gradio.
        catalogues: the indexes.
    """

    def __init__(self, gr: Any, catalogues: Sequence[Catalogue]):
        self.gr, self.catalogues = gr, catalogues

    def _search(self, query: Asked, settings: Sequence[Any]) -> list[dict[str, Any]]:
        among, k, labels, where, per_film, model = settings
        if not query.path and not query.clip_id:
            raise self.gr.Error("Nothing came to search with: send a file, or the id of a clip.", print_exception=False)
        catalogue = chosen(self.catalogues, model)
        wish = Wish(
            among if among in ("audio", "visual") else None, int(k or 0), labels or (), where or "", bool(per_film)
        )
        try:
            return catalogue.to_json(catalogue.search(query, wish).hits)
        except RefusedError as error:
            raise self.gr.Error(str(error), print_exception=False) from None

    def search_by_sound(self, sound, among, k, labels, where, per_film, model):
        """Clips whose pictures fit a sound."""
        return self._search(Asked("audio", sound), (among, k, labels, where, per_film, model))

    def search_by_film(self, film, modality, among, k, labels, where, per_film, model):
        """Clips that fit a film: its pictures, or its sound."""
        return self._search(Asked(modality, film), (among, k, labels, where, per_film, model))

    def search_by_picture(self, picture, among, k, labels, where, per_film, model):
        """Clips whose sound fits a picture."""
        return self._search(Asked("visual", picture, picture=True), (among, k, labels, where, per_film, model))

    def search_by_clip(self, clip_id, modality, among, k, labels, where, per_film, model):
        """Clips that fit one of the index."""
        return self._search(Asked(modality, clip_id=clip_id), (among, k, labels, where, per_film, model))

    def describe(self, model):
        """What an index holds, and whose embeddings they are."""
        return public_facts(chosen(self.catalogues, model))

    def add(self) -> None:
        """Adds them to the page that is being built, where nobody sees them."""
        gr, names = self.gr, [each.name for each in self.catalogues]
        labels = sorted({label for each in self.catalogues for label in each.labels})
        with gr.Column(visible=False):
            sound = gr.Audio(type="filepath", sources=["upload"], label="A file with sound; a film will do")
            film = gr.Video(sources=["upload"], include_audio=True, label="A film")
            picture = picture_input(gr, sources=["upload"], label="A picture")
            for media, name in ((sound, "bark.wav"), (film, "dog.mp4"), (picture, "dog.jpg")):
                # Gradio's own examples are addresses, and those are not searched with.
                shown = {"path": name, "meta": {"_type": "gradio.FileData"}}
                media.example_payload = media.example_value = functools.partial(dict, shown)
            clip_id = gr.Textbox(label="The id of a clip of the index")
            modality = gr.Radio(["audio", "visual"], value="visual", label="The track that asks")
            among = gr.Radio(["other", "audio", "visual"], value="other", label="The track that is searched")
            k = gr.Number(10, precision=0, minimum=1, maximum=MOST, label=f"How many clips, 1 to {MOST}")
            only = gr.Dropdown(
                labels, value=[], multiselect=True, allow_custom_value=True, label="Labels, any of which"
            )
            where = gr.Textbox("", label="What metadata must say: year>=2010, city=Oslo")
            per_film = gr.Checkbox(False, label="The best clip of each film only")
            model = gr.Dropdown(names, value=names[0], label="The index")
            found, button = gr.JSON(label="clips"), gr.Button()
        rest = [among, k, only, where, per_film, model]

        def endpoint(function: Callable[..., Any], inputs: list[Any], said: str) -> None:
            settings = {"api_name": function.__name__, "api_description": said, **TOGETHER}
            button.click(function, inputs, found, **settings)

        endpoint(self.search_by_sound, [sound, *rest], f"Finds clips whose pictures fit a sound. {HITS}")
        endpoint(
            self.search_by_film,
            [film, modality, *rest],
            f"Finds clips that fit a film, by its pictures or its sound. {HITS}",
        )
        endpoint(self.search_by_picture, [picture, *rest], f"Finds clips whose sound fits a picture. {HITS}")
        endpoint(self.search_by_clip, [clip_id, modality, *rest], f"Finds clips that fit one of the index. {HITS}")
        endpoint(self.describe, [model], "What an index holds: clips, films, labels, and whose embeddings they are.")


def picture_input(gr: Any, **settings: Any) -> Any:
    """A place for pictures that hands over the file: Gradio's own opens it first, however large it is inside."""
    image = gr.Image(type="filepath", image_mode=None, **settings)
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image
