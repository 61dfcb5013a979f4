"""The steps of one model, in one process or in many: who learns from which batch, how far, and from what state.

Knows of a system what `CrossModalModel` says and no names. What is validated, saved and kept is `training_run`'s.
"""

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from .checkpoints import Checkpoint
from .distributed import process_index
from .modeling_crossmodal import CrossModalModel
from .optimizers import load_optimizer_tensors, make_optimizer, optimizer_tensors, rate, set_rate
from .recipe import TrainSettings, check_players
from .training_data import Batch, Epochs

SKIPS = 20
"""Steps in a row that fp16 may skip, looking for a scale; the scale is halved in each."""
FLUSH = 100
"""Steps after which losses are looked at, if nobody asked before: a look waits for the device."""


class DivergedError(ValueError):
    """A loss that is no number any more."""


class Trainer:
    """Takes the steps of a recipe.

    Two processes take the steps that one takes on the same global batches, dropout, batch norm and draws excepted.
    Every step seeds the generators by its number, so that a run that goes on draws what it would have drawn.

    Args:
        model: prepared, on any device.
        batches: what it learns from.
        settings: how.
        accelerator: where.

    Example:
        ```python
        trainer = Trainer(model, data.steps(512, seed=0), TrainSettings(epochs=10), Accelerator())
        for epoch_is_over in trainer.steps():
            if epoch_is_over:
                print(trainer.epoch, trainer.losses())
        trainer.close()
        ```
    """

    def __init__(self, model: CrossModalModel, batches: Epochs, settings: TrainSettings, accelerator: Accelerator):
        self.model, self.batches, self.settings, self.accelerator = model, batches, settings, accelerator
        self.turns = list(model.config.turns)
        self.step = 0
        if accelerator.scaler is not None:  # that of an earlier training starts anew
            accelerator.scaler.load_state_dict(torch.amp.GradScaler().state_dict())
        self._skipped = 0
        self._log: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._sums: dict[str, tuple[float, int]] = {}
        self._frozen = freeze(model, settings.freeze)
        players = list(dict.fromkeys(self.turns))
        self._owned = {player: _owned(model, player, players) for player in players}
        check_players(settings, self._owned)
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            find_unused_parameters=len(players) > 1, broadcast_buffers=False
        )
        model.to(accelerator.device)
        self._optimizers = {
            player: accelerator.prepare_optimizer(make_optimizer(self._owned[player], self._settings_of(player)))
            for player in players
        }
        if settings.compile:
            # The towers alone: factorisations gain nothing, and progress, a new number every step, would recompile.
            model.encode = torch.compile(model.encode)  # type: ignore[method-assign]
        with warnings.catch_warnings():
            # torch 2.13 renames `broadcast_buffers`, which accelerate 1.15 knows by no other name.
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped = accelerator.prepare_model(model) if players else model

    @property
    def epochs(self) -> int:
        """Those of the settings, or as many as `min_steps` asks for."""
        return max(self.settings.epochs, -(-self.settings.min_steps // len(self.batches)))

    @property
    def total(self) -> int:
        """Steps of the whole schedule, whether or not they are all taken."""
        return self.epochs * len(self.batches)

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self.step // len(self.batches)

    def steps(self, epochs: int | None = None) -> Iterator[bool]:
        """Takes steps until so many epochs are over; after each, says whether one just was.

        Args:
            epochs: all of them, unless fewer are wanted.
        """
        until = self.epochs if epochs is None else epochs
        if not self.turns:
            return
        while self.epoch < until:
            done = self.step % len(self.batches)
            for batch in self.batches.epoch(self.epoch, skip=done):
                self._take(batch)
                yield self.step % len(self.batches) == 0

    def _take(self, batch: Batch) -> None:
        model, player = self.model, self.turns[self.step % len(self.turns)]
        if not model.training or self._frozen:
            _set_modes(model, self._frozen)
        if not model.uses_labels:
            batch.pop("labels", None)
        torch.manual_seed(_mixed(self.settings.seed, self.step, process_index()))
        progress = self.step / self.total
        optimizer = self._optimizers[player]
        set_rate(optimizer, self._settings_of(player).lr * rate(self.settings.schedule, progress, self.epoch))
        model.zero_grad(set_to_none=True)
        output = self._wrapped(**batch, player=player, progress=progress)
        self.accelerator.backward(output.loss)
        if self.settings.clip is not None:
            self.accelerator.clip_grad_norm_(self._owned[player].values(), self.settings.clip)
        optimizer.step()
        self.step += 1
        # What several players lose is of several kinds, of which no mean means anything: others have their terms.
        found = {"loss": output.loss} if player == "model" or len(self._owned) == 1 else {}
        found |= output.terms
        names, values = tuple(found), torch.stack([value.detach().float() for value in found.values()])
        self._log.append((self.step, names, values))
        if len(self._log) >= FLUSH or values.device.type == "cpu":
            self._look()

    def _settings_of(self, player: str) -> Any:
        return self.settings.players.get(player, self.settings.optimizer)

    def losses(self) -> dict[str, float]:
        """Mean of the loss and of each term over the steps since this was last asked."""
        self._look()
        sums, self._sums = self._sums, {}
        return {name: total / count for name, (total, count) in sums.items()}

    def _look(self) -> None:
        """Adds up what was logged; raises where a number is none."""
        if not self._log:
            return
        log, self._log = self._log, []
        # One transfer for all of them.
        rows = torch.cat([values for _, _, values in log]).cpu().split([len(names) for _, names, _ in log])
        sums = dict(self._sums)
        for (step, names, _), values in zip(log, rows, strict=True):
            found = dict(zip(names, values.tolist(), strict=True))
            if not self._is_finite(step, found):
                continue
            for name, value in found.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + value, count + 1)
        self._sums = sums

    def _is_finite(self, step: int, found: Mapping[str, float]) -> bool:
        """Raises where training has diverged; False of a step that fp16 skips, lowering the scale of its loss."""
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        self._skipped = self._skipped + 1 if bad else 0
        if not bad or (self.settings.precision == "fp16" and self._skipped <= SKIPS):
            return not bad
        term = next((name for name in bad if name != "loss"), "loss")
        epoch = (step - 1) // len(self.batches) + 1
        tries = ["a lower train.optimizer.lr"]
        tries += ["train.clip=1"] if self.settings.clip is None else []
        tries += ["train.precision=fp32"] if self.settings.precision != "fp32" else []
        tries += ["a larger model.ridge"] if term == "correlation" else []
        raise DivergedError(
            f"The loss stopped being a number in step {step} (epoch {epoch}): `{term}` is {found[term]}. "
            f"Training diverged; try {', or '.join(tries)}."
        )

    def checkpoint(self, progress: Mapping[str, Any]) -> Checkpoint:
        """All that is needed to go on from here."""
        self._look()
        optimizers = {
            f"{player}/{name}": tensor
            for player, optimizer in self._optimizers.items()
            for name, tensor in optimizer_tensors(optimizer.optimizer, self._owned[player]).items()
        }
        content: dict[str, Any] = {
            **progress,
            "step": self.step,
            "sums": {name: list(value) for name, value in self._sums.items()},
        }
        if self.accelerator.scaler is not None:
            content["scaler"] = self.accelerator.scaler.state_dict()
        return Checkpoint(self.step, self.model.state_dict(), optimizers, content)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from there."""
        self.model.load_state_dict(checkpoint.weights)
        self.step = checkpoint.progress["step"]
        self._sums = {name: (value[0], value[1]) for name, value in checkpoint.progress["sums"].items()}
        for player, optimizer in self._optimizers.items():
            start = f"{player}/"
            mine = {
                name.removeprefix(start): tensor
                for name, tensor in checkpoint.optimizers.items()
                if name.startswith(start)
            }
            load_optimizer_tensors(optimizer.optimizer, self._owned[player], mine)
        if self.accelerator.scaler is not None and "scaler" in checkpoint.progress:
            self.accelerator.scaler.load_state_dict(checkpoint.progress["scaler"])

    def close(self) -> None:
        """Leaves the model as it was found: without wrappers, in eval mode."""
        self.accelerator.unwrap_model(self._wrapped, keep_fp32_wrapper=False, keep_torch_compile=False)
        for name in ("encode", "forward", "_is_accelerate_prepared"):  # what was put over the class's own
            self.model.__dict__.pop(name, None)
        self.accelerator.free_memory()
        self.model.zero_grad(set_to_none=True)
        self.model.eval()


def freeze(model: nn.Module, names: list[str]) -> list[nn.Module]:
    """Parameters whose names begin so stay as they are; returns the modules that have no others, to be kept in eval."""
    for name in names:
        found = [parameter for full, parameter in model.named_parameters() if f"{full}.".startswith(f"{name}.")]
        if not found:
            parts = list(dict.fromkeys(full.split(".")[0] for full, _ in model.named_parameters()))
            raise ValueError(f"`train.freeze` names {name!r}, and no parameter's name begins so: parts are {parts}.")
        for parameter in found:
            parameter.requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("`train.freeze` leaves nothing to learn: name fewer parts.")
    return [
        module
        for module in model.modules()
        if any(True for _ in module.parameters()) and not any(one.requires_grad for one in module.parameters())
    ]


def _set_modes(model: nn.Module, frozen: list[nn.Module]) -> None:
    model.train()
    for module in frozen:
        module.eval()


def _owned(model: nn.Module, player: str, players: list[str]) -> dict[str, nn.Parameter]:
    """`critic` owns what lies under `model.critic`, `model` the rest."""
    others = [f"{other}." for other in players if other != "model"]
    mine = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (name.startswith(f"{player}.") if player != "model" else not any(map(name.startswith, others)))
    }
    if not mine:
        raise ValueError(
            f"The player {player!r} of `turns` owns no parameter that could learn: is there a module so named?"
        )
    return mine


def _mixed(*numbers: int) -> int:
    """One seed of several: a hash, since neighbouring seeds and steps must not meet in the 32 bits that count."""
    digest = hashlib.sha256("/".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
