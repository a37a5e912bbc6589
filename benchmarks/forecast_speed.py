"""How fast and how large: forecasts from a summary and from parquet files, beside scipy and pyextremes.

Run ``python benchmarks/forecast_speed.py --rows 1e7 1e8`` (the files need 8 bytes a row of disk). Every end-to-end
measurement is a process of its own, so that its time includes the imports and its peak memory is its own. Bootstraps
are measured at the smallest file only. Results go to ``benchmarks/results/forecast_speed.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

N_DEPLOY = 1_000_000_000

#: The jobs that a process of its own runs: each gets the parquet file and prints what it found.
JOBS = {
    "rl-forecast forecast": "from rl_forecast.cli import main; sys.exit(main(['forecast', path, '-n', '1e9']))",
    "rl-forecast as a library": "from rl_forecast import forecast\n"
    "from rl_forecast.io import ReadOptions, read_groups\n"
    "s = read_groups([path], ReadOptions())[''].summary; f = forecast(s, n_deploy=10**9)\n"
    "print(f.worst_query_psi, f.prediction_interval(unit='psi'))",
    "scipy: GPD on top 1 %, no interval": "import numpy as np, polars as pl\nfrom scipy.stats import genpareto\n"
    "x = -np.log(-pl.read_parquet(path)['log_p'].to_numpy()); u = np.quantile(x, 0.99); z = x[x > u] - u\n"
    "xi, _, s = genpareto.fit(z, floc=0); print(u + genpareto.isf(1 / (1e9 * 0.01), xi, scale=s))",
    "scipy: the same with 100 bootstrap fits": "import numpy as np, polars as pl\nfrom scipy.stats import genpareto\n"
    "x = -np.log(-pl.read_parquet(path)['log_p'].to_numpy()); u = np.quantile(x, 0.99); z = x[x > u] - u\n"
    "rng = np.random.default_rng(0); levels = []\n"
    "for _ in range(100):\n"
    "    xi, _, s = genpareto.fit(rng.choice(z, z.size), floc=0)\n"
    "    levels.append(u + genpareto.isf(1 / (1e9 * 0.01), xi, scale=s))\n"
    "print(np.quantile(levels, [0.05, 0.95]))",
    "pyextremes: POT, MLE, bootstrap interval": "import numpy as np, pandas as pd, polars as pl, warnings\n"
    "warnings.simplefilter('ignore')\nfrom pyextremes import EVA\n"
    "x = -np.log(-pl.read_parquet(path)['log_p'].to_numpy())\n"
    "index = pd.date_range('1800-01-01', periods=x.size, freq='s')\n"
    "eva = EVA(pd.Series(x, index=index)); eva.get_extremes('POT', threshold=np.quantile(x, 0.99), r='1s')\n"
    "eva.fit_model(model='MLE')\n"
    "print(eva.get_return_value(1e9, return_period_size='1s', alpha=0.9, n_samples=100))",
}
AT_EVERY_SIZE = ("rl-forecast forecast", "rl-forecast as a library", "scipy: GPD on top 1 %, no interval")


def write_scores(path: Path, rows: int, seed: int = 0) -> None:
    """A parquet file of log probabilities with an exponential tail, written in parts of constant memory."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, rows, 5_000_000):
        psi = rng.exponential(0.3, size=min(5_000_000, rows - start)) - 2.5
        parts.append(path.with_suffix(f".{len(parts)}"))
        pl.DataFrame({"log_p": -np.exp(-psi)}).write_parquet(parts[-1], compression="uncompressed")
    pl.scan_parquet(parts).sink_parquet(path, compression="uncompressed", row_group_size=1_000_000)
    for part in parts:
        part.unlink()


def measure(code: str, path: Path) -> dict[str, object]:
    """Seconds, peak resident memory and output of a Python process that runs some code on a file."""
    program = f"import sys; path = {str(path)!r}\n{code}"
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().strip()
    if process.returncode:
        raise RuntimeError(f"measured program failed:\n{text[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime  # unlike the wall clock, hardly moved by what else the machine does
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": usage.ru_maxrss / 1024.0, "output": text[-200:]}


def from_summary(repeats: int = 30) -> list[dict[str, object]]:
    """One forecast with interval from a summary, and scipy's fit of the same top scores."""
    from scipy.stats import genpareto

    from rl_forecast import TailSummary, forecast

    rng = np.random.default_rng(0)
    summaries = [TailSummary.from_scores(rng.exponential(size=100_000)) for _ in range(repeats)]

    def ours(method: str, summary: TailSummary) -> None:
        fc = forecast(summary, n_deploy=10_000_000, method=method)
        _ = fc.worst_query_psi, fc.prediction_interval()

    def scipys(k: int, summary: TailSummary) -> None:
        genpareto.fit(summary.top[: k - 1] - summary.top[k - 1], floc=0)

    methods = ("shape_prior", "exponential_pivot", "gumbel_tail", "gpd")
    jobs = {f"forecast with interval, {m}": (lambda s, m=m: ours(m, s)) for m in methods}
    jobs |= {f"scipy genpareto.fit, k = {k}, no interval": (lambda s, k=k: scipys(k, s)) for k in (100, 1_000)}
    rows = []
    for name, job in jobs.items():
        job(summaries[0])  # fills caches of constants that depend on k, m and n only
        times = []
        for summary in summaries:
            start = time.perf_counter()
            job(summary)
            times.append(time.perf_counter() - start)
        rows.append({"job": name, "median_ms": 1e3 * float(np.median(times)), "worst_ms": 1e3 * max(times)})
    return rows


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=float, default=[1e7, 1e8])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "forecast_speed")
    args = parser.parse_args()
    summary_rows = from_summary()
    for row in summary_rows:
        print(row, flush=True)
    file_rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in sorted(int(r) for r in args.rows):
            path = Path(folder) / "scores.parquet"
            write_scores(path, rows)
            smallest = rows == min(int(r) for r in args.rows)
            for name, code in JOBS.items():
                if name in AT_EVERY_SIZE or smallest:
                    found = measure(code, path)
                    found |= {"job": name, "rows": rows}
                    file_rows.append(found)
                    print(found, flush=True)
            path.unlink()
    text = report(summary_rows, file_rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps({"summary": summary_rows, "files": file_rows}, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(text)
    print(text)
    return 0


def report(summary_rows: list[dict[str, object]], file_rows: list[dict[str, object]]) -> str:
    """Markdown tables."""
    threads = os.environ.get("POLARS_MAX_THREADS", str(os.cpu_count()))
    lines = [
        "# Speed of a forecast",
        "",
        f"`python benchmarks/forecast_speed.py`, {os.cpu_count()} cores, POLARS_MAX_THREADS={threads}.",
        "",
        "From a summary (m = 100 000, n = 1e7):",
        "",
        "| job | median ms | worst ms |",
        "|--|--|--|",
        *(f"| {r['job']} | {r['median_ms']:.2f} | {r['worst_ms']:.2f} |" for r in summary_rows),
        "",
        "From a parquet file of log probabilities, start of Python and imports included:",
        "",
        "| rows | job | seconds | CPU seconds | peak MB |",
        "|--|--|--|--|--|",
        *(
            f"| {r['rows']:.0e} | {r['job']} | {r['seconds']:.1f} | {r['cpu_seconds']:.1f} | {r['peak_mb']:.0f} |"
            for r in file_rows
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
