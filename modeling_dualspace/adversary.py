"""Networks that play against each other: a reversed gradient, the penalty of a critic, draws that are learnt from."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.strength * gradients[0], None


def reverse_gradient(rows: Tensor, strength: float) -> Tensor:
    r"""The same rows, through which a gradient goes back as $-\lambda$ times itself.

    What comes after learns to minimise a loss, and what comes before to maximise it, in one step of one optimiser
    (Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015).

    Example:
        ```python
        >>> rows = torch.ones(2, requires_grad=True)
        >>> (3 * reverse_gradient(rows, 0.5)).sum().backward()
        >>> rows.grad
        tensor([-1.5000, -1.5000])

        ```
    """
    return _Reversed.apply(rows, strength)


def reversal_strength(progress: float) -> float:
    r"""$\lambda = 2 / (1 + e^{-10p}) - 1$: from 0 to 1 as training goes on, so that early noise does no harm."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    r"""$E[(\|\nabla D(x)\| - 1)^2]$ at rows between real and fake ones, which keeps a critic's slope near one.

    Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017.

    Args:
        critic: rows to scores `(n,)` or `(n, 1)`, each of its own row alone.
        real: `(n, d)`.
        fake: `(n, d)`.
        mix: `(n, 1)`, where between, 0 to 1.
    """
    with torch.enable_grad():  # a loss may be looked at where nobody learns
        between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    # At a slope of zero a root has no gradient; so little more gives it one, and is lost beside a slope of one.
    return (((slope.square().sum(dim=1) + 1e-12).sqrt() - 1) ** 2).mean()


def reward_surrogate(log_chances: Tensor, rewards: Tensor) -> Tensor:
    r"""What stands for $E_{j \sim p}[r_j]$ when draws were made from p: the gradient is unbiased.

    $$\nabla E_{j \sim p}[r_j] = E_{j \sim p}[r_j \nabla \log p_j]$$

    Williams, "Simple statistical gradient-following algorithms" (REINFORCE), Machine Learning 1992.

    Args:
        log_chances: $\log p_j$ of what was drawn, with gradient.
        rewards: $r_j$ of the same shape, taken as constants.
    """
    return (log_chances * rewards.detach()).mean()


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """Columns `(n, k)` drawn from each row's chances `(n, m)` by numbers `(n, k)` between 0 and 1.

    Example:
        ```python
        >>> draw(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([[0.1, 0.7]]))
        tensor([[0, 2]])

        ```
    """
    # A column without a chance has no room of its own, however a device rounds what comes before and behind it.
    sums = torch.where(chances > 0, chances.cumsum(dim=1), 0.0).cummax(dim=1).values
    columns = torch.searchsorted(sums, (uniform * sums[:, -1:]).contiguous(), right=True)
    # Rounding may lead beyond the last column that has a chance.
    last = (chances > 0).long().cumsum(dim=1).argmax(dim=1, keepdim=True)
    return torch.minimum(columns, last)


def scorer(widths: list[int], activation: str) -> nn.Sequential:
    """A network of one score a row, `(n, 1)`, whose hidden layers have these widths, the first that of the rows."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), ACT2FN[activation]]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def told_apart(ones: Tensor, zeros: Tensor) -> Tensor:
    """Mean cross-entropy of logits that ought to say 1, and of those that ought to say 0, at equal weight."""
    return (nn.functional.softplus(-ones).mean() + nn.functional.softplus(zeros).mean()) / 2
