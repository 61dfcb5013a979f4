"""Fitting a CCA costs little more than the matrix products it cannot do without, and memory stays flat.

    python benchmarks/cca.py [--quick] [--check]

Prints, all of one run: (1) the time of a whole fit, from rows to directions, of VEGAS's training shape in float64, as
a ratio to the three bare Gram products on the same threads; (2) the same against scikit-learn's and cca_zoo's CCA, on a
size they can finish, with the largest difference of the correlations; (3) the memory that streaming a million rows
takes beyond the imports, measured in a process of its own.
"""

import multiprocessing
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from harness import interleaved, parse, report

from modeling_dualspace import PairMoments, canonical_directions


def clips(rows: int, audio_dim: int, visual_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of the same latent, with noise."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(rows, 20, generator=generator, dtype=dtype)
    views = []
    for width in (audio_dim, visual_dim):
        mix = torch.randn(20, width, generator=generator, dtype=dtype) / 20**0.5
        views.append(latent @ mix + torch.randn(rows, width, generator=generator, dtype=dtype))
    return views[0], views[1]


def fit(audio: torch.Tensor, visual: torch.Tensor, ridge: float = 1e-4, dim: int = 10) -> torch.Tensor:
    """Rows to directions; returns the correlations."""
    moments = PairMoments(audio.shape[1], visual.shape[1]).update(audio, visual)
    return canonical_directions(moments.covariances(), dim, ridge).correlations


def against_bare_products(quick: bool) -> dict:
    """(1) The fit against the three Gram products."""
    rows = 22482
    audio, visual = clips(rows, 128, 1024, torch.float64)
    single = audio.float(), visual.float()
    seconds = interleaved(
        3 if quick else 9,
        products=lambda: (audio.T @ audio, audio.T @ visual, visual.T @ visual),
        fit=lambda: fit(audio, visual),
        fit_float32=lambda: fit(*single),
        fit_no_ridge=lambda: fit(audio, visual, ridge=0.0),
    )
    print(f"{rows} rows of 128 and 1024: three Gram products take {seconds['products']:.2f} s")
    figures = {}
    for name, what in (
        ("fit", "float64 rows, ridge 1e-4"),
        ("fit_float32", "float32 rows, widened on the way"),
        ("fit_no_ridge", "float64 rows, no ridge"),
    ):
        figures[f"{name}_over_products"] = seconds[name] / seconds["products"]
        print(f"  whole fit, {what}: {figures[f'{name}_over_products']:.2f} times that")
    return figures


def against_peers(quick: bool) -> dict:
    """(2) The fit against libraries."""
    import cca_zoo.linear
    import sklearn.cross_decomposition
    from threadpoolctl import threadpool_limits

    rows, audio_dim, visual_dim, dim = (2000 if quick else 5000), 32, 64, 10
    audio, visual = clips(rows, audio_dim, visual_dim, torch.float64)
    views = audio.numpy(), visual.numpy()
    sklearn_model = sklearn.cross_decomposition.CCA(n_components=dim, tol=1e-14, max_iter=100_000)
    zoo_model = cca_zoo.linear.CCA(n_components=dim)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # One thread each: two pools that wait for each other by spinning would be measured instead.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        seconds = interleaved(
            2 if quick else 5,
            ours=lambda: fit(audio, visual, ridge=0.0),
            sklearn=lambda: sklearn_model.fit(*views),
            cca_zoo=lambda: zoo_model.fit(list(views)),
        )
    torch.set_num_threads(threads)
    correlations = fit(audio, visual, ridge=0.0)

    def difference(one, other) -> float:
        theirs = sorted((abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(one.T, other.T, strict=True)), reverse=True)
        return float(np.abs(np.array(theirs) - correlations.numpy()).max())

    figures = {
        "sklearn_over_ours": seconds["sklearn"] / seconds["ours"],
        "cca_zoo_over_ours": seconds["cca_zoo"] / seconds["ours"],
        "difference_to_sklearn": difference(*sklearn_model.transform(*views)),
        "difference_to_cca_zoo": difference(*zoo_model.transform(list(views))),
    }
    print(
        f"{rows} rows of {audio_dim} and {visual_dim}, {dim} directions, one thread: "
        f"ours takes {seconds['ours'] * 1e3:.1f} ms"
    )
    for peer in ("sklearn", "cca_zoo"):
        print(
            f"  {peer}: {figures[f'{peer}_over_ours']:.1f} times that; "
            f"largest difference of a correlation {figures[f'difference_to_{peer}']:.1e}"
        )
    return figures


def _kilobytes(field: str) -> int:
    """Of this process, since its own start: `ru_maxrss` would go on from its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:")))


def _stream(rows: int, chunk: int, answer) -> None:
    before = _kilobytes("VmRSS")
    generator = torch.Generator().manual_seed(0)
    moments = PairMoments(128, 1024)
    for _ in range(rows // chunk):
        moments.update(torch.randn(chunk, 128, generator=generator), torch.randn(chunk, 1024, generator=generator))
    canonical_directions(moments.covariances(), 10, 1e-4)
    answer.put((_kilobytes("VmHWM") - before) / 1024)


def memory(quick: bool) -> dict:
    """(3) Peak memory of a stream, above the imports."""
    rows = 100_000 if quick else 1_000_000
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_stream, args=(rows, 5000, answer))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The streaming process ended with {process.exitcode}; memory is read from Linux's /proc.")
    megabytes = answer.get()
    print(f"streaming {rows:,} rows of 128 and 1024 in batches of 5,000: {megabytes:.0f} MB above the imports")
    return {"stream_rows": rows, "stream_megabytes": megabytes}


def main(argv: list[str] | None = None) -> int:
    """Runs all three."""
    arguments = parse(__doc__, argv)
    figures = against_bare_products(arguments.quick) | against_peers(arguments.quick) | memory(arguments.quick)
    goals = {
        "fit at most 2 times the three Gram products": figures["fit_over_products"] <= 2,
        "correlations within 1e-6 of scikit-learn's": figures["difference_to_sklearn"] < 1e-6,
        f"below 300 MB above the imports for {figures['stream_rows']:,} rows": figures["stream_megabytes"] < 300,
    }
    return report("cca", figures, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
