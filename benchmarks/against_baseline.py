"""Does this tree compute what commit 7fab1a0 computes? Both are run on this machine, with the same interpreter.

    python benchmarks/against_baseline.py                              # everything, a few minutes
    python benchmarks/against_baseline.py --only weights forecasts     # without the training jobs
    python benchmarks/against_baseline.py --only metrics --presets smoke

Three parts: policy weights after short trainings, ``metrics.json`` of presets, and the JSON of ``rl-forecast forecast``
on score files of all formats. Texts are not compared, numbers and names are. Every difference is printed with its size;
the exit code is 1 if one is not in ``ON_PURPOSE``. The baseline's results are kept in the user's cache folder.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import inspect
import io
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

BASELINE = "7fab1a0"
ROOT = Path(__file__).resolve().parents[1]

#: Patterns of values that differ on purpose (see CHANGELOG.md), as printed: part/case/key.
ON_PURPOSE = ["metrics/password-game-smoke/*/base_share_above_1_percent"]
#: Part of a key at the baseline -> its name today.
RENAMED = {
    "error_over_scale": "abs_error_over_scale",
    "mean_p": "mean_risk",
    "mean_p_rare": "mean_risk_rare",
    "share_risen": "share_riskier_than_base",
    "under_prediction_by_1_rate": "under_by_1_psi",
    "worst_p": "worst_risk",
}
#: Relative difference that is let pass. An agent's metrics follow its weights, whose last digits may differ.
TOLERANCE = {"weights": 0.0, "metrics": 1e-3, "forecasts": 1e-9}
WEIGHTS_TOLERANCE = 1e-5  # absolute
# A quantile over weighted nodes: a rounding in the sums that reach it changes their order, already between two formats.
LOOSE = {"*/aggregate_risk/*": 1e-3}
PRESETS = ("smoke", "password-game-smoke", "default")
#: Keys of the forecast's JSON that hold prose.
_PROSE = {"sentence", "reason", "notes", "schema"}


# Every setting in full, so that no default of either tree takes part.
_SHARED = {"tail_k": 10, "n_partitions": 64, "n_eval": 200, "n_deploy": 800, "n_known_tasks": 4000}
_SHARED |= {"episodes_per_task": 1, "gradient": "full", "psi_cap": 3.0, "interval": 4, "max_grad_norm": 0.25}
_SHARED |= {"risk": "direct"}
_PAPER = {"coef": 1.0, "mean_risk_coef": 0.0, "anchor_coef": 0.0, "error_space": "psi", "penalty": "squared"}
_ADVISED = {"coef": 0.1, "mean_risk_coef": 100.0, "anchor_coef": 100.0, "error_space": "log10_p", "penalty": "huber"}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "paper": _SHARED | _PAPER | {"max_grad_ratio": None},
    "recommended": _SHARED | _ADVISED | {"max_grad_ratio": 0.3},
}
# Names of ForecastPPO's arguments at the baseline: setting, and what was put before or in place of it.
_OLD = {"mean_risk_coef": "risk_coef", "risk": "risk_estimator"}
_OLD |= {n: f"forecast_{n}" for n in ("coef", "gradient", "interval", "max_grad_norm", "max_grad_ratio")}

# -- run with either tree on the path -----------------------------------------------------------------------------


def train(name: str, n_rollouts: int = 24) -> dict[str, Any]:
    """Train with one setting and return the policy's weights, flat."""
    from stable_baselines3 import PPO

    from envs import GridVecEnv, RecolorWorld

    try:
        from agents.ppo import ForecastPPO

        new = True
    except ImportError:
        from agents import ForecastPPO

        new = False
    n_envs, n_steps, setting = 64, 64, SETTINGS[name]
    env = GridVecEnv(RecolorWorld(), np.arange(50_000), num_envs=n_envs, seed=0)
    arguments: dict[str, Any] = {"n_steps": n_steps, "batch_size": 1024, "n_epochs": 4, "seed": 0, "device": "cpu"}
    base = PPO("MlpPolicy", env, **arguments)
    if setting.get("anchor_coef"):
        base.learn(8 * n_envs * n_steps)
    env = GridVecEnv(RecolorWorld(), np.arange(50_000), num_envs=n_envs, seed=1)
    if new:
        from rl_forecast.loss.settings import ForecastSettings

        settings = ForecastSettings(**setting) if setting else None
        anchor = base.policy if setting.get("anchor_coef") else None
        model = ForecastPPO("MlpPolicy", env, **arguments, settings=settings, anchor=anchor)
    else:
        given = setting or {"coef": 0.0}
        model = ForecastPPO("MlpPolicy", env, **arguments, **{_OLD.get(k, k): v for k, v in given.items()})
        if setting.get("anchor_coef"):
            model.set_anchor(base.policy)
    model.policy.load_state_dict(base.policy.state_dict())
    model.learn(n_rollouts * n_envs * n_steps)
    return {key: value.double().flatten().tolist() for key, value in model.policy.state_dict().items()}


def forecast(folder: Path) -> dict[str, Any]:
    """The JSON of ``rl-forecast forecast``, and its exit code, for each case in the folder."""
    found = {}
    for name, arguments in json.loads((folder / "cases.json").read_text()).items():
        sys.argv = ["rl-forecast", "forecast", *arguments.split(), "-n", "1e3", "1e6", "--json", "-"]
        out = io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(folder):
            try:
                runpy.run_module("rl_forecast", run_name="__main__")
            except SystemExit as stop:
                code = stop.code
        found[name] = {"exit": code or 0, "json": json.loads(out.getvalue() or "null")}
    return found


# -- run on this tree only ----------------------------------------------------------------------------------------


def make_files(folder: Path) -> None:
    """Score files of every format and what is asked of them, from one seed."""
    import polars as pl

    rng = np.random.default_rng(0)
    psi = rng.gumbel(-4.0, 0.5, 1_000)
    log_p = -np.exp(-psi)
    table = pl.DataFrame({"id": np.arange(psi.size), "log_p": log_p, "kind": ["a", "b"] * (psi.size // 2)})
    table.write_parquet(folder / "s.parquet", row_group_size=300)
    table.write_csv(folder / "s.csv")
    table.write_csv(folder / "s.tsv", separator="\t")
    table.write_ndjson(folder / "s.jsonl")
    np.savez(folder / "s.npz", log_p=log_p)
    np.save(folder / "s.npy", log_p)
    np.savetxt(folder / "bare.txt", np.exp(log_p))
    pl.DataFrame({"psi": np.round(psi, 1)}).write_csv(folder / "ties.csv")
    pl.DataFrame({"psi": np.append(psi[:500], 100.0)}).write_csv(folder / "outlier.csv")
    pl.DataFrame({"p": np.append(np.exp(log_p[:300]), [1.0, 1.0, 0.0])}).write_csv(folder / "certain.csv")
    pl.DataFrame({"p": np.full(200, 0.25)}).write_csv(folder / "constant.csv")
    pl.DataFrame({"p": [0.1, 0.2, None, 0.05, 0.3] * 50}).write_csv(folder / "gaps.csv")
    pl.DataFrame({"psi": psi[:60]}).write_csv(folder / "few.csv")
    pl.DataFrame({"psi": -5.0 + rng.standard_normal(2_000) ** 3}).write_parquet(folder / "heavy.parquet")
    pl.DataFrame({"psi": 3.0 - rng.exponential(1.0, 2_000) ** 2}).write_parquet(folder / "high.parquet")
    counts = pl.DataFrame({"failures": rng.binomial(20, rng.beta(0.3, 6.0, 800)), "samples": 20})
    counts.write_csv(folder / "counts.csv")
    counts.with_columns(failures=0).write_csv(folder / "none_failed.csv")
    _write_logs(folder, rng)
    cases = {f"format-{f}": f for f in ("s.parquet", "s.csv", "s.tsv", "s.jsonl", "s.npz")}
    cases |= {"bare": "bare.txt --kind p", "npy": "s.npy --kind log_p"}
    for method in ("shape_prior", "exponential_pivot", "gumbel_tail", "log_normal", "gpd"):
        cases[f"method-{method}"] = f"s.csv --method {method}"
        cases[f"heavy-{method}"] = f"heavy.parquet --method {method} --tail-k 40"
    cases |= {name: f"{name}.csv" for name in ("ties", "outlier", "certain", "constant", "gaps", "few", "nowhere")} | {
        "high": "high.parquet --level 0.5",
        "counts": "counts.csv --failures failures --samples samples",
        "counts-gumbel": "counts.csv --failures failures --samples samples --method gumbel_tail",
        "none-failed": "none_failed.csv --failures failures --samples samples",
        "two-files": "s.csv ties.csv",
        "by-file": "s.csv ties.csv --group-by file",
        "by-column": "s.parquet --group-by kind --fail-above 0.5 --at 1e4",
        "small-capacity": "s.csv --capacity 50",
        "inspect": "log.eval --scorer match --fails I",
        "lm-eval": "samples_task.jsonl --metric acc --fails 0",
        "lm-eval-response": "samples_task.jsonl --response-log-prob 0",
        "usage-error": "s.csv --level 2",
    }
    (folder / "cases.json").write_text(json.dumps(cases))


def _write_logs(folder: Path, rng: np.random.Generator) -> None:
    """Logs of Inspect and of lm-eval, each query tried several times or scored by a log-likelihood."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.scorer import Score

    failed = rng.random((300, 10)) < rng.beta(0.3, 4.0, (300, 1))
    samples = [
        EvalSample(id=i, epoch=e + 1, input="?", target="yes", scores={"match": Score(value="CI"[int(failed[i, e])])})
        for i, e in np.ndindex(300, 10)
    ]
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="task",
        model="mockllm/model",
        dataset=EvalDataset(samples=300),
        config=EvalConfig(epochs=10),
    )
    write_eval_log(EvalLog(status="success", eval=spec, samples=samples), str(folder / "log.eval"))
    shared = {"doc": {}, "target": "0", "arguments": {}, "filter": "none", "metrics": ["acc"], "doc_hash": "0"}
    rows: list[dict[str, Any]] = []
    for i in range(400):
        response = [str(-rng.exponential(6.0)), "False"]
        acc = float(rng.random() < 0.97)
        rows.append(shared | {"doc_id": i, "resps": [[response]], "filtered_resps": [response], "acc": acc})
    (folder / "samples_task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(tree: Path, part: str, case: str, folder: Path) -> dict[str, Any]:
    """Run one part with a tree's code and return its numbers."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "RL_FORECAST_CACHE": str(folder / "c")}
    if part == "metrics":
        command = ["-m", "rl_forecast.train", "--preset", case, "--log-dir", str(folder)]
    else:
        command = [__file__, "--driver", part, case, "--out", str(folder / "out.json")]
    # -P: nothing beside this file is importable by accident.
    done = subprocess.run([sys.executable, "-P", *command], env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} {case} fails in {tree}: {done.stderr[-1000:]}")
    out = next(folder.glob("*/metrics.json")) if part == "metrics" else folder / "out.json"
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def baseline(part: str, case: str, files: Path) -> dict[str, Any]:
    """The same at the baseline, from the cache if it was measured before."""
    from platformdirs import user_cache_path

    home = user_cache_path("rl-forecast", appauthor=False) / "baseline"
    tree = home / BASELINE
    if not (tree / "pyproject.toml").exists():
        home.mkdir(parents=True, exist_ok=True)
        unpacked = Path(tempfile.mkdtemp(dir=home))
        archive = subprocess.run(["git", "archive", BASELINE], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(unpacked)], input=archive, check=True)
        with contextlib.suppress(OSError):  # another process was first
            unpacked.rename(tree)
    asked = [inspect.getsource(f) for f in (train, forecast, make_files, _write_logs)]
    content = repr((asked, SETTINGS, sys.version, np.__version__)).encode()
    kept = home / f"{part}-{case}-{hashlib.sha256(content).hexdigest()[:12]}.json"
    if not kept.exists():
        (files.parent / "result.json").write_text(json.dumps(measure(tree, part, case, _fresh(files))))
        shutil.move(files.parent / "result.json", kept)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _fresh(files: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=files.parent))
    shutil.copytree(files, folder, dirs_exist_ok=True)
    return folder


def flat(value: Any, name: str) -> dict[str, Any]:
    """Numbers and short strings by their path; prose left out."""
    if isinstance(value, dict):
        items = [(RENAMED.get(k, k), v) for k, v in value.items() if k not in _PROSE]
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        items = [(str(v.get("code", i)), v) for i, v in enumerate(value)]
    elif isinstance(value, list) and any(isinstance(v, list | dict) for v in value):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for k, v in items for key, leaf in flat(v, f"{name}/{k}").items()}


def difference(key: str, old: Any, new: Any) -> str:
    """What differs, or an empty string."""
    part = key.partition("/")[0]
    tolerance = next((t for pattern, t in LOOSE.items() if fnmatch.fnmatch(key, pattern)), TOLERANCE[part])
    if old == new or (isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new)):
        return ""
    try:
        a, b = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
        error = float(np.max(np.abs(a - b)))
        scale = float(np.max(np.abs(a)))
    except (TypeError, ValueError):
        return f"{old!r} -> {new!r}"
    if error <= tolerance * scale + (WEIGHTS_TOLERANCE if part == "weights" else 0.0):
        return ""
    values = f" ({old!r} -> {new!r})" if a.ndim == 0 else ""
    return f"differs by {error:.2g}{values}"


def main() -> int:
    """Compare, print, and say by the exit code whether anything differs that should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TOLERANCE, default=list(TOLERANCE), help="parts to compare")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), help="presets whose metrics are compared")
    parser.add_argument("--driver", nargs=2, metavar=("PART", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.driver:
        part, case = args.driver
        args.out.write_text(json.dumps(train(case) if part == "weights" else forecast(Path.cwd())))
        return 0
    cases = {"weights": list(SETTINGS), "metrics": args.presets, "forecasts": ["files"]}
    unexpected = 0
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary) / "files"
        files.mkdir()
        make_files(files)
        for part in args.only:
            for case in cases[part]:
                old = flat(baseline(part, case, files), f"{part}/{case}")
                new = flat(measure(ROOT, part, case, _fresh(files)), f"{part}/{case}")
                lines = dict.fromkeys(old.keys() - new.keys(), "only at the baseline")
                lines |= {k: d for k in old.keys() & new.keys() if (d := difference(k, old[k], new[k]))}
                for key, text in sorted(lines.items()):
                    intended = any(fnmatch.fnmatch(key, pattern) for pattern in ON_PURPOSE)
                    unexpected += not intended
                    print(f"{'on purpose' if intended else 'DIFFERS'}  {key}  {text}")
                added = sorted({key.rpartition("/")[2] for key in new.keys() - old.keys()})
                print(f"{part} {case}: {len(old)} values, {len(lines)} differ; new: {', '.join(added) or 'none'}")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
