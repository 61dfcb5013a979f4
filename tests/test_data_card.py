"""What the card says, to `datasets` and to a person."""

import xml.etree.ElementTree as ElementTree

import pytest
from huggingface_hub import DatasetCard

from modeling_dualspace.data_card import UNLABELLED, ConfigFacts, DataCard, SplitFacts, clips_per_class, write_card
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import Description, feature_columns

NAMES = ["dog", "rodents, rats & mice", "<drum>"]


def config(name="default", splits=None, notes=(), synthetic=False, shared=False):
    splits = splits or {"train": {"dog": 700, NAMES[1]: 40, "<drum>": 5}, "test": {"dog": 60, NAMES[1]: 9}}
    source = FeatureSource(
        name,
        feature_columns(128, 1024, NAMES),
        {split: [] for split in splits},
        lambda part: [],
        notes=notes,
        shared=shared,
    )
    facts = [
        SplitFacts(
            split,
            sum(counts.values()),
            4 * sum(counts.values()),
            [f"data/{name}/{split}-00000-of-00001.parquet"],
            counts,
        )
        for split, counts in splits.items()
    ]
    return ConfigFacts(source, Description("f" * 16, "a@1", "v@2", synthetic), facts)


def written(folder, *configs, **settings):
    write_card(folder, "toy", DataCard("Toy", "toy-features", **settings), configs or [config()])
    return DatasetCard.load(folder / "README.md")


def test_the_yaml_declares_configurations_splits_sizes_and_tags(tmp_path):
    data = written(tmp_path, config(), config("other")).data.to_dict()
    assert data["license"] == "unknown" and data["size_categories"] == ["n<1K"]
    assert "cross-modal-retrieval" in data["tags"] and "synthetic" not in data["tags"]
    assert [one["config_name"] for one in data["configs"]] == ["default", "other"]
    assert [one.get("default") for one in data["configs"]] == [True, None]
    assert data["configs"][0]["data_files"][0] == {
        "split": "train",
        "path": "data/default/train-?????-of-?????.parquet",
    }
    assert [one["splits"][0]["num_examples"] for one in data["dataset_info"]] == [745, 745]
    assert data["dataset_info"][0]["description"].startswith("fingerprint=ffff")


def test_the_keys_of_a_column_stay_in_the_order_the_reader_needs(tmp_path):
    written(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.index("list: float32") < text.index("length: 128")


def test_the_prose_has_counts_columns_notes_and_the_lines_to_load_it(tmp_path):
    text = written(tmp_path, config(notes=["Row 7 is odd."]), config("other")).text
    assert "| dog | 700 | 60 |" in text and "| **clips** | **745** | **69** |" in text
    assert 'load_dataset("toy")' in text and 'load_dataset("toy", "other")' in text
    assert "| `visual_features` | 1024 x float32 |" in text
    assert "- Row 7 is odd (`default`)." in text
    assert "- The test split has no clip of <drum>.\n" in text  # of both
    assert "`" + "f" * 16 + "`" in text


def test_titles_and_classes_may_hold_any_character(tmp_path):
    write_card(tmp_path, "toy", DataCard('Films: "mine" | yours', "toy"), [config()])
    assert DatasetCard.load(tmp_path / "README.md").data.pretty_name == 'Films: "mine" | yours'


def test_a_split_that_nobody_annotated_is_counted_and_said(tmp_path):
    text = written(tmp_path, config(splits={"train": {"dog": 3, NAMES[1]: 1, "<drum>": 1, UNLABELLED: 9}})).text
    assert f"| {UNLABELLED} | 9 |" in text and "9 clips of the train split have no label." in text


def test_what_is_made_up_says_so(tmp_path):
    assert "synthetic" in written(tmp_path, config(synthetic=True)).data.tags


def test_each_configuration_has_a_figure_and_folds_share_theirs(tmp_path):
    text = written(tmp_path, config("all"), config("few", {"train": dict.fromkeys(NAMES, 1)})).text
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["clips-per-class-few.svg", "clips-per-class.svg"]
    assert text.index("### `few`") < text.index("](clips-per-class-few.svg)") < text.index("| dog | 1 |")
    text = written(tmp_path, config("fold0", shared=True), config("fold1", shared=True)).text
    assert text.count("![") == 1


def test_the_figure_is_an_image_whose_bars_have_the_length_of_the_counts():
    figure = ElementTree.fromstring(clips_per_class(config()))
    bars = [one for one in figure.iter("{http://www.w3.org/2000/svg}rect") if one.get("height") == "16"]
    lengths = [float(bar.get("width")) for bar in bars]
    assert lengths == pytest.approx([length * 420 / 760 for length in (700, 60, 40, 9, 5, 0)], abs=0.1)
    labels = [one.text for one in figure.iter("{http://www.w3.org/2000/svg}text")]
    assert NAMES[1] in labels and "760" in labels


def test_a_template_may_fill_blocks_and_a_misspelt_value_is_an_error(tmp_path):
    template = tmp_path / "card.md"
    template.write_text(
        '{% extends "data_card.md" %}{% block metadata %}\nlicense: mit\n{% endblock %}'
        "{% block provenance %}From {{ configs[0].name }}.{% endblock %}"
    )
    card = written(tmp_path, template=template)
    assert card.data.license == "mit" and "From default." in card.text
    template.write_text('{% extends "data_card.md" %}{% block provenance %}{{ wrong }}{% endblock %}')
    with pytest.raises(ValueError, match=r"card.md.*'wrong' is undefined"):
        written(tmp_path, template=template)
