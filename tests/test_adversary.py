"""Networks that play against each other: beside gradients written by hand, sums over every draw, and torch's own."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

from modeling_dualspace.adversary import (
    draw,
    gradient_penalty,
    reversal_strength,
    reverse_gradient,
    reward_surrogate,
    scorer,
    told_apart,
)


def randn(*shape, seed=0, learns=False):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.requires_grad_(learns)


# The reversal.


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 2.5])
def test_an_encoder_gets_minus_lambda_times_its_gradient_and_the_classifier_its_own(strength):
    features, encoder, classifier = randn(7, 3), randn(3, 4, seed=1, learns=True), randn(4, seed=2, learns=True)
    rows = features @ encoder
    given = reverse_gradient(rows, strength)
    assert torch.equal(given, rows)
    nn.functional.softplus(-(given @ classifier)).mean().backward()
    with torch.no_grad():  # the chain rule: a softplus falls by its sigmoid
        slopes = -torch.sigmoid(-(rows @ classifier)) / 7
        unreversed = features.T @ torch.outer(slopes, classifier)
        # float64: the same few products in another order.
        assert_close(encoder.grad, -strength * unreversed, rtol=1e-12, atol=1e-15)
        assert_close(classifier.grad, rows.T @ slopes, rtol=1e-12, atol=1e-15)
    assert encoder.grad.any() == (strength > 0)


def test_one_step_makes_the_classifier_better_and_the_encoder_harder_to_tell():
    rows, classifier = randn(2, 3, learns=True), randn(3, seed=1, learns=True)

    def loss():
        return told_apart(reverse_gradient(rows[:1], 1.0) @ classifier, reverse_gradient(rows[1:], 1.0) @ classifier)

    before = loss()
    before.backward()
    for mine, better in ((classifier, True), (rows, False)):
        kept = mine.detach().clone()
        with torch.no_grad():
            mine -= 1e-3 * mine.grad
            assert (loss() < before) == better
            mine.copy_(kept)


def test_a_gradient_of_a_reversed_gradient_is_reversed_too():
    rows = randn(4, learns=True)
    (slope,) = torch.autograd.grad((reverse_gradient(rows, 0.5) ** 3).sum(), rows, create_graph=True)
    assert_close(slope, -0.5 * 3 * rows**2)
    (bend,) = torch.autograd.grad(slope.sum(), rows)
    # d/dx of -l f'(y(x)): through y it is reversed again.
    assert_close(bend, 0.25 * 6 * rows)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 0), (0.1, math.tanh(0.5)), (0.5, math.tanh(2.5)), (1, math.tanh(5))]
)
def test_the_strength_of_a_reversal_is_the_published_formula(progress, expected):
    """2 / (1 + e^-x) - 1 is tanh(x / 2)."""
    assert reversal_strength(progress) == pytest.approx(expected, rel=1e-14, abs=1e-16)


def test_the_strength_of_a_reversal_grows_from_nothing_to_almost_one():
    strengths = [reversal_strength(step / 100) for step in range(101)]
    assert strengths == sorted(set(strengths)) and strengths[0] == 0.0 and 0.9999 < strengths[-1] < 1


# The penalty.


@pytest.mark.parametrize("length", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
def test_a_linear_critic_is_charged_for_how_far_its_slope_is_from_one(length, shape):
    weight = randn(4)
    weight = (weight * length / weight.norm()).requires_grad_()
    critic = {"(n,)": lambda rows: rows @ weight + 3, "(n, 1)": lambda rows: (rows @ weight + 3).unsqueeze(1)}[shape]
    mix = torch.rand(6, 1, dtype=torch.float64)
    penalty = gradient_penalty(critic, randn(6, 4, seed=1), randn(6, 4, seed=2), mix)
    # 1e-12 stands beside the squared slope: half of that, over the slope.
    assert penalty.item() == pytest.approx((length - 1) ** 2, rel=1e-10, abs=1e-11)
    penalty.backward()
    assert_close(weight.grad, 2 * (length - 1) * weight.detach() / length, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_slope_is_taken_between_real_and_fake_rows_as_the_mix_says(share):
    real, fake = randn(5, 3), randn(5, 3, seed=1) + 4
    found = gradient_penalty(lambda rows: rows.square().sum(dim=1) / 2, real, fake, torch.full((5, 1), share))
    # Of half a square the slope is the row itself.
    expected = np.mean([(np.linalg.norm(row) - 1) ** 2 for row in share * real + (1 - share) * fake])
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_every_row_has_a_mix_of_its_own():
    real, fake, mix = torch.full((2, 1), 3.0), torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    found = gradient_penalty(lambda rows: rows.square().sum(dim=1) / 2, real, fake, mix)
    assert found.item() == pytest.approx(((3 - 1) ** 2 + (0 - 1) ** 2) / 2, abs=1e-5)


def two_layers(inner, outer):
    return lambda rows: torch.tanh(rows @ inner.T) @ outer


def test_the_penalty_of_two_layers_is_that_of_slopes_by_finite_differences():
    real, fake, mix = randn(5, 3), randn(5, 3, seed=1), torch.rand(5, 1, dtype=torch.float64)
    critic = two_layers(randn(6, 3, seed=2), randn(6, seed=3))
    rows, expected = mix * real + (1 - mix) * fake, 0.0
    for row in rows:
        slope = [(critic(row + step) - critic(row - step)).item() / 2e-5 for step in 1e-5 * torch.eye(3).double()]
        expected += (np.linalg.norm(slope) - 1) ** 2 / 5
    # Central differences: the square of the step, and rounding over the step.
    assert gradient_penalty(critic, real, fake, mix).item() == pytest.approx(expected, rel=1e-8)


def test_a_critic_learns_from_its_penalty_as_finite_differences_say():
    rows = randn(5, 3), randn(5, 3, seed=1), torch.rand(5, 1, dtype=torch.float64)
    weights = randn(6, 3, seed=2, learns=True), randn(6, seed=3, learns=True)
    assert torch.autograd.gradcheck(lambda *both: gradient_penalty(two_layers(*both), *rows), weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_critic_without_slope_gets_a_finite_gradient(dtype):
    weight = torch.zeros(4, dtype=dtype, requires_grad=True)
    rows = torch.ones(3, 4, dtype=dtype)
    penalty = gradient_penalty(lambda given: given @ weight, rows, rows, torch.rand(3, 1, dtype=dtype))
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5) and torch.isfinite(weight.grad).all()
    dead = scorer([4, 5], "relu").to(dtype)
    nn.init.constant_(dead[0].bias, -100.0)  # no unit fires
    gradient_penalty(dead, rows, rows, torch.rand(3, 1, dtype=dtype)).backward()
    assert all(torch.isfinite(one.grad).all() for one in dead.parameters() if one.grad is not None)


def test_a_penalty_is_the_critic_s_alone():
    real, fake = randn(5, 3, learns=True), randn(5, 3, seed=1, learns=True)
    mix = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)
    weights = randn(6, 3, seed=2, learns=True), randn(6, seed=3, learns=True)
    gradient_penalty(two_layers(*weights), real, fake, mix).backward()
    assert all(one.grad is None for one in (real, fake, mix)) and all(one.grad.any() for one in weights)


def test_a_penalty_may_be_looked_at_where_nobody_learns():
    rows = randn(5, 3), randn(5, 3, seed=1), torch.rand(5, 1, dtype=torch.float64)
    critic = two_layers(randn(6, 3, seed=2), randn(6, seed=3))
    with torch.no_grad():
        found = gradient_penalty(critic, *rows)
    assert found.item() == gradient_penalty(critic, *rows).item() > 0


# Draws.


REWARDS = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)


def exact_gradient(logits):
    (gradient,) = torch.autograd.grad((logits.softmax(0) * REWARDS).sum(), logits)
    return gradient


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_over_all_draws_the_estimate_has_the_gradient_of_what_is_expected(draws):
    logits = randn(5, learns=True)
    chances = logits.detach().softmax(0)
    mean = torch.zeros(5, dtype=torch.float64)
    for columns in map(list, itertools.product(range(5), repeat=draws)):
        estimate = reward_surrogate(logits.log_softmax(0)[columns], REWARDS[columns])
        mean += chances[columns].prod() * torch.autograd.grad(estimate, logits)[0]
    # Sums of 5^3 terms in float64.
    assert_close(mean, exact_gradient(logits), rtol=1e-12, atol=1e-14)


def test_the_mean_of_many_drawn_estimates_nears_the_gradient_of_what_is_expected():
    logits, count = randn(5, learns=True), 20_000
    chances = logits.detach().softmax(0)
    columns = draw(chances.unsqueeze(0), torch.rand(1, count, dtype=torch.float64))[0]
    estimate = reward_surrogate(logits.log_softmax(0)[columns], REWARDS[columns])
    (found,) = torch.autograd.grad(estimate, logits)
    # One draw j gives r_j (e_j - p). Five standard errors: chance leads further once in a million.
    each = REWARDS.unsqueeze(1) * (torch.eye(5) - chances)
    exact = chances @ each
    deviation = (chances @ (each - exact).square()).sqrt()
    assert_close(exact, exact_gradient(logits))
    assert ((found - exact).abs() < 5 * deviation / count**0.5).all()


def test_rewards_are_constants_and_a_mean_is_taken():
    log_chances, rewards = randn(3, 2, learns=True), randn(3, 2, seed=1, learns=True)
    found = reward_surrogate(log_chances, rewards)
    assert found.item() == pytest.approx((log_chances * rewards).mean().item(), rel=1e-12)
    found.backward()
    assert rewards.grad is None
    assert_close(log_chances.grad, rewards.detach() / 6)


@pytest.mark.parametrize("sums_to", [1e-3, 1.0, 250.0])
def test_columns_are_drawn_as_often_as_their_chances_say_whatever_a_row_sums_to(sums_to):
    shares = torch.tensor([[0.05, 0.0, 0.5, 0.3, 0.15], [0.0, 0.9, 0.0, 0.0, 0.1]], dtype=torch.float64)
    columns = draw(shares * sums_to, torch.rand(2, 20_000, dtype=torch.float64))
    for row, share in zip(columns, shares, strict=True):
        counts = torch.bincount(row, minlength=5)
        assert not counts[share == 0].any()
        expected = 20_000 * share[share > 0]
        distance = ((counts[share > 0] - expected) ** 2 / expected).sum().item()
        assert distance < stats.chi2.ppf(1 - 1e-6, df=len(expected) - 1)  # beyond it once in a million seeds


def test_a_number_draws_the_first_column_whose_sum_of_chances_exceeds_it():
    chances = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])  # sums of which are exact
    numbers = [0.0, 0.1, 0.25, 0.5, 0.7499, 0.75, 0.9]
    expected = [next(j for j in range(6) if sum(chances[0, : j + 1].tolist()) > u) for u in numbers]
    assert draw(chances, torch.tensor([numbers])).tolist() == [expected] == [[1, 1, 3, 3, 3, 4, 4]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_without_a_chance_is_never_drawn_at_either_end(dtype):
    below_one = 1 - torch.finfo(dtype).eps / 2
    numbers = torch.tensor([0.0, torch.finfo(dtype).tiny, 0.5, below_one, 1.0], dtype=dtype).repeat(200, 1)
    generator = torch.Generator().manual_seed(0)
    for width in (1, 3, 1000):  # sums of a thousand are rounded
        chances = torch.rand(200, width, generator=generator, dtype=dtype)
        chances[torch.rand(200, width, generator=generator) < 0.4] = 0
        chances[chances.sum(dim=1) == 0, -1] = 1e-3
        columns = draw(chances, numbers)
        assert columns.min() >= 0 and columns.max() < width and (chances.gather(1, columns) > 0).all()


# Scores.


def test_a_scorer_is_linear_layers_with_activations_between():
    network = scorer([5, 4, 3], "tanh").double()
    assert [tuple(one.shape) for one in network.parameters()] == [(4, 5), (4,), (3, 4), (3,), (1, 3), (1,)]
    rows = randn(6, 5)
    A, a, B, b, C, c = (one.detach().numpy() for one in network.parameters())
    expected = np.tanh(np.tanh(rows.numpy() @ A.T + a) @ B.T + b) @ C.T + c
    np.testing.assert_allclose(network(rows).detach().numpy(), expected, rtol=1e-12)
    assert [type(one) for one in scorer([5], "relu")] == [nn.Linear]


@pytest.mark.parametrize(("ones", "zeros"), [(6, 6), (2, 9), (5, 1)])
def test_telling_apart_costs_torch_s_cross_entropy_at_equal_weight(ones, zeros):
    ones, zeros = 5 * randn(ones, 1), 5 * randn(zeros, 1, seed=1)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    expected = (cross_entropy(ones, torch.ones_like(ones)) + cross_entropy(zeros, torch.zeros_like(zeros))) / 2
    assert_close(told_apart(ones, zeros), expected, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(told_apart, (ones.requires_grad_(), zeros.requires_grad_()))


def test_who_cannot_tell_pays_log_two_and_who_is_sure_and_wrong_a_finite_price():
    assert told_apart(torch.zeros(3), torch.zeros(2)).item() == pytest.approx(math.log(2))
    wrong = torch.tensor([-1e4], requires_grad=True)
    price = told_apart(wrong, torch.tensor([1e4]))
    price.backward()
    assert price.item() == pytest.approx(1e4) and wrong.grad.item() == pytest.approx(-0.5)
    assert told_apart(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0
