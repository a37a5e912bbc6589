"""``rl-forecast show``: pictures of tasks, of agents in them, of an agent's riskiest tasks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from envs import RecolorWorld
from rl_forecast.cli import main


def _picture(path: Path) -> np.ndarray:
    image = imread(path)
    assert image.ndim == 3
    assert image[..., :3].std() > 0.05, "the picture is not empty"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("env_id", "says"),
    [
        ("RiskGrid/Slip-v0", "task 17 of slip, common, slip level 0.0055"),
        ("RiskGrid/Bridge-S7-v0", "task 17 of bridge"),
        ("MiniGrid-LavaGapS7-v0", "seed 17 of MiniGrid-LavaGapS7-v0"),
    ],
)
def test_a_task_is_printed_and_saved(
    env_id: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", env_id, "--task", "17"]) == 0
    printed = capsys.readouterr().out
    assert says in printed
    assert "GG" in printed
    name = printed.splitlines()[-1].removeprefix("saved ")
    _picture(tmp_path / name)


def test_agents_in_a_task(smoke: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "task.png"
    arguments = ["show", "--agent", str(smoke[0]), "--task", "5", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for name in ("base", "PPO", "mean-risk penalty", "ForecastPPO"):
        assert f"{name}, P(failure)" in printed
    four = _picture(out)
    assert main([*arguments, "--name", "ppo"]) == 0
    assert _picture(out).shape[1] < four.shape[1]


def test_the_riskiest_tasks_are_those_of_the_scores(
    smoke: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "worst.svg"
    assert main(["show", "--agent", str(smoke[0]), "--worst", "4", "--name", "base", "-o", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    scores = pl.read_parquet(smoke[0] / "scores.parquet").filter(pl.col("agent") == "base").sort("psi")
    worst = scores["task_id"].to_numpy()[::-1][:4]
    for rank, (line, task, rare) in enumerate(zip(printed, worst, RecolorWorld().tasks(worst).rare, strict=False), 1):
        assert line.startswith(f"#{rank}: task {task}, ")
        assert ("rare" in line) == rare
    assert out.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments ENV --agent is required"),
        (["RiskGrid/Slp-v0"], "unknown environment 'RiskGrid/Slp-v0': did you mean 'RiskGrid/Slip-v0'?"),
        (["RiskGrid/Slip-v0", "--task", "-1"], "argument --task: "),
        (["RiskGrid/Slip-v0", "--task", "x"], "a task id is a whole number of at least 0, it is 'x'"),
        (["RiskGrid/Slip-v0", "-o", "task.jpg"], "a picture ends in .png, .svg, .pdf, not as 'task.jpg'"),
        (["RiskGrid/Slip-v0", "--worst", "9"], "add --agent RUN_FOLDER"),
        (["RiskGrid/Slip-v0", "--name", "ppo"], "add --agent RUN_FOLDER"),
        (["--agent", "nowhere"], "'nowhere' is not a run folder"),
        (["--agent", "SMOKE", "--name", "pp"], "unknown agent 'pp': did you mean 'ppo'?"),
        (["--agent", "SMOKE", "--worst", "3", "--task", "1"], "not allowed with argument --worst"),
        (["RiskGrid/Slip-v0", "--agent", "SMOKE"], "not allowed with argument ENV"),
    ],
)
def test_bad_use_is_one_line(
    arguments: list[str], message: str, smoke: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(smoke[0]) if argument == "SMOKE" else argument for argument in arguments]
    assert main(["show", *arguments]) == 2
    printed, error = capsys.readouterr()
    assert message in error
    assert (error.count("\n"), printed) == (1, "")


def test_a_run_without_agents_or_scores_says_so(
    smoke: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(smoke[0], copy)
    (copy / "scores.parquet").write_bytes(b"PAR1")
    assert main(["show", "--agent", str(copy), "--worst", "2"]) == 2
    assert "scores.parquet cannot be read" in capsys.readouterr().err
    shutil.rmtree(copy / "agents")
    assert main(["show", "--agent", str(copy)]) == 2
    assert "has no finished agent yet" in capsys.readouterr().err
