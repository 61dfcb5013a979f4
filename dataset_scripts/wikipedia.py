"""Wikipedia (Rasiwasia et al., 2010): images and texts, 2,173 for train and 693 for test, ten categories.

    python dataset_scripts/wikipedia.py --source wikipedia --out wikipedia-features

Then `load_dataset("wikipedia-features")`. The source is a folder with raw_features.mat (I_tr, T_tr, I_te, T_te),
trainset_txt_img_cat.list, testset_txt_img_cat.list and categories.list. It holds no sound: images (128 SIFT histogram
values) are `visual_features`, texts (10 topics) stand in for `audio_features`. What is called audio_to_visual is text
to image, visual_to_audio is image to text.
"""

import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_builder import FeatureBuilder, FeatureConfig, build, read_class_order
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.feature_sources import class_numbers, lines_of
from modeling_dualspace.splits import SPLITS, carve_validation

TEXT, IMAGE = 10, 128
LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
SUFFIX = {"train": "tr", "test": "te"}


class Wikipedia(FeatureBuilder):
    """Wikipedia features: images as the visual modality, texts in place of audio."""

    CARD = DataCard(
        "Wikipedia features",
        "wikipedia-features",
        Path(__file__).parent / "cards" / "wikipedia.md",
        columns={
            "clip_id": "the text's file name in the source",
            "audio_features": "the text: its ten topics. There is no sound in this set",
            "visual_features": "the image: a histogram of 128 visual words",
        },
    )
    WHERE_FROM = (
        "The set is distributed by the Statistical Visual Computing Lab of UC San Diego as 'Cross-Modal Multimedia "
        "Retrieval': its folder `features` holds raw_features.mat and the lists."
    )

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """Reads the file and the lists: all of it is a few megabytes."""
        source = Path(settings.source)
        order = Path(settings.class_order or source / "categories.list")
        if not order.is_file():
            raise ValueError(f"Expected the names of the ten categories in {order}, and found none.")
        names = read_class_order(str(order), 10)
        rows = {split: _split(source, split, len(names)) for split in LISTS}
        train = rows["train"]
        held = np.array(carve_validation(train["clip_id"], train["label"].tolist()), dtype=bool)
        rows = {"train": _select(train, ~held), "validation": _select(train, held), "test": rows["test"]}

        return FeatureSource(
            name="default",
            features=feature_columns(TEXT, IMAGE, names),
            splits={split: [f"default/{split}"] for split in SPLITS},
            rows={f"default/{split}": [chosen] for split, chosen in rows.items()}.__getitem__,
            audio="lda-topics@wikipedia",
            visual="sift-histogram@wikipedia",
            lengths={f"default/{split}": len(chosen["label"]) for split, chosen in rows.items()},
            notes=_shared_articles(rows),
            facts={"class_order": "with `--class-order`" if settings.class_order else "in `categories.list`"},
        )


def _split(source: Path, split: str, classes: int) -> dict[str, Any]:
    texts, images, labels = _read_list(source / LISTS[split], classes)
    arrays = _read_mat(source / "raw_features.mat")
    columns = {}
    for name, key, width in (("audio_features", "T", TEXT), ("visual_features", "I", IMAGE)):
        array = arrays.get(f"{key}_{SUFFIX[split]}")
        fits = isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and array.shape == (len(texts), width)
        if not fits:
            came = "no such key" if array is None else f"{getattr(array, 'dtype', '')} {getattr(array, 'shape', '')}"
            raise ValueError(
                f"{source / 'raw_features.mat'}: expected {key}_{SUFFIX[split]} of shape ({len(texts)}, {width}), as "
                f"{LISTS[split]} has rows, got {came}."
            )
        columns[name] = array
    return {"clip_id": texts, **columns, "label": labels}


def _shared_articles(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A text is a section, `<article>-<section>`: the authors split sections, so splits share articles."""
    articles = {split: {text.rpartition("-")[0] for text in chosen["clip_id"]} for split, chosen in rows.items()}
    counts = {pair: len(articles[pair[0]] & articles[pair[1]]) for pair in combinations(SPLITS, 2)}
    return [
        f"Texts are sections of articles: {count} articles have sections in both {first} and {second}."
        for (first, second), count in counts.items()
        if count
    ]


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:  # `datasets` has a loadmat of its own that would leave it open
            return scipy.io.loadmat(file)
    except Exception as error:  # of many kinds: its parsers raise what they like
        raise ValueError(f"{path} is no .mat file that can be read ({error}).") from None


def _read_list(path: Path, classes: int) -> tuple[list[str], list[str], np.ndarray]:
    """`text image category` a line, categories counted from 1."""
    lines = [line.split() for line in lines_of(path) if line.strip()]
    wrong = [
        number for number, line in enumerate(lines, 1) if len(line) != 3 or not re.fullmatch("[0-9]{1,4}", line[2])
    ]
    if wrong or not lines:
        raise ValueError(
            f"{path}: expected `text image category` in each line, unlike line {wrong[0] if wrong else 1}."
        )
    labels = class_numbers(np.array([int(line[2]) for line in lines]) - 1, classes, str(path))
    return [line[0] for line in lines], [line[1] for line in lines], labels


def _select(rows: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    ids = [name for name, wanted in zip(rows["clip_id"], mask, strict=True) if wanted]
    return {"clip_id": ids} | {name: column[mask] for name, column in rows.items() if name != "clip_id"}


def main(argv: list[str] | None = None) -> int:
    """Builds the folder; returns the exit code."""
    return build(Wikipedia, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
