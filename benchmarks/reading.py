"""Reading a feature data set costs little more than reading its bytes; building one takes seconds and flat memory.

    python benchmarks/reading.py [--quick] [--check]

`dataset_scripts/vegas.py` builds a folder of VEGAS's shape (28,103 rows of 128 and 1024) from an h5 file of random
numbers. Its train and validation splits, loaded by `load_dataset`, become resident tensors by `to_tensors`, against (a)
`np.fromfile` of the same bytes and (b) a DataLoader over `with_format("torch")` at batch 512. Goals: within 2 x of (a),
at least 20 x (b), built within 10 s. Building 200,000 rows peaks within 10 % of building 100,000, below 1 GB (--quick:
40,000 against 20,000).
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from harness import interleaved, parse, report
from torch.utils.data import DataLoader

from modeling_dualspace.feature_dataset import FeatureBatches, to_tensors

BUILDER = Path(__file__).parent.parent / "dataset_scripts" / "vegas.py"
MEASURED = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    # Not getrusage: across fork and exec its peak is the parent's.
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def write_h5(path: Path, rows: int) -> None:
    """The six-key layout, a fifth of the rows for test."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, size in (("train", rows - rows // 5), ("test", rows // 5)):
            file[f"lab_{split}"] = np.arange(size) % 10
            for kind, width in (("audio", 128), ("visual", 1024)):
                array = file.create_dataset(f"{kind}_{split}", (size, width), "f4")
                for start in range(0, size, 4096):
                    block = generator.standard_normal((min(4096, size - start), width), dtype=np.float32)
                    array[start : start + len(block)] = block if kind == "audio" else block.clip(0)


def build(folder: Path, rows: int) -> tuple[float, float]:
    """Seconds, the start of the interpreter included, and the peak of memory in MB of the builder as a process."""
    source = folder / f"{rows}.h5"
    write_h5(source, rows)
    out = folder / f"features-{rows}"
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, str(BUILDER), "--source", str(source), "--out", str(out)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - start
    source.unlink()
    return seconds, float(printed.split()[-1])


def read(folder: Path, repeats: int) -> dict[str, float]:
    """Rows per second of each way of reading, as ratios."""
    clips = load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))
    split: Dataset = concatenate_datasets([clips["train"], clips["validation"]])
    raw = folder.parent / "raw.bin"
    tensors = to_tensors(split)
    features = [tensors[name] for name in ("audio_features", "visual_features")]
    with raw.open("wb") as file:
        for column in features:
            column.numpy().tofile(file)
    seconds = interleaved(
        repeats,
        tensors=lambda: to_tensors(split),
        fromfile=lambda: np.fromfile(raw, dtype=np.float32),
        torch_cat=lambda: [torch.cat(column.split(1000)) for column in features],
        batches=lambda: sum(len(batch["index"]) for batch in FeatureBatches(split, 512)),
    )
    loader = DataLoader(split.select_columns(["audio_features", "visual_features", "label"]).with_format("torch"), 512)
    loading = interleaved(1, loader=lambda: sum(len(batch["label"]) for batch in loader))["loader"]
    return {
        "rows_per_second": len(split) / seconds["tensors"],
        "over_fromfile": seconds["tensors"] / seconds["fromfile"],
        "torch_cat_over_tensors": seconds["torch_cat"] / seconds["tensors"],
        "loader_over_tensors": loading / seconds["tensors"],
        "loader_over_batches": loading / seconds["batches"],
    }


def main(argv: list[str] | None = None) -> int:
    """Builds, reads, builds larger ones, and prints the figures."""
    arguments = parse(__doc__, argv)
    small, large = (20_000, 40_000) if arguments.quick else (100_000, 200_000)
    folder = Path(tempfile.mkdtemp(prefix="dualspace-reading-"))
    try:
        seconds, _ = build(folder, 28_103)
        figures = read(folder / "features-28103", 5 if arguments.quick else 15)
        peaks = []
        for rows in (small, large):
            peaks.append(build(folder, rows)[1])
            shutil.rmtree(folder / f"features-{rows}")
    finally:
        shutil.rmtree(folder)
    figures |= {"build_seconds": seconds, "peak_mb": peaks[1], "peak_ratio": peaks[1] / peaks[0]}
    speed, ratio = figures["rows_per_second"], figures["over_fromfile"]
    print(f"built in {seconds:.1f} s; read at {speed:,.0f} rows a second, {ratio:.2f} x the time of np.fromfile")
    print(f"torch.cat of the same pieces, in memory already, takes {figures['torch_cat_over_tensors']:.1f} x as long")
    print(f"a DataLoader takes {figures['loader_over_tensors']:.0f} x as long as tensors at once")
    print(f"a DataLoader takes {figures['loader_over_batches']:.0f} x as long as our own batches of 512")
    print(f"{large:,} rows peak at {peaks[1]:.0f} MB, {peaks[1] / peaks[0]:.2f} x those of {small:,}")
    goals = {
        "within 2 x of np.fromfile": figures["over_fromfile"] <= 2,
        "at least 20 x a DataLoader": figures["loader_over_tensors"] >= 20,
        "28,103 rows are built within 10 s": seconds < 10,
        "twice the rows peak within 10 %": peaks[1] <= 1.1 * peaks[0],
        "below 1 GB": peaks[1] < 1000,
    }
    return report("reading", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
