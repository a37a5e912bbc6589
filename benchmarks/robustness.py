"""Robustness in numbers: one table of what was tried and what came of it.

``python -m benchmarks.robustness`` (about 25 minutes of one core, most of it the 50 kills and the foreign test-suites);
``--only malformed coverage`` makes some rows again and keeps the stored ones of the others. Results, with the date of
each row, go to ``benchmarks/results/robustness.{json,md}``. Exit code 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks.families import FAMILIES
from rl_forecast.forecasting.methods import ExponentialPivot, ShapePrior
from rl_forecast.summary import TailSummary
from tests.kill_and_resume import Trial, small_run, start_train, trials_of

RESULTS = Path(__file__).parent / "results"
_LEVEL = 0.90

#: One row of the table: what, how many tried, how many held, and a sentence.
Row = dict[str, Any]


def kills(args: argparse.Namespace, home: Path) -> list[Row]:
    """Runs killed at random moments, and resumed to the bit."""
    trials: list[Trial] = []
    started = time.perf_counter()
    for trial in trials_of(args.trials, args.seed, home):
        trials.append(trial)
        # Kept as they come: a study that is stopped shows what it has done.
        store("kills", kill_rows(trials), time.perf_counter() - started)
    return kill_rows(trials)


def kill_rows(trials: list[Trial]) -> list[Row]:
    """Rows of the table from trials."""
    rows = []
    for job, title in (("gridworld", "PPO and ForecastPPO"), ("language", "language model")):
        own = [trial for trial in trials if trial.job == job]
        if not own:
            continue
        shares = [trial.steps_before for trial in own]
        rows.append(
            {
                "what": f"kill -9 and resume, {title}",
                "tried": len(own),
                "held": sum(not trial.faults for trial in own),
                "how": f"{sum(len(trial.killed_at) for trial in own)} kills; weights, scores, metrics, figures and "
                f"TensorBoard points identical; training steps not done again: {min(shares):.0%} to {max(shares):.0%}, "
                f"median {np.median(shares):.0%}; {sum(share == 0 for share in shares)} killed before the first state",
                "trials": [asdict(trial) for trial in own],
            }
        )
    return rows


def malformed(args: argparse.Namespace, home: Path) -> list[Row]:
    """Damaged files, given to the commands that read them: an answer or one line, never a traceback."""
    from rl_forecast import cli
    from rl_forecast.evaluate import main as evaluate
    from rl_forecast.train import main as train

    rng = np.random.default_rng(args.seed)
    sound = _sound_scores(home / "sound")
    scores = _Tally()
    for i in range(args.inputs):
        source = sound[i % len(sound)]
        path = home / f"damaged{source.suffix}"
        path.write_bytes(_damaged(source.read_bytes(), rng))
        command = ("forecast", "backtest", "summarize")[i % 3]
        more = ["--out", str(home / "out.json")] if command == "summarize" else ["-n", "20"]
        scores.count(lambda c=command, p=path, m=more: cli.main([c, str(p), *m]), f"{command} {path.suffix}")  # type: ignore[misc]
    run = _finished_run(home)
    folders = _Tally()
    names = [
        "config.yaml",
        "scores.parquet",
        "metrics.json",
        "agents/base/agent.json",
        "agents/base/policy.safetensors",
    ]
    for i in range(args.inputs // 4):
        copy = home / "run"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        target = copy / names[i % len(names)]
        target.write_bytes(_damaged(target.read_bytes(), rng))
        if i % 2:
            folders.count(lambda c=copy: evaluate([str(c), "--n-deploy", "250"]), f"evaluate, {target.name}")  # type: ignore[misc]
        else:
            folders.count(lambda c=copy: train(["--resume", str(c)]), f"resume, {target.name}")  # type: ignore[misc]
    return [scores.row("damaged score files: forecast, backtest, summarize"), folders.row("damaged run folders")]


class _Tally:
    """Ends of commands on damaged input."""

    def __init__(self) -> None:
        self.ends: dict[str, int] = {"answered": 0, "refused in one line": 0}
        self.faults: list[str] = []

    def count(self, command: Callable[[], int], what: str) -> None:
        error = io.StringIO()
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(error):
                code = command()
        except Exception as exception:
            self.faults.append(f"{what}: {type(exception).__name__}: {exception}"[:300])
            return
        lines = error.getvalue().strip().splitlines()
        if code in (0, 3):
            self.ends["answered"] += 1
        elif code == 2 and len(lines) <= 2:
            self.ends["refused in one line"] += 1
        else:
            self.faults.append(f"{what}: exit code {code}, {len(lines)} lines")

    def row(self, what: str) -> Row:
        held = sum(self.ends.values())
        how = ", ".join(f"{n} {end}" for end, n in self.ends.items()) + (", no traceback" if not self.faults else "")
        return {"what": what, "tried": held + len(self.faults), "held": held, "how": how, "faults": self.faults}


def _sound_scores(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    p = np.random.default_rng(0).random(60)
    table = pl.DataFrame({"p": p})
    table.write_parquet(folder / "x.parquet")
    table.write_csv(folder / "x.csv")
    table.write_ndjson(folder / "x.jsonl")
    np.savez(folder / "x.npz", p=p)
    np.save(folder / "x.npy", p)
    return sorted(folder.iterdir())


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, max(len(damaged), 1)))
        kind = rng.integers(4)
        if kind == 0:
            del damaged[at:]
        elif kind == 1 and damaged:
            damaged[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            damaged[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del damaged[at : at + int(rng.integers(1, 20))]
    return bytes(damaged)


def _finished_run(home: Path, name: str = "finished", **changes: Any) -> Path:
    """A small run of the base agent and ForecastPPO."""
    config = small_run("gridworld", 4096) | {"agents": ["base", "forecast_ppo"]} | changes
    file = home / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    process = start_train(["--config", str(file), "--log-dir", str(home / name)], home / f"{name}.txt")
    process.join()
    if process.exitcode:
        raise RuntimeError((home / f"{name}.txt").read_text())
    return home / name / "kill-0"


def foreign(args: argparse.Namespace, home: Path) -> list[Row]:
    """Test-suites of other projects on what this one offers, and Gymnasium's and SB3's environment checkers."""
    rows = []
    titles = {
        "minigrid": "MiniGrid's environment tests on our ids (with Gymnasium's checker)",
        "stable-baselines3": "SB3's tests of PPO on ForecastPPO, term off",
        "stable-baselines3-term": "SB3's tests of PPO on ForecastPPO, term on",
    }
    script = Path(__file__).parents[1] / "tests" / "foreign" / "run_suite.py"
    for suite, title in titles.items():
        result = subprocess.run([sys.executable, str(script), suite], capture_output=True, text=True, check=False)
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", result.stdout[-400:])}
        print(f"{suite}: {counts or result.stdout[-200:]}", flush=True)
        passed, bad = counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
        if not passed and not bad:
            continue  # no network and no cached sdist: the row of an earlier time stays
        rows.append(
            {"what": title, "tried": passed + bad, "held": passed, "how": f"{counts.get('skipped', 0)} skipped"}
        )
    return rows


def coverage(args: argparse.Namespace, home: Path) -> list[Row]:
    """Prediction intervals against simulated maxima: the exact pivot where it is exact, the default on every family."""
    rng = np.random.default_rng([args.seed, 7])
    m, n, exponential = 200, 4_000, FAMILIES[0]
    inside = _inside(ExponentialPivot(10), exponential, m, n, args.replications, rng)
    share = inside / args.replications
    error = (_LEVEL * (1 - _LEVEL) / args.replications) ** 0.5
    rows = [
        {
            "what": "90 % intervals, exponential pivot on exponential tails",
            "tried": args.replications,
            "held": inside,
            "expected": abs(share - _LEVEL) < 4 * error,
            "how": f"coverage {share:.3f} of nominal {_LEVEL}, standard error {error:.3f}",
        }
    ]
    m, n, each = 1_000, 10_000, max(args.replications // 20, 10)
    shares = {f.name: _inside(ShapePrior(), f, m, n, each, rng) / each for f in FAMILIES if not f.unseen}
    worst = min(shares, key=shares.__getitem__)
    mean = float(np.mean(list(shares.values())))
    rows.append(
        {
            "what": f"90 % intervals, shape prior on {len(shares)} families of tails",
            "tried": each * len(shares),
            "held": round(sum(shares.values()) * each),
            # The families are outside what the interval is exact for: the target is that of the forecaster study.
            "expected": mean > 0.85,
            "how": f"mean coverage {mean:.3f}, lowest {shares[worst]:.2f} ({worst}); more: forecasters.md",
        }
    )
    return rows


def _inside(method: Any, family: Any, m: int, n: int, replications: int, rng: np.random.Generator) -> int:
    inside = 0
    for realised in family.maxima(rng, m, n, replications):
        fitted = method.fit(TailSummary.from_scores(family.scores(rng, m)))
        inside += bool(fitted.quantile(0.5 - _LEVEL / 2, n) <= realised <= fitted.quantile(0.5 + _LEVEL / 2, n))
    return inside


def determinism(args: argparse.Namespace, home: Path) -> list[Row]:
    """The same run twice, with other numbers of threads, and a sweep with other numbers of processes."""
    one, again, two = (
        _finished_run(home, name, threads=threads) for name, threads in (("one", 1), ("again", 1), ("two", 2))
    )
    files = ["scores.parquet", "metrics.json", "survival.png"]
    files += [f"agents/{agent}/policy.safetensors" for agent in ("base", "forecast_ppo")]
    same = sum((one / f).read_bytes() == (again / f).read_bytes() for f in files)
    rows = [
        {"what": "files of the same run, made twice", "tried": len(files), "held": same, "how": "equal byte for byte"}
    ]
    psi = [pl.read_parquet(run / "scores.parquet")["psi"].to_numpy() for run in (one, two)]
    gap = float(np.abs(psi[0] - psi[1]).max())
    rows.append(
        {
            "what": "scores of the same run with 1 and 2 torch threads",
            "tried": len(psi[0]),
            "held": int((np.abs(psi[0] - psi[1]) < 1e-3).sum()),
            "how": f"largest difference {gap:.1e} psi" + (" (equal to the bit)" if gap == 0 else ""),
        }
    )
    results = []
    for n_jobs in (1, 2):
        command = [sys.executable, "-m", "rl_forecast.sweep", "--preset", "rl-study-smoke", "--worlds", "[slip]"]
        command += ["--n-jobs", str(n_jobs), "--log-dir", str(home / f"sweep-{n_jobs}")]
        subprocess.run(command, check=True, capture_output=True)
        folder = home / f"sweep-{n_jobs}" / "rl-study-smoke"
        results.append({str(p.relative_to(folder)): pl.read_parquet(p) for p in sorted(folder.rglob("*.parquet"))})
    equal = sum(name in results[1] and table.equals(results[1][name]) for name, table in results[0].items())
    rows.append(
        {
            "what": "tables of a sweep with 1 and 2 processes",
            "tried": len(results[0].keys() | results[1].keys()),
            "held": equal,
            "how": "every value equal to the bit",
        }
    )
    return rows


SECTIONS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {
    "kills": kills,
    "malformed": malformed,
    "foreign": foreign,
    "coverage": coverage,
    "determinism": determinism,
}


def holds(row: Row) -> bool:
    """Whether a row is as it should be."""
    return bool(row.get("expected", row["held"] == row["tried"]))


def table(stored: dict[str, Any]) -> str:
    """The table of all rows as Markdown."""
    lines = ["# Robustness in numbers", "", "`python -m benchmarks.robustness`", ""]
    lines += ["| what | tried | held | | made on |", "|---|---:|---:|---|---|"]
    for name in SECTIONS:
        section = stored.get(name, {"rows": [], "date": ""})
        lines += [
            f"| {row['what']} | {row['tried']:,} | {row['held']:,} | {row['how']} | {section['date']} |"
            for row in section["rows"]
        ]
    return "\n".join(lines) + "\n"


def store(name: str, rows: list[Row], seconds: float) -> dict[str, Any]:
    """Put the rows of a section among those of the others.

    :return: all of them
    """
    path = RESULTS / "robustness.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if rows:
        stored[name] = {"date": datetime.now(UTC).date().isoformat(), "seconds": round(seconds), "rows": rows}
    path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    (RESULTS / "robustness.md").write_text(table(stored))
    return stored


def main() -> int:
    """Make the rows that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--trials", type=int, default=50, help="runs that are killed")
    parser.add_argument("--inputs", type=int, default=600, help="damaged score files; a quarter as many run folders")
    parser.add_argument("--replications", type=int, default=4000, help="simulated maxima")
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    stored: dict[str, Any] = {}
    home = Path(tempfile.mkdtemp(prefix="robustness-"))
    try:
        for name in args.only:
            started = time.perf_counter()
            folder = home / name
            folder.mkdir()
            stored = store(name, SECTIONS[name](args, folder), time.perf_counter() - started)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(table(stored))
    bad = [row["what"] for section in stored.values() for row in section["rows"] if not holds(row)]
    print(f"did not hold: {', '.join(bad)}" if bad else "all of it held")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
