"""Configurations: what they accept, refuse, keep and derive."""

import copy
import pickle

import pytest

from modeling_dualspace import CrossModalConfig, DualSubspaceConfig


def test_defaults_are_the_paper_s_sizes_on_vegas():
    config = DualSubspaceConfig()
    assert (config.audio_dim, *config.audio_hidden, config.explicit_dim) == (128, 1024, 1024, 10)
    assert (config.visual_dim, *config.visual_hidden, config.explicit_dim) == (1024, 1024, 2048, 10)
    assert (config.implicit_dim, config.embed_dim, config.beta) == (10, 10, 0.001)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alhpa": 0.1}, "has no key `alhpa`. Did you mean `alpha`?"),
        ({"alpha": "big"}, "alpha"),
        ({"alpha": -1}, "`alpha` must be a finite number of at least 0, got -1"),
        ({"audio_dim": 0}, "`audio_dim` must be at least 1, got 0"),
        ({"explicit_dim": 0}, "`explicit_dim` must be at least 1, got 0"),
        ({"audio_hidden": [16, 0]}, r"`audio_hidden` must hold widths of at least 1, got \[16, 0\]"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0"),
        ({"activation": "rleu"}, "Did you mean 'relu'?"),
        ({"variant": "double"}, "double"),
        ({"num_labels": 0}, "`num_labels` must be a whole number of at least 1, got 0"),
        ({"num_labels": "3"}, "`num_labels` must be a whole number of at least 1, got '3'"),
        ({"id2label": {1: "dog", 5: "drum"}}, "without a gap, got .1, 5"),
        ({"id2label": {0: "dog", 1: "dog"}}, "a name of its own"),
        ({"id2label": {0: "dog", 1: "drum"}, "label2id": {"dog": 1, "drum": 0}}, "`label2id` and `id2label` disagree"),
        ({"fusion_ridge": float("nan")}, "`fusion_ridge` must be a finite number of at least 0, got nan"),
        ({"loss_weights": {"correlation": -1}}, "finite number of at least 0, got -1"),
        ({"turns": ["critic"]}, "must name model, in any order"),
        ({"num_labels": 3, "id2label": {0: "dog", 1: "drum"}}, "`num_labels` is 3, `id2label` names 2 classes"),
        ({"fusion_cluster_weight": 1.5}, "`fusion_cluster_weight` must lie in 0..1, got 1.5"),
        ({"loss_weights": {"discriminative": 1.0}}, "its weight is `alpha`"),
        ({"loss_weights": {"corelation": 1.0}}, "the model has no such term"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(settings, message):
    with pytest.raises(Exception, match=message):
        DualSubspaceConfig(**settings)


def test_a_field_is_checked_when_it_is_set_later_too():
    config = DualSubspaceConfig()
    with pytest.raises(Exception, match="variant"):
        config.variant = "double"


def test_class_names_decide_the_width_of_the_implicit_subspace():
    config = DualSubspaceConfig(id2label={0: "dog", 1: "drum"})
    assert config.num_labels == config.implicit_dim == 2
    assert config.label2id == {"dog": 0, "drum": 1}
    assert DualSubspaceConfig(label2id={"dog": 0, "drum": 1}).id2label == config.id2label


def test_output_width_depends_on_settings_alone():
    assert DualSubspaceConfig(num_labels=15, fusion="cca").output_dim == 10
    assert DualSubspaceConfig(num_labels=15).output_dim == 15
    assert DualSubspaceConfig(num_labels=15, variant="implicit").output_dim == 15
    assert DualSubspaceConfig(num_labels=15, variant="explicit").output_dim == 10


def test_every_setting_survives_saving(tmp_path):
    config = DualSubspaceConfig(
        alpha=0.5, id2label={0: "dog", 1: "drum"}, audio_hidden=[], fusion_choice={"ridge": 0.1}
    )
    config.save_pretrained(tmp_path)
    assert DualSubspaceConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_saved_file_with_a_foreign_key_is_refused(tmp_path):
    DualSubspaceConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"alpha"', '"alfa"'))
    with pytest.raises(ValueError, match="Did you mean `alpha`"):
        DualSubspaceConfig.from_pretrained(tmp_path)


def test_configs_pickle_and_copy():
    config = DualSubspaceConfig(alpha=0.5)
    for twin in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert twin.to_dict() == config.to_dict()


def test_a_system_declares_its_own_fields():
    class ToyConfig(CrossModalConfig):
        model_type = "dualspace_toy"
        margin: float = 0.5

    assert ToyConfig(margin=0.2).margin == 0.2
    assert ToyConfig().turns == [] and ToyConfig().num_labels == 10
    with pytest.raises(ValueError, match="ToyConfig has no key `margn`. Did you mean `margin`?"):
        ToyConfig(margn=0.2)
