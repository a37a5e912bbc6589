"""Coverage of the default forecast when probabilities are known only through J samples of each query.

Run ``python benchmarks/counts.py`` (two minutes). m = 1000, n = 10 000, 90 % intervals against the largest *true* p.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rl_forecast import forecast
from rl_forecast.scores import psi_from_p

POPULATIONS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "logit-normal(-4, 1.5)": lambda rng, size: special.expit(rng.normal(-4.0, 1.5, size)),
    "logit-normal(-8, 1.5)": lambda rng, size: special.expit(rng.normal(-8.0, 1.5, size)),
    "beta(0.08, 4)": lambda rng, size: rng.beta(0.08, 4.0, size),
}


def main() -> None:
    """Print one row for each population and J."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| population | J | methods chosen | refused | mean abs. error, psi | bias | coverage where forecast |")
    print("|--|--|--|--|--|--|--|")
    for name, draw in POPULATIONS.items():
        for samples in (10, 30, 100):
            chosen: Counter[str] = Counter()
            errors, inside = [], []
            for rep in range(args.replications):
                rng = np.random.default_rng([args.seed, samples, rep])
                failures = rng.binomial(samples, draw(rng, 1_000))
                truth = float(psi_from_p(draw(rng, 10_000)).max())
                fc = forecast(failures=failures, samples=samples, n_deploy=10_000)
                if fc.status == "degenerate":
                    continue
                chosen[fc.method] += 1
                low, high = fc.prediction_interval(0.9, "psi")[0]
                errors.append(float(fc.worst_query_psi[0]) - truth)
                inside.append(low <= truth <= high)
            refused = 1.0 - len(errors) / args.replications
            shares = ", ".join(f"{m} {c / len(errors):.2f}" for m, c in chosen.most_common())
            print(
                f"| {name} | {samples} | {shares} | {refused:.2f} | {np.abs(errors).mean():.2f} "
                f"| {np.mean(errors):+.2f} | {np.mean(inside):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
