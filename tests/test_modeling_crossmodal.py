"""The contract of learning, by toy systems that use all of it."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_dualspace import (
    CanonicalLayer,
    CrossModalConfig,
    CrossModalModel,
    PairMoments,
    canonical_directions,
)


class ClosedFormConfig(CrossModalConfig):
    model_type = "dualspace_toy_closed_form"


class ClosedForm(CrossModalModel):
    """Plain CCA: no parameters, buffers only, nobody learns from a batch."""

    config_class = ClosedFormConfig
    uses_labels = False

    def __init__(self, config):
        super().__init__(config)
        self.layer = CanonicalLayer(config.audio_dim, config.visual_dim, config.embed_dim)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, CanonicalLayer):
            module.reset()

    @property
    def fitted(self):
        return self.layer.fitted

    def _embed_rows(self, features, modality):
        return getattr(self.layer, modality)(features)

    def finish(self, data, validation=None):
        moments = PairMoments(self.config.audio_dim, self.config.visual_dim, device=self.device)
        for batch in self._batches(data):
            moments.update(batch["audio_features"], batch["visual_features"])
        self.layer.set(canonical_directions(moments.all_reduce().covariances(), self.config.embed_dim, 1e-4))


class TwoPlayersConfig(CrossModalConfig):
    model_type = "dualspace_toy_two_players"


class TwoPlayers(CrossModalModel):
    """A map and a critic that learn from batches in turn, with weighted terms."""

    config_class = TwoPlayersConfig

    def __init__(self, config):
        super().__init__(config)
        self.map = torch.nn.Linear(config.audio_dim, config.visual_dim, bias=False)
        self.critic = torch.nn.Linear(config.visual_dim, 1)
        self.post_init()

    def get_audio_embeds(self, audio_features):
        return torch.nn.functional.normalize(self.map(audio_features), dim=1)

    def get_visual_embeds(self, visual_features):
        return torch.nn.functional.normalize(visual_features, dim=1)

    def encode(self, batch, player):
        with torch.set_grad_enabled(player == "model"):
            mapped = self.map(batch["audio_features"])
        return {"audio": mapped, "visual": batch["visual_features"], "index": batch["index"]}

    def objective(self, rows, player, progress):
        gap = self.critic(rows["audio"]).mean() - self.critic(rows["visual"]).mean()
        if player == "critic":
            return {"critic": gap * progress}
        return {"distance": (rows["audio"] - rows["visual"]).square().mean(), "fool": -gap}


@pytest.fixture
def closed_form():
    return ClosedForm(ClosedFormConfig(audio_dim=6, visual_dim=8, embed_dim=3))


def test_a_model_of_buffers_only_has_a_device_and_a_dtype_and_saves_and_loads(closed_form, batch, tmp_path):
    AutoConfig.register("dualspace_toy_closed_form", ClosedFormConfig, exist_ok=True)
    AutoModel.register(ClosedFormConfig, ClosedForm, exist_ok=True)
    assert closed_form.device.type == "cpu" and closed_form.dtype == torch.float32
    closed_form.finish([batch])
    closed_form.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is ClosedForm
    audio = batch["audio_features"]
    assert torch.equal(loaded.get_audio_embeds(audio), closed_form.get_audio_embeds(audio))


def test_a_system_carries_no_code_of_its_own(closed_form, batch, tmp_path):
    closed_form.finish([batch])
    closed_form.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))


def test_embedding_before_finish_says_what_to_call(closed_form, batch):
    with pytest.raises(RuntimeError, match=r"ClosedForm is not fitted yet.*call `model.finish\(batches\)`"):
        closed_form.get_audio_embeds(batch["audio_features"])
    assert closed_form(audio_features=batch["audio_features"]).audio_embeds is None


@pytest.mark.parametrize("embed", ["get_audio_embeds", "get_visual_embeds"])
def test_bad_features_get_one_sentence(closed_form, batch, embed):
    closed_form.finish([batch])
    name, width = ("audio", 6) if "audio" in embed else ("visual", 8)
    with pytest.raises(ValueError, match=rf"Expected {name} features of shape \(n, {width}\), got \(2, 5\)"):
        getattr(closed_form, embed)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=rf"Expected {name} features of shape \(n, {width}\), got \(2, 10, {width}\)"):
        getattr(closed_form, embed)(torch.zeros(2, 10, width))
    with pytest.raises(ValueError, match="of a floating type, got torch.int64"):
        getattr(closed_form, embed)(torch.zeros(2, width, dtype=torch.int64))
    features = torch.zeros(5, width)
    features[3, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"{name.capitalize()} features .* row 3 holds NaN or infinity"):
        getattr(closed_form, embed)(features)


def test_a_closed_form_has_no_loss_and_forwards_all_the_same(closed_form, batch):
    assert closed_form(**batch).audio_embeds is None
    closed_form.finish([batch])
    output = closed_form.eval()(**batch)
    assert output.loss is None and output.visual_embeds.shape == (60, 3)
    assert closed_form.config.output_dim == 3


def test_a_system_that_takes_turns_must_say_what_it_learns(batch):
    with pytest.raises(NotImplementedError, match="has `turns`, and so needs `encode` and `objective`"):
        ClosedForm(ClosedFormConfig(audio_dim=6, visual_dim=8, turns=["model"]))(**batch)


def test_forward_weighs_the_named_terms_and_hands_over_player_progress_and_extra_columns(batch):
    config = TwoPlayersConfig(audio_dim=6, visual_dim=8, turns=["critic", "model"], loss_weights={"fool": 0.25})
    model = TwoPlayers(config)
    pair = {name: batch[name] for name in ("audio_features", "visual_features")} | {"index": torch.arange(60)}
    output = model(**pair)
    assert set(output.terms) == {"distance", "fool"}
    assert output.loss.item() == pytest.approx((output.terms["distance"] + 0.25 * output.terms["fool"]).item())
    critic = model(**pair, player="critic", progress=0.5)
    assert critic.loss.item() == pytest.approx(-0.5 * output.terms["fool"].item())
    critic.loss.backward()
    assert model.map.weight.grad is None and model.critic.weight.grad is not None


def test_forward_refuses_nothing_and_unpaired_rows(make_model, batch):
    model = make_model()
    with pytest.raises(ValueError, match="Nothing to embed"):
        model()
    with pytest.raises(ValueError, match="must pair up: 60 against 59"):
        model(audio_features=batch["audio_features"], visual_features=batch["visual_features"][1:])


def test_forward_returns_a_tuple_on_request(fitted, batch):
    (embeds,) = fitted(audio_features=batch["audio_features"], return_dict=False)
    assert torch.equal(embeds, fitted.get_audio_embeds(batch["audio_features"]))
