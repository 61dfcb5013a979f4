"""Synthetic features of VEGAS's shape: 28,103 rows of 128 and 1024, ten classes. A stand-in to run recipes on.

    python dataset_scripts/synthetic_features.py --out vegas-features-synthetic

Then `load_dataset("vegas-features-synthetic")`. Everything is made up. The rows are calibrated so that linear CCA and
cluster CCA come out near what is published for VEGAS; nothing measured on them stands beside a figure of the paper.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_builder import FeatureBuilder, FeatureConfig, build
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.splits import SPLITS, carve_validation
from modeling_dualspace.synthetic import CLASSES, synthetic_chunks

ROWS, TEST_ROWS = 28_103, 5_621


@dataclass
class SyntheticConfig(FeatureConfig):
    """How much to make up."""

    rows: int = ROWS
    seed: int = 0


class SyntheticFeatures(FeatureBuilder):
    """Features that nobody recorded."""

    BUILDER_CONFIG_CLASS = SyntheticConfig
    CARD = DataCard(
        "VEGAS features, synthetic",
        "vegas-features-synthetic",
        Path(__file__).parent / "cards" / "synthetic_features.md",
    )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """`--rows` and `--seed`."""
        parser.add_argument("--rows", type=int, default=ROWS, help="of all splits together [%(default)s]")
        parser.add_argument("--seed", type=int, default=0, help="another draw from the same world [%(default)s]")

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """A fifth of the rows is test, a tenth of the others validation, as the builder of VEGAS has it."""
        assert isinstance(settings, SyntheticConfig)
        test = round(settings.rows * TEST_ROWS / ROWS)
        sizes = {"train": settings.rows - test, "test": test}
        seeds = {"train": 2 * settings.seed, "test": 2 * settings.seed + 1}
        if min(sizes.values()) < 1:
            raise ValueError(f"Expected rows for train and for test, got --rows {settings.rows}.")

        ids = [f"train/{row:06d}" for row in range(sizes["train"])]
        # Classes do not hang on widths: the narrowest clips name them soonest.
        narrow = synthetic_chunks(sizes["train"], seeds["train"], audio_dim=1, visual_dim=1)
        labels = [label for chunk in narrow for label in chunk["labels"].tolist()]
        held = np.array(carve_validation(ids, labels), dtype=bool)
        chosen = {"train": ~held, "validation": held, "test": np.ones(test, dtype=bool)}

        return FeatureSource(
            name="default",
            features=feature_columns(128, 1024, CLASSES),
            splits={split: [f"default/{split}"] for split in SPLITS},
            rows=functools.partial(_rows, sizes, seeds, chosen),
            audio="synthetic",
            visual="synthetic",
            synthetic=True,
            lengths={f"default/{split}": int(mask.sum()) for split, mask in chosen.items()},
            facts={"rows": settings.rows, "seed": settings.seed},
        )


def _rows(
    sizes: Mapping[str, int], seeds: Mapping[str, int], chosen: Mapping[str, np.ndarray], part: str
) -> Iterator[dict[str, Any]]:
    """Draws a part: the rows of train that are not validation, those that are, or those of test."""
    split, start = part.split("/")[1], 0
    drawn_for = "test" if split == "test" else "train"
    for drawn in synthetic_chunks(sizes[drawn_for], seeds[drawn_for]):
        mask = chosen[split][start : start + len(drawn["labels"])]
        columns = {name: column.numpy()[mask] for name, column in drawn.items()}
        ids = [f"{drawn_for}/{start + row:06d}" for row in np.flatnonzero(mask)]
        yield {"clip_id": ids, "label": columns.pop("labels"), **columns}
        start += len(mask)


def main(argv: list[str] | None = None) -> int:
    """Builds the folder; returns the exit code."""
    return build(SyntheticFeatures, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
