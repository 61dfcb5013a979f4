"""On a GPU the same numbers come out, and a training step never waits for the host. Skipped where there is none."""

import copy

import pytest
import torch

from modeling_dualspace import PairMoments, canonical_correlation, canonical_directions
from modeling_dualspace.average_precision import average_precision
from modeling_dualspace.baselines import SYSTEMS
from modeling_dualspace.retrieval_scores import retrieval_scores
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

VARIANTS = ["dual", "explicit", "implicit", "shared"]
LEARNT = [system for system in SYSTEMS if system.config_class().turns]


@pytest.fixture(autouse=True)
def _exact_products():
    """TensorFloat-32 keeps ten bits of a factor: it would hide what is compared here."""
    torch.set_float32_matmul_precision("highest")


def on_cuda(batch):
    return {name: rows.cuda() for name, rows in batch.items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["frobenius", "nuclear"])
def test_loss_and_gradient_are_those_of_the_cpu(make_model, batch, variant, kind):
    model = make_model(variant=variant, correlation=kind, alpha=1.0)
    model.prepare([batch])
    twin = copy.deepcopy(model).cuda()
    one, other = model(**batch), twin(**on_cuda(batch))
    torch.testing.assert_close(other.loss.cpu(), one.loss, rtol=1e-4, atol=1e-5)
    one.loss.backward()
    other.loss.backward()
    for here, there in zip(model.parameters(), twin.parameters(), strict=True):
        assert there.requires_grad == here.requires_grad
        if here.requires_grad:
            torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("system", LEARNT, ids=lambda system: system.__name__)
def test_every_player_of_a_compared_system_learns_there(system, batch):
    config = system.config_class(
        audio_dim=batch["audio_features"].shape[1], visual_dim=batch["visual_features"].shape[1]
    )
    model = system(config).cuda()
    model.prepare([batch])  # which may come from the host
    for player in dict.fromkeys(config.turns):
        output = model(**on_cuda(batch), player=player, progress=0.5)
        output.loss.backward()
        assert output.loss.isfinite() and all(
            one.grad.isfinite().all() for one in model.parameters() if one.grad is not None
        )
    model.eval()
    model.finish([batch])
    assert model.get_audio_embeds(batch["audio_features"].cuda()).isfinite().all()


@pytest.mark.parametrize("features", [True, False])
def test_statistics_fusion_and_embeddings_are_those_of_the_cpu(make_model, make_batch, features):
    train, validation = make_batch(120), make_batch(60, seed=2)
    model = make_model(fusion_features=features)
    twin = copy.deepcopy(model).cuda()
    model.prepare([train])
    model.finish([train], [validation])
    twin.prepare([train])  # batches may come from the host
    twin.finish([on_cuda(train)], [validation])
    assert twin.config.fusion_choice["candidate"] == model.config.fusion_choice["candidate"]
    assert twin.config.fusion_choice["validation_map"] == pytest.approx(
        model.config.fusion_choice["validation_map"], 1e-3
    )
    cosine = (
        twin.get_audio_embeds(train["audio_features"].cuda()).cpu() * model.get_audio_embeds(train["audio_features"])
    ).sum(1)
    assert cosine.min() > 0.999


def test_moments_and_directions_are_those_of_the_cpu():
    audio, visual = torch.randn(5000, 30, dtype=torch.float64), torch.randn(5000, 50, dtype=torch.float64)
    here = PairMoments(30, 50).update(audio, visual)
    there = PairMoments(30, 50, device="cuda").update(audio.cuda(), visual.cuda())
    torch.testing.assert_close(there.visual_scatter.cpu(), here.visual_scatter, rtol=1e-12, atol=1e-9)
    one = canonical_directions(here.covariances(), 10).correlations
    other = canonical_directions(there.covariances(), 10).correlations
    torch.testing.assert_close(other.cpu(), one, rtol=1e-9, atol=1e-9)


def test_average_precision_is_that_of_the_cpu():
    scores, relevant = torch.randint(-5, 6, (20, 300)).float(), torch.rand(20, 300) < 0.2
    torch.testing.assert_close(
        average_precision(scores.cuda(), relevant.cuda()).cpu(), average_precision(scores, relevant)
    )


def test_the_table_of_scores_is_that_of_the_cpu():
    audio, visual = torch.randn(2, 700, 8)
    audio[::3] = visual[::3] = audio[0]  # with ties
    labels = torch.arange(700) % 7
    here = retrieval_scores(audio, visual, labels, legacy_prefix_average=True)
    there = retrieval_scores(audio.cuda(), visual.cuda(), labels.cuda(), legacy_prefix_average=True)
    for direction in ("audio_to_visual", "visual_to_audio"):
        for name, value in here[direction].items():
            if name != "per_class":
                assert there[direction][name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(
    "settings", [{}, {"variant": "explicit"}, {"orthogonality": "paper", "discriminative": "frobenius"}]
)
def test_a_step_never_waits_for_the_host(make_model, batch, settings):
    model, batch = make_model(**settings).cuda(), on_cuda(batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            optimizer.zero_grad(set_to_none=True)
            model(**batch).loss.backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_step_can_be_captured_in_a_graph_and_replayed(make_model, batch):
    model, batch = make_model().cuda(), on_cuda(batch)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(**batch).loss.backward()
    torch.cuda.current_stream().wait_stream(stream)
    expected = model(**batch).loss.item()
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(**batch).loss
        loss.backward()
    graph.replay()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_bfloat16_and_autocast_keep_the_correlation_in_float32(make_model, batch):
    model, batch = make_model().cuda(), on_cuda(batch)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = model(**batch)
    assert output.loss.dtype == torch.float32 and torch.isfinite(output.loss)
    rows = torch.randn(100, 5, device="cuda", dtype=torch.bfloat16)
    assert canonical_correlation(rows, rows).dtype == torch.float32


def test_a_compiled_step_is_that_of_the_model(make_model, batch):
    model, batch = make_model().cuda(), on_cuda(batch)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_in_every_precision_ends_near_that_of_the_cpu(recipe, data, precision):
    expected = train(recipe("cpu"), data=data, progress=False)["validation"]["map"]
    found = train(recipe("cuda", precision=precision), data=TrainingData(data.splits, "cuda"), progress=False)
    # Dropout falls otherwise there: the same within what another seed makes of three classes and 45 clips.
    assert found["device"] != "cpu" and found["validation"]["map"] == pytest.approx(expected, abs=0.1)


def test_a_second_run_on_the_device_ends_where_the_first_did(recipe, data):
    there = TrainingData(data.splits, "cuda")
    one, other = (train(recipe(name), data=there, progress=False)["validation"]["map"] for name in ("one", "other"))
    assert one == pytest.approx(other, abs=1e-3)
