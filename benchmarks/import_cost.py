"""Importing the package adds little to importing what any user of it has imported anyway.

    python benchmarks/import_cost.py [--quick] [--check]

Fresh interpreters time `from transformers import AutoModel, PreTrainedModel`, and then `import modeling_dualspace` in
the same process; printed are the medians. Goal: the second takes at most .3 s.
"""

import statistics
import subprocess
import sys

from harness import parse, report

CODE = """
import time
start = time.perf_counter()
from transformers import AutoModel, PreTrainedModel
middle = time.perf_counter()
import modeling_dualspace
print(middle - start, time.perf_counter() - middle)
"""


def measure() -> tuple[float, float]:
    """Seconds of both imports, in a fresh interpreter."""
    printed = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout
    transformers, added = map(float, printed.split())
    return transformers, added


def main(argv: list[str] | None = None) -> int:
    """Prints both times and their ratio."""
    arguments = parse(__doc__, argv)
    measure()  # fills the disk cache
    runs = [measure() for _ in range(3 if arguments.quick else 9)]
    transformers, added = (statistics.median(column) for column in zip(*runs, strict=True))
    figures = {"added_seconds": added, "added_over_transformers": added / transformers}
    print(f"transformers takes {transformers:.2f} s, DualSpace {added:.3f} s more ({added / transformers:.1%})")
    return report("import_cost", figures, {"at most .3 s more than transformers": added <= 0.3}, arguments)


if __name__ == "__main__":
    sys.exit(main())
