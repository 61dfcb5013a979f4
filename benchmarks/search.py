"""Exact search of an index is as fast as FAISS flat or faster, also of a million clips, and what it costs to keep one.

    python benchmarks/search.py [--quick] [--check]

An index of 10,000, 100,000 and 1,000,000 clips of 10 and of 512 numbers (of a million at 512 the pictures alone: the
sounds would be 2 GB more), and of codes of 64 bits: seconds to build, to open and to open again, bytes on disk,
median and 99th percentile of a single query for the first ten, queries a second of 64 at once. Beside it, in the same
run and in turn, FAISS flat and a product and a partition by NumPy over the same rows; Milvus Lite's file to 100,000;
and what inverted lists miss and gain. The first ten are compared with a sort of all scores in float64. Goals: a
million of 10 below 15 ms; a query of vectors within 1.5 x FAISS flat at every size from 100,000 on (below, both are
fractions of a millisecond, and ours looks up what the clips are besides; of codes FAISS is faster, in all its
threads); the first ten those of the sort, always. (--quick: to 100,000 of 10, 10,000 of 512, Milvus to 10,000.)
"""

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from harness import parse, report

from modeling_dualspace.index import Index, open_index
from modeling_dualspace.index_folder import FolderStore
from modeling_dualspace.index_milvus import MilvusStore
from modeling_dualspace.index_rows import Identity

BATCH, K, MANY = 65_536, 10, 64
MAKER = "0123456789abcdef"
Embeds = tuple[np.ndarray, np.ndarray | None]


def made_up(rows: int, width: int, codes: bool, both: bool) -> Embeds:
    """Pictures around a hundred centres, and sounds around the pictures; unit rows, or codes."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((100, width), dtype=np.float32)
    visual = centres[generator.integers(0, 100, rows)] + generator.standard_normal((rows, width), dtype=np.float32)
    audio = visual[: rows if both else 1000] + generator.standard_normal(
        (rows if both else 1000, width), dtype=np.float32
    )
    return tuple(unit(array, codes) for array in (visual, audio))  # type: ignore[return-value]


def unit(rows: np.ndarray, codes: bool) -> np.ndarray:
    """As a model gives them."""
    if codes:
        return (np.where(rows >= 0, 1, -1) / rows.shape[1] ** 0.5).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(index: Index, visual: np.ndarray, audio: np.ndarray, both: bool) -> float:
    """Seconds to add all clips."""
    begun = time.perf_counter()
    for start in range(0, len(visual), BATCH):
        part = slice(start, min(start + BATCH, len(visual)))
        names = [f"film-{row // 20:06d}.mp4#t={row % 20}" for row in range(part.start, part.stop)]
        facts = {
            "path": [name.partition("#")[0] for name in names],
            "labels": [[f"class {row % 10}"] for row in range(part.start, part.stop)],
        }
        index.add(names, audio[part] if both else None, visual[part], made_by=MAKER, **facts)
    return time.perf_counter() - begun


def in_turn(repeats: int, **runs: Callable[[int], object]) -> dict[str, np.ndarray]:
    """Milliseconds of each, run one after the other."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(-2, repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(repeat)
            if repeat >= 0:
                taken[name].append(1e3 * (time.perf_counter() - begun))
    return {name: np.array(times) for name, times in taken.items()}


def flat(visual: np.ndarray, codes: bool) -> tuple[Callable[[np.ndarray], object], Callable[[np.ndarray], object]]:
    """FAISS's exact index of the same rows, and a product with a partition."""
    if codes:
        bits = np.packbits(visual > 0, axis=1)
        index = faiss.IndexBinaryFlat(visual.shape[1])
        index.add(bits)
        return (
            lambda query: index.search(np.packbits(query > 0, axis=1), K),
            lambda query: np.argpartition(np.bitwise_count(bits ^ np.packbits(query > 0, axis=1)).sum(axis=1), K)[:K],
        )
    index = faiss.IndexFlatIP(visual.shape[1])
    index.add(visual)

    def numpy(query: np.ndarray) -> np.ndarray:
        scores = visual @ query[0]
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])]

    return lambda query: index.search(query, K), numpy


def is_exact(index: Index, visual: np.ndarray, queries: np.ndarray) -> bool:
    """Whether the first ten are those of a sort of all scores in float64, ties in the order of rows."""
    hits = index.search_embeds(queries, among="visual", k=K, made_by=MAKER)
    for query, found in zip(queries, hits, strict=True):
        scores = np.concatenate(
            [(visual[start : start + BATCH].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
             for start in range(0, len(visual), BATCH)]
        )  # fmt: skip
        best = np.argsort(-np.round(scores, 12), kind="stable")[:K]
        if [f"film-{row // 20:06d}.mp4#t={row % 20}" for row in best] != [hit.clip_id for hit in found]:
            return False
    return True


def measure(folder: Path, rows: int, width: int, codes: bool, quick: bool) -> dict[str, float]:
    """One size."""
    both = rows * width <= 200_000_000
    visual, audio = made_up(rows, width, codes, both)
    queries = np.ascontiguousarray(audio[np.linspace(0, len(audio) - 1, 256).astype(int)])
    place = folder / f"{rows}-{width}"
    store = FolderStore.create(place, Identity("made up", "dualspace", MAKER, None, width, codes))
    found = {"build_s": fill(Index(store, str(place)), visual, audio, both)}
    store.close()
    for again in ("open_s", "open_again_s"):
        begun = time.perf_counter()
        index = open_index(place)
        found[again] = time.perf_counter() - begun
    found["bytes"] = index.describe()["bytes"]
    found["exact"] = float(is_exact(index, visual, queries[:: 64 if rows * width > 50_000_000 else 16]))
    faiss_flat, numpy = flat(visual, codes)

    def ours(query: np.ndarray) -> object:
        return index.search_embeds(query, among="visual", k=K, made_by=MAKER)

    calls = {"ours": ours, "faiss": faiss_flat, "numpy": numpy}
    repeats = max(20, min(200, 400_000_000 // (rows * width))) // (2 if quick else 1)
    times = in_turn(repeats, **{name: _one(call, queries) for name, call in calls.items()})
    for name, taken in times.items():
        found |= {f"{name}_ms": float(np.median(taken)), f"{name}_99_ms": float(np.percentile(taken, 99))}
    many = in_turn(5, **{name: _many(call, queries) for name, call in calls.items() if name != "numpy"})
    found |= {f"{name}_queries_per_s": MANY / (1e-3 * float(np.median(taken))) for name, taken in many.items()}
    found["times_faiss"] = float(np.median(times["ours"]) / np.median(times["faiss"]))
    found["times_numpy"] = float(np.median(times["ours"]) / np.median(times["numpy"]))
    if not codes and both and rows >= 100_000:
        found |= _listed(place, queries, ours)
    index.close()
    return found


def _one(call: Callable[[np.ndarray], object], queries: np.ndarray) -> Callable[[int], object]:
    return lambda repeat: call(queries[repeat % len(queries)][None])


def _many(call: Callable[[np.ndarray], object], queries: np.ndarray) -> Callable[[int], object]:
    return lambda repeat: call(queries[:MANY])


def _listed(place: Path, queries: np.ndarray, exact: Callable[[np.ndarray], object]) -> dict[str, float]:
    """What inverted lists find and gain."""
    begun = time.perf_counter()
    index = open_index(place, approximate=True)
    recall = index.describe()["approximate"]["visual"]["recall@10"]
    built = time.perf_counter() - begun

    def listed(query: np.ndarray) -> object:
        return index.search_embeds(query, among="visual", k=K, made_by=MAKER)

    times = in_turn(50, lists=_one(listed, queries), exact=_one(exact, queries))
    gain = float(np.median(times["exact"]) / np.median(times["lists"]))
    return {"lists_recall": recall, "lists_build_s": built, "lists_gain": gain}


def measure_milvus(folder: Path, rows: int, width: int) -> dict[str, float]:
    """Milvus Lite's file, the same clips."""
    visual, audio = made_up(rows, width, False, True)
    place = f"{folder / 'milvus'}-{rows}-{width}.db#clips"
    store = MilvusStore.create(place, Identity("made up", "dualspace", MAKER, None, width))
    index = Index(store, place)
    found = {"build_s": fill(index, visual, audio, True)}
    found["bytes"] = index.describe()["bytes"]
    found["exact"] = float(is_exact(index, visual, audio[:4]))
    times = in_turn(
        20, ours=lambda repeat: index.search_embeds(audio[repeat][None], among="visual", k=K, made_by=MAKER)
    )
    found |= {"ours_ms": float(np.median(times["ours"])), "ours_99_ms": float(np.percentile(times["ours"], 99))}
    index.close()
    return found


def main(argv: list[str] | None = None) -> int:
    """Every size, and the goals."""
    arguments = parse(__doc__, argv)
    logging.disable(logging.WARNING)
    sizes = [(10_000, 10, False), (100_000, 10, False), (10_000, 512, False), (100_000, 64, True)]
    milvus = [(10_000, 10)]
    if not arguments.quick:
        sizes += [(1_000_000, 10, False), (1_000_000, 64, True), (100_000, 512, False), (1_000_000, 512, False)]
        milvus += [(100_000, 10), (10_000, 512), (100_000, 512)]
    figures: dict[str, dict[str, float]] = {}
    folder = Path(tempfile.mkdtemp())
    try:
        for rows, width, codes in sizes:
            name = f"{rows} x {width}{' bits' if codes else ''}"
            figures[name] = measure(folder, rows, width, codes, arguments.quick)
            shutil.rmtree(folder / f"{rows}-{width}")
            _print(name, figures[name])
        for rows, width in milvus:
            name = f"Milvus Lite, {rows} x {width}"
            figures[name] = measure_milvus(folder, rows, width)
            _print(name, figures[name])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    goals = {
        "the first ten are those of a sort in float64, at every size": all(one["exact"] for one in figures.values())
    }
    vectors = {name: one for name, one in figures.items() if "times_faiss" in one and "bits" not in name}
    large = [one for name, one in vectors.items() if int(name.split()[0]) >= 100_000]
    worst = max(one["times_faiss"] for one in large)
    goals[f"a query takes at most 1.5 x FAISS flat from 100,000 clips on: {worst:.2f} x at worst"] = worst <= 1.5
    if "1000000 x 10" in figures:
        taken = figures["1000000 x 10"]["ours_ms"]
        goals[f"a million of 10 below 15 ms: {taken:.1f}"] = taken < 15
    return report("search", figures, goals, arguments)


def _print(name: str, figures: dict[str, float]) -> None:
    print(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
