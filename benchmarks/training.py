"""An epoch costs little more than its bare steps, and less than other people's loops.

    python benchmarks/training.py [--quick] [--check]

On random features of VEGAS's shape (22,482 clips of 128 and 1024, the paper's towers, batches of 512), one epoch of our
loop without validation, as a ratio to (a) the bare forward, backward and optimiser step on resident tensors: at most
1.10. Beside it the same model in (b) that bare loop over `DataLoader(with_format("torch"))`, (c) the stock
`transformers.Trainer`, (d) a loop as this field publishes them: a TensorDataset, label vectors made in Python, a look
at every term in every step, an optimiser that is not fused. Each with its peak of memory beyond what was there before.
Then a validation and the closing fit. --quick takes 3,072 clips. Where there is a GPU, a thousand epochs there in less
than 60 s, and how much of that time it was busy.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, List, Value
from harness import interleaved, parse, report
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer as StockTrainer
from transformers import TrainingArguments

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel
from modeling_dualspace.recipe import TrainSettings
from modeling_dualspace.trainer import Trainer
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.validation import validate

BATCH, CLASSES = 512, 10
Run = Callable[[], object]


def clips(rows: int) -> Dataset:
    """Random features of VEGAS's shape."""
    generator = torch.Generator().manual_seed(0)
    columns = {
        "audio_features": list(torch.randn(rows, 128, generator=generator).numpy()),
        "visual_features": list(torch.rand(rows, 1024, generator=generator).numpy()),
        "label": (torch.arange(rows) % CLASSES).tolist(),
    }
    kinds = {
        name: List(Value("float32"), length=len(columns[name][0])) for name in ("audio_features", "visual_features")
    }
    names = ClassLabel(names=[f"class {number}" for number in range(CLASSES)])
    return Dataset.from_dict(columns, features=Features(kinds | {"label": names}))


def make_model(data: TrainingData) -> DualSubspaceModel:
    """The paper's sizes."""
    torch.manual_seed(0)
    model = DualSubspaceModel(DualSubspaceConfig()).to(data.device)
    model.prepare(data.passes("train"))
    return model.train()


def optimizer_of(model: DualSubspaceModel, fused: bool = True) -> torch.optim.Optimizer:
    """AdamW, as everywhere here."""
    return torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3, fused=fused)


def ours(data: TrainingData) -> Run:
    """One epoch of our loop after the other."""
    trainer = Trainer(
        make_model(data), data.steps(BATCH, 0), TrainSettings(epochs=10**6, batch_size=BATCH), Accelerator()
    )

    def epoch() -> None:
        for over in trainer.steps():
            if over:
                break
        trainer.losses()

    return epoch


def bare(data: TrainingData) -> Run:
    """Forward, backward and step, and nothing else."""
    model = make_model(data)
    optimizer = optimizer_of(model)
    batches = list(data.steps(BATCH, 0).epoch(0))

    def epoch() -> None:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            model(**batch).loss.backward()
            optimizer.step()

    return epoch


def over_loader(data: TrainingData) -> Run:
    """The bare loop over the loader that `datasets` documents."""
    model = make_model(data)
    optimizer = optimizer_of(model)
    loader = DataLoader(data.splits["train"].rename_column("label", "labels").with_format("torch"), BATCH, shuffle=True)

    def epoch() -> None:
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            model(**{name: column.to(data.device) for name, column in batch.items()}).loss.backward()
            optimizer.step()

    return epoch


def stock(data: TrainingData) -> Run:
    """`transformers.Trainer`, with nothing reported and nothing saved."""
    model = make_model(data)
    split = data.splits["train"].rename_column("label", "labels")
    arguments = TrainingArguments(
        "unused", per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=1e-3, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=data.device.type == "cpu",
    )  # fmt: skip
    return StockTrainer(model, arguments, train_dataset=split).train


def as_published(data: TrainingData) -> Run:
    """TensorDataset, one-hot in Python, a number out of every term in every step."""
    model = make_model(data)
    optimizer = optimizer_of(model, fused=False)
    columns = next(iter(data.steps(len(data.splits["train"]), 0).epoch(0)))
    names = ("audio_features", "visual_features", "labels")
    loader = DataLoader(TensorDataset(*(columns[name].cpu() for name in names)), BATCH, shuffle=True, drop_last=True)

    def epoch() -> None:
        losses: list[float] = []
        for audio, visual, labels in loader:
            onehot = torch.tensor([[float(label == number) for number in range(CLASSES)] for label in labels.tolist()])
            output = model(audio.to(data.device), visual.to(data.device), onehot.to(data.device))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            losses += [output.loss.item(), *(term.item() for term in output.terms.values())]

    return epoch


def peak_of(run: Run) -> float:
    """Megabytes that it takes beyond what is there before, on the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        already = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - already) / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    before = _status(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    run()
    return _status(status, "VmHWM") - before


def _status(file: Path, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+)", file.read_text())
    return int(found[1]) / 1024 if found else float("nan")


def thousand_epochs(data: TrainingData) -> dict[str, float]:
    """Seconds of a thousand epochs on the GPU, and the share of them in which it was busy."""
    epoch = ours(data)
    epoch()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        start = time.perf_counter()
        epoch()
        torch.cuda.synchronize()
        profiled = time.perf_counter() - start
    busy = sum(event.device_time_total for event in profile.key_averages()) / 1e6 / profiled
    start = time.perf_counter()
    for _ in range(1000):
        epoch()
    torch.cuda.synchronize()
    return {"thousand_epochs_seconds": time.perf_counter() - start, "gpu_busy": busy}


def closing(data: TrainingData) -> dict[str, float]:
    """Seconds of a fit without a choice, of one with, and of a score."""
    model = make_model(data).eval()
    train, validation = data.passes("train"), data.passes("validation")
    return interleaved(
        1,
        finish_seconds=lambda: model.finish(train),
        choice_seconds=lambda: model.finish(train, validation),
        validate_seconds=lambda: validate(model, validation),
    )


def main(argv: list[str] | None = None) -> int:
    """Measures all of them in turn, and prints the figures."""
    arguments = parse(__doc__, argv)
    rows = 3_072 if arguments.quick else 22_482
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = TrainingData({"train": clips(rows * 9 // 10), "validation": clips(rows // 10)}, device)
    loops = {"ours": ours, "bare": bare, "loader": over_loader, "stock": stock, "published": as_published}
    with contextlib.redirect_stdout(sys.stderr):  # the stock Trainer prints what it did
        runs = {name: make(data) for name, make in loops.items()}
        peaks = {name: peak_of(run) for name, run in runs.items()}
        seconds = interleaved(3 if arguments.quick else 2, **runs)
        figures = closing(data)
    count = len(data.splits["train"])
    for name, time_ in seconds.items():
        figures |= {f"{name}_clips_per_second": count / time_, f"{name}_peak_mb": peaks[name]}
        figures |= {f"{name}_over_ours": time_ / seconds["ours"]} if name != "ours" else {}
        print(
            f"{name:10} {count / time_:8,.0f} clips/s  {time_ / seconds['bare']:.3f} x bare  peak {peaks[name]:,.0f} MB"
        )
    figures["over_bare"] = seconds["ours"] / seconds["bare"]
    epoch = seconds["ours"]
    print(
        f"validation: closing fit {figures['finish_seconds'] / epoch:.2f} of an epoch; with the choice of a fusion "
        f"{figures['choice_seconds'] / epoch:.2f}; score {figures['validate_seconds'] / epoch:.2f}"
    )
    goals = {"an epoch within 1.10 x of its bare steps": figures["over_bare"] <= 1.10}
    if device.type == "cuda":
        figures |= thousand_epochs(data)
        print(f"a thousand epochs: {figures['thousand_epochs_seconds']:.1f} s, the GPU busy {figures['gpu_busy']:.0%}")
        goals["a thousand epochs in less than 60 s"] = figures["thousand_epochs_seconds"] < 60
    return report("training", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
