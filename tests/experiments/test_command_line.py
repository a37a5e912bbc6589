"""Command lines of train and evaluate: which value wins, and one clear line about every wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rl_forecast.evaluate import main as evaluate
from rl_forecast.experiments.command_line import RUNS, parse_config, parse_job, read_config
from rl_forecast.experiments.settings import Config, LanguageConfig
from rl_forecast.train import main as train

_NO_TEXTS = {"gridworld": ("", ""), "language": ("", "")}


@pytest.mark.parametrize("module", ["rl_forecast.train", "rl_forecast.evaluate"])
def test_help_answers_at_once_and_explains_every_field(module: str) -> None:
    command, started = [sys.executable, "-m", module, "--help"], time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert time.perf_counter() - started < 10  # under 2 s on a quiet machine; this guards against loading torch
    assert result.returncode == 0
    options = [line for line in result.stdout.splitlines() if line.lstrip().startswith("--")]
    assert len(options) >= 6
    if module == "rl_forecast.train":
        text = " ".join(result.stdout.split())
        for part in ("norm limit of the added gradient", "number of training tasks", "Presets: default, "):
            assert part in text


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (train, "--preset smoke --forecast.coeff 1", "'--forecast.coef'"),
        (train, "--preset password-game --forecast.coeff 1", "'--forecast.coef'"),
        (train, "--batch_size 1", "'--base.batch_size' or '--fine_tune.batch_size'"),
        (train, "--fine-tune.anchor-coef 1", "'--forecast.anchor_coef'"),
        (train, "--preset smok", "'smoke'"),
        (train, "--forecast.error-space psy", "'psi'"),
        (train, "--agents [bse]", "'base'"),
        (train, "--job language --agents [sftt]", "'sft'"),
        (train, "--job langage", "'language'"),
        (train, "--seed x", "--seed: invalid value 'x'"),
        (train, "--seed -1", "seed must be at least 0"),
        (train, "--world.severity 3", "world.severity must be at most 1, it is 3"),
        (train, "--base.n_envs 0", "base.n_envs must be at least 1"),
        (train, "--forecast.tail-k 1", "forecast.tail_k must be an integer of at least 2"),
        (train, "--job language --game.n-words 7", "game.n_words must be even"),
        (train, "--job language --lora 8", "--lora r=..."),
        (train, "--job language --lora rank=8", "--lora.rank"),
        (train, "--device cuda:77", "'cuda:77'"),
        (train, "--config none.yaml", "none.yaml"),
        (train, "--config wrong.yaml", "'forecast.coeff': did you mean 'forecast.coef'?"),
        (train, "--log-dir wrong.yaml/runs", "'wrong.yaml/runs'"),
        (train, "--model /no/such/folder", "--model: no folder '/no/such/folder'"),
        (train, "--prompts none.jsonl", "none.jsonl"),
        (train, "--resume nowhere", "'nowhere' is not a run folder"),
        (train, "--resume nowhere --seed 1", "no other options"),
        (evaluate, "nowhere", "'nowhere' is not a run folder"),
        (evaluate, "", "required: run"),
        (evaluate, "x --forecaster gumbel", "'gumbel_tail'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    command: object,
    arguments: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("forecast:\n  coeff: 2\n")
    assert command(arguments.split()) == 2  # type: ignore[operator]
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1, error
    assert named in error


def test_files_override_presets_and_options_override_both(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("seed: 5\nworld:\n  pool_size: 123\nforecast:\n  coef: 2.5\n")
    arguments = ["--world.pool-size", "77", "--preset", "smoke", "--config", str(tmp_path / "my.yaml")]
    config = parse_config(Config, arguments, "prog", "")
    assert (config.preset, config.seed, config.world.pool_size, config.forecast.coef) == ("smoke", 5, 77, 2.5)
    assert config.base.total_timesteps == 60_000
    assert parse_config(Config, [], "prog", "") == Config()


@pytest.mark.parametrize(
    ("arguments", "cls"),
    [
        ("", Config),
        ("--preset password-game-smoke", LanguageConfig),
        ("--config language.yaml", LanguageConfig),
        ("--prompts mine.jsonl", LanguageConfig),
        ("--model gpt2", LanguageConfig),
    ],
)
def test_the_job_follows_from_what_is_named(
    arguments: str, cls: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "language.yaml").write_text("job: language\n")
    assert type(parse_job(RUNS, arguments.split(), "", _NO_TEXTS)) is cls


def test_settings_of_earlier_versions_are_read(tmp_path: Path) -> None:
    old = {"fine_tune": {"anchor_coef": 7.0, "episodes_per_task": 3}, "forecast": {"risk_estimator": "flow"}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(old))
    forecast = read_config(path, RUNS).forecast
    assert (forecast.anchor_coef, forecast.episodes_per_task, forecast.risk) == (7.0, 3, "flow")  # type: ignore[union-attr]
    path.write_text("job: language\nfine_tune: {checkpoint_every: 4}\n")
    assert read_config(path, RUNS).checkpoint_every == 4
