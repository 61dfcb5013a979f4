"""Mean average precision of a whole validation split costs little, although ties are counted by expectation.

    python benchmarks/ranking.py [--quick] [--check]

Ranks 2,248 queries against as many items of ten classes (VEGAS's validation), one direction, one thread, and prints the
time as a ratio: to scikit-learn's `average_precision_score` in a loop over queries (which has no such ties), and to the
sort of the same scores by torch alone, which any ranking in torch would begin with; and, of that sort, NumPy's against
torch's. Goal: less time than torch's sort alone.
"""

import sys

import torch
from harness import interleaved, parse, report
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from modeling_dualspace.ranking import summed_average_precision


def main(argv: list[str] | None = None) -> int:
    """Prints the ratios and the largest difference."""
    arguments = parse(__doc__, argv)
    rows = 1000 if arguments.quick else 2248
    generator = torch.Generator().manual_seed(0)
    audio, visual = (torch.nn.functional.normalize(torch.randn(rows, 10, generator=generator), dim=1) for _ in range(2))
    targets = torch.eye(10)[torch.arange(rows) % 10]
    scores, relevant = audio @ visual.T, (targets @ targets.T).bool().numpy()
    peer = []

    def loop() -> None:
        peer[:] = [average_precision_score(relevant[query], scores[query].numpy()) for query in range(rows)]

    torch.set_num_threads(1)
    with threadpool_limits(1):
        seconds = interleaved(
            1 if arguments.quick else 3,
            ours=lambda: summed_average_precision(audio, visual, targets, targets),
            scikit_learn=loop,
            torch_sort=lambda: scores.sort(dim=1, descending=True),
            numpy_sort=lambda: scores.double().numpy().sort(axis=1),
        )
    total, count = summed_average_precision(audio, visual, targets, targets).tolist()
    figures = {
        "scikit_learn_over_ours": seconds["scikit_learn"] / seconds["ours"],
        "torch_sort_over_ours": seconds["torch_sort"] / seconds["ours"],
        "torch_sort_over_numpy_sort": seconds["torch_sort"] / seconds["numpy_sort"],
        "difference_to_scikit_learn": abs(total / count - sum(peer) / rows),
    }
    print(f"{rows} x {rows}, one direction: {seconds['ours']:.2f} s")
    print(f"  scikit-learn in a loop: {figures['scikit_learn_over_ours']:.1f} times that, "
          f"MAP differs by {figures['difference_to_scikit_learn']:.1e}")  # fmt: skip
    print(f"  torch's sort alone: {figures['torch_sort_over_ours']:.1f} times that, "
          f"and {figures['torch_sort_over_numpy_sort']:.1f} times NumPy's")  # fmt: skip
    return report("ranking", figures, {"less time than torch's sort": figures["torch_sort_over_ours"] > 1}, arguments)


if __name__ == "__main__":
    sys.exit(main())
