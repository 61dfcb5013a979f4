"""Average precision costs a few sorts of the scores alone, at any size of the gallery; what else there is takes longer.

    python benchmarks/average_precision.py [--quick] [--check]

Embeddings of width 10 and ten classes, 5,621 queries against as many items (VEGAS's test), both directions, from the
same two matrices of float32 scores: `average_precision` as a ratio to `np.sort` of the same scores, which any ranking
has to pay, and to its peers, all in one thread. Peers that take long rank a share of the queries, and their time is
scaled to all; what they need beforehand (ranx's dictionaries and compilation) is not counted. torchmetrics ranks all of
them, once, as its time does not scale, and as people run it: with as many threads as there are processors; so do we
then. `--quick` repeats less, gives torchmetrics one direction, and leaves out ranx.

From the embeddings, with every measure at every cut-off, the time of `query_scores` is given beside it.

Then 200 queries against 10,000 and 100,000 items: the peak memory of `query_scores` beyond the embeddings, and the time
of ranking, which may grow like n log n.
"""

import math
import os
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from harness import interleaved, parse, report
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits
from torchmetrics.retrieval import RetrievalMAP

from modeling_dualspace.average_precision import average_precision, query_chunks
from modeling_dualspace.retrieval_scores import query_scores, retrieval_scores

ROWS, CLASSES = 5621, 10
Matrices = list[tuple[np.ndarray, np.ndarray]]
"""Scores and relevance, of both directions."""


def make_embeddings(rows: int, seed: int) -> np.ndarray:
    """Rows of unit length; the class of row i is i modulo ten."""
    rows = np.random.default_rng(seed).standard_normal((rows, 10), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def relevance(queries: np.ndarray, items: int) -> np.ndarray:
    """Whether a query, by its number, shares its class with each item."""
    return queries[:, None] % CLASSES == np.arange(items) % CLASSES


def sort_alone(matrices: Matrices, memory: np.ndarray) -> None:
    """`np.sort`, but into memory that is there: fresh pages may take five times as long as the sort, or no time."""
    for scores, _ in matrices:
        np.copyto(memory, scores)
        memory.sort(axis=1)


# Peers: each takes both directions and gives the average precision of each query, but torchmetrics, which gives a mean.


def naive(matrices: Matrices) -> list[float]:
    """By the definition."""
    result = []
    for scores, relevant in matrices:
        for row, hits in zip(scores.tolist(), relevant.tolist(), strict=True):
            found, total = 0, 0.0
            for place, item in enumerate(sorted(range(len(row)), key=row.__getitem__, reverse=True), start=1):
                if hits[item]:
                    found += 1
                    total += found / place
            result.append(total / found)
    return result


def scikit_learn(matrices: Matrices) -> list[float]:
    """In a loop over queries."""
    return [average_precision_score(*row) for scores, hits in matrices for row in zip(hits, scores, strict=True)]


def torch_argsort(matrices: Matrices) -> list[float]:
    """As it is often written, in the chunks that we use."""
    result: list[float] = []
    for scores, relevant in matrices:
        ranks = torch.arange(1, scores.shape[1] + 1)
        for chunk in query_chunks(*scores.shape):
            order = torch.from_numpy(scores[chunk]).argsort(dim=1, descending=True)
            hits = torch.from_numpy(relevant[chunk]).gather(1, order)
            result += ((hits.cumsum(1) / ranks * hits).sum(1) / hits.sum(1)).tolist()
    return result


def torchmetrics(matrices: Matrices) -> list[float]:
    """Of scores that are positive: it takes no other for relevant."""
    result = []
    for scores, relevant in matrices:
        metric = RetrievalMAP()
        numbers = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
        metric.update(torch.from_numpy(scores).flatten() + 2, torch.from_numpy(relevant).flatten(), indexes=numbers)
        result.append(metric.compute().item())
    return result


def ranx_of(matrices: Matrices) -> Callable[[], list[float]]:
    """On runs that are built and sorted."""
    import ranx

    pairs = []
    for scores, relevant in matrices:
        run = {f"q{q}": {f"d{d}": score for d, score in enumerate(row)} for q, row in enumerate(scores.tolist())}
        qrels = {f"q{q}": {f"d{d}": 1 for d in np.flatnonzero(row)} for q, row in enumerate(relevant)}
        pairs.append((ranx.Qrels(qrels), ranx.Run(run)))
    return lambda: [
        each for pair in pairs for each in ranx.evaluate(*pair, "map", return_mean=False, threads=1).tolist()
    ]


def measure_peers(matrices: Matrices, quick: bool) -> dict[str, float]:
    """Ratios of their time to ours, and how far their means are from ours."""
    queries = len(matrices[0][0])
    shares = {"torch_argsort": 500, "scikit_learn": 200, "naive": 30}
    peers = {"torch_argsort": torch_argsort, "scikit_learn": scikit_learn, "naive": naive}
    if not quick:  # it compiles for twenty seconds
        shares["ranx"] = 100
    some = {name: [(each[0][:share], each[1][:share]) for each in matrices] for name, share in shares.items()}
    runs = {name: partial(peer, some[name]) for name, peer in peers.items()}
    if not quick:
        runs["ranx"] = ranx_of(some["ranx"])
    seconds = interleaved(
        3 if quick else 5,
        ours=lambda: [average_precision(*each, threads=1) for each in matrices],
        numpy_sort=partial(sort_alone, matrices, np.empty_like(matrices[0][0])),
        **runs,
    )
    figures = {"seconds": seconds["ours"], "over_numpy_sort": seconds["ours"] / seconds["numpy_sort"]}
    print(f"{queries} x {queries}, both directions: {seconds['ours']:.3f} s")
    print(f"  {figures['over_numpy_sort']:.2f} times np.sort of the scores alone, {seconds['numpy_sort']:.3f} s")
    for name, share in shares.items():
        ratio = figures[f"{name}_over_ours"] = seconds[name] * queries / share / seconds["ours"]
        ours = np.mean([average_precision(*each).mean() for each in some[name]])
        difference = figures[f"difference_to_{name}"] = abs(float(np.mean(runs[name]()) - ours))
        print(f"  {name}: {ratio:.1f} times ours, from {share} queries each way; MAP differs by {difference:.1e}")
    return figures


def measure_torchmetrics(matrices: Matrices, threads: int) -> dict[str, float]:
    """On all queries, with all threads."""

    def ours() -> list[float]:
        return [float(average_precision(*each, threads=threads).mean()) for each in matrices]

    start = time.perf_counter()
    found = torchmetrics(matrices)
    peer = time.perf_counter() - start
    seconds = interleaved(5, ours=ours)["ours"]
    difference = abs(float(np.mean(found) - np.mean(ours())))
    print(f"  torchmetrics: {peer / seconds:.1f} times ours, all queries, {threads} threads each ({seconds:.3f} s); "
          f"MAP differs by {difference:.1e}")  # fmt: skip
    return {"torchmetrics_over_ours": peer / seconds, "difference_to_torchmetrics": difference, "threads": threads}


def measure_table(audio: np.ndarray, visual: np.ndarray) -> dict[str, float]:
    """From embeddings to every measure at every cut-off, both directions."""
    labels = np.arange(len(audio)) % CLASSES
    seconds = interleaved(3, table=lambda: retrieval_scores(audio, visual, labels))["table"]
    print(f"  the whole table, from the embeddings: {seconds:.2f} s")
    return {"table_seconds": seconds}


# Growth.


def peak_bytes(queries: np.ndarray, gallery: np.ndarray) -> int:
    """Of scoring, beyond the float64 copy of the gallery. NumPy reports to tracemalloc what it takes."""
    labels = [np.arange(len(rows)) % CLASSES for rows in (queries, gallery)]
    tracemalloc.start()
    query_scores(queries, gallery, *labels, paired=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - 8 * gallery.size


def measure_growth() -> dict[str, float]:
    """From 10,000 items to ten times as many."""
    queries, small, large = make_embeddings(200, 0), make_embeddings(10_000, 1), make_embeddings(100_000, 2)
    peaks = [peak_bytes(queries, gallery) for gallery in (small, large)]
    given = {
        name: (queries @ gallery.T, relevance(np.arange(200), len(gallery)))
        for name, gallery in (("small", small), ("large", large))
    }
    seconds = interleaved(7, **{name: partial(average_precision, *each, threads=1) for name, each in given.items()})
    ideal = 10 * math.log(100_000) / math.log(10_000)
    figures = {
        "peak_mebibytes": peaks[1] / 2**20,
        "peak_growth": peaks[1] / peaks[0],
        "time_growth_over_n_log_n": seconds["large"] / seconds["small"] / ideal,
    }
    print(f"200 x 100,000: peak {figures['peak_mebibytes']:.1f} MiB beyond the float64 copy of the gallery, "
          f"{seconds['large'] / 200 * 1e3:.2f} ms a query")  # fmt: skip
    print(f"  against 200 x 10,000: {figures['peak_growth']:.2f} times the memory, "
          f"{figures['time_growth_over_n_log_n']:.2f} times n log n in time")  # fmt: skip
    return figures


def main(argv: list[str] | None = None) -> int:
    """Prints ratios and growth."""
    arguments = parse(__doc__, argv)
    audio, visual = make_embeddings(ROWS, 0), make_embeddings(ROWS, 1)
    relevant = relevance(np.arange(ROWS), ROWS)
    matrices = [(audio @ visual.T, relevant), (visual @ audio.T, relevant)]
    threads = os.cpu_count() or 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        with threadpool_limits(1):
            figures = measure_peers(matrices, arguments.quick)
            figures |= measure_table(audio, visual)
        torch.set_num_threads(threads)
        figures |= measure_torchmetrics(matrices[:1] if arguments.quick else matrices, threads)
        figures |= measure_growth()
    differences = [value for name, value in figures.items() if name.startswith("difference")]
    goals = {
        "MAP as all peers have it, to 1e-6": max(differences) <= 1e-6,
        "at most 4 times np.sort of the scores alone": figures["over_numpy_sort"] <= 4,
        "at least 50 times faster than torchmetrics": figures["torchmetrics_over_ours"] >= 50,
        "at least 3 times faster than argsort in torch": figures["torch_argsort_over_ours"] >= 3,
        "at most 1.2 times the memory for ten times the gallery": figures["peak_growth"] <= 1.2,
        "at most 1.5 times n log n in time": figures["time_growth_over_n_log_n"] <= 1.5,
    }
    return report("average_precision", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
