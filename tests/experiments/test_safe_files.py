"""No command unpickles a file that it was not told to trust, and files that do not fit are named."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from stable_baselines3 import PPO

from envs import GridVecEnv, RecolorWorld
from rl_forecast import cli
from rl_forecast.evaluate import main as evaluate
from rl_forecast.experiments.gridworld.agent_files import KeepCheckpoint, load_policy
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import BaseConfig
from rl_forecast.train import main as train
from tests.kill_and_resume import small_run

JOB = small_run("gridworld", 2048)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.marker,)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the base agent alone."""
    home = tmp_path_factory.mktemp("finished")
    (home / "run.yaml").write_text(yaml.safe_dump(JOB | {"agents": ["base"]}))
    assert train(["--config", str(home / "run.yaml"), "--log-dir", str(home)]) == 0
    return home / "kill-0"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def malicious(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A zip of SB3's with code in each of its pickles, and the folder that it makes where it runs."""
    marker, target = tmp_path / "it-ran", tmp_path / "malicious.zip"
    payload = pickle.dumps(Payload(marker))
    with zipfile.ZipFile(finished / "agents" / "base" / "agent.zip") as source, zipfile.ZipFile(target, "w") as out:
        for name in source.namelist():
            content = source.read(name)
            if name == "data":
                data = json.loads(content)
                for value in data.values():
                    if isinstance(value, dict) and ":serialized:" in value:
                        value[":serialized:"] = base64.b64encode(payload).decode()
                content = json.dumps(data).encode()
            elif name.endswith(".pth"):
                content = payload
            out.writestr(name, content)
    return target, marker


Refused = Callable[[Callable[[list[str]], int], list[str], str], None]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end with exit code 2 and one line that says a thing."""

    def run(command: Callable[[list[str]], int], arguments: list[str], message: str) -> None:
        capsys.readouterr()
        assert command(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1, error
        assert message in error

    return run


def test_a_malicious_zip_runs_nothing_wherever_it_is_given(
    run: Path, malicious: tuple[Path, Path], tmp_path: Path, refused: Refused
) -> None:
    target, marker = malicious
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a", "forbidden": " b"}\n')
    logs = ["--log-dir", str(tmp_path / "runs")]
    commands: list[tuple[Callable[[list[str]], int], list[str]]] = [
        (train, ["--base-zip", str(target), *logs]),
        (train, ["--resume", str(target)]),
        (train, ["--config", str(target), *logs]),
        (evaluate, [str(target)]),
        (cli.main, ["show", "--agent", str(target)]),
        (cli.main, ["score", "--model", str(target), "--prompts", str(prompts), "--out", str(tmp_path / "s.parquet")]),
        (cli.main, ["score", "--model", "hub/id", "--prompts", str(target), "--out", str(tmp_path / "s.parquet")]),
    ]
    for suffix in ("zip", "npz", "npy", "parquet", "csv", "json", "jsonl", "eval"):
        copy = tmp_path / f"scores.{suffix}"
        shutil.copy(target, copy)
        commands += [(cli.main, [name, str(copy), "-n", "10"]) for name in ("forecast", "backtest")]
        commands += [(cli.main, ["summarize", str(copy), "--out", str(tmp_path / "x.json")])]
    for command, arguments in commands:
        refused(command, arguments, "")
        assert not marker.exists(), arguments

    # In a run folder: as the export beside the weights, in the weights' place, and as a checkpoint.
    shutil.copy(target, run / "agents" / "base" / "agent.zip")
    assert evaluate([str(run), "--n-deploy", "300"]) == 0
    assert cli.main(["show", "--agent", str(run), "--out", str(tmp_path / "x.png")]) == 0
    shutil.copy(target, run / "agents" / "base" / "policy.safetensors")
    refused(evaluate, [str(run), "--n-deploy", "350"], "is not the file that agent.json describes")
    (run / "timings.json").unlink()
    refused(train, ["--resume", str(run)], "is not the file that agent.json describes")
    shutil.rmtree(run / "agents")
    (run / "checkpoints").mkdir()
    shutil.copy(target, run / "checkpoints" / "base.safetensors")
    refused(train, ["--resume", str(run)], "delete it to train this agent again")
    assert not marker.exists()

    # The zip is what it is said to be: who trusts it runs it.
    assert train(["--base-zip", str(target), "--trust", *logs]) == 2
    assert marker.exists()
    assert not (tmp_path / "runs").exists()


def test_trust_is_asked_for_in_one_line(finished: Path, refused: Refused, tmp_path: Path) -> None:
    export = finished / "agents" / "base" / "agent.zip"
    (tmp_path / "other.zip").write_bytes(b"PK")
    # Trust is the person's at the keyboard: no file can give it.
    (tmp_path / "run.yaml").write_text("trust: true\n")
    refused(train, ["--base-zip", str(export)], "add --trust if you know where it comes from")
    refused(train, ["--trust"], "--trust goes with --base-zip FILE")
    refused(train, ["--base-zip"], "needs a file")
    refused(train, ["--base-zip", str(tmp_path / "none.zip"), "--trust"], "No such file")
    refused(train, ["--base-zip", str(tmp_path / "other.zip"), "--trust"], "cannot be read: File is not a zip file")
    refused(train, ["--config", str(tmp_path / "run.yaml")], "trust")


def test_a_users_own_ppo_is_forecast_and_fine_tuned(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained elsewhere, with SB3's own network; the run has its weights and its scores."""
    mine = PPO("MlpPolicy", "RiskGrid/Recolor-v0", n_steps=64, batch_size=32, n_epochs=1, seed=5, device="cpu")
    mine.learn(64)
    mine.save(tmp_path / "mine.zip")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(JOB | {"agents": ["base", "ppo"]}))
    arguments = ["--config", str(tmp_path / "run.yaml"), "--log-dir", str(tmp_path), "--base-zip"]
    assert train([*arguments, str(tmp_path / "mine.zip"), "--trust"]) == 0
    assert "64 steps; it is not trained" in capsys.readouterr().out
    run = tmp_path / "kill-0"
    settings = yaml.safe_load((run / "config.yaml").read_text())["base"]
    assert (settings["hidden"], settings["activation"]) == ([64, 64], "tanh")
    saved = load_policy(RunFolder(run), "base", BaseConfig(hidden=(64, 64), activation="tanh")).state_dict()
    for name, value in mine.policy.state_dict().items():
        assert torch.equal(saved[name], value)
    assert evaluate([str(run), "--n-deploy", "300"]) == 0

    # What cannot be the base agent of this world.
    odd = {"pi": [8], "vf": [16]}
    for env, network, message in (
        ("RiskGrid/Recolor-v0", odd, "only equal hidden layers"),
        ("CartPole-v1", [64, 64], "has the observation_space Box("),
    ):
        PPO("MlpPolicy", env, policy_kwargs={"net_arch": network}, device="cpu").save(tmp_path / "other.zip")
        refused(train, [*arguments, str(tmp_path / "other.zip"), "--trust"], message)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _no_hash(agent: Path) -> None:
    content = json.loads((agent / "agent.json").read_text())
    (agent / "agent.json").write_text(json.dumps({key: content[key] for key in content if key != "sha256"}))


def _other_network(agent: Path) -> None:
    _no_hash(agent)
    env = GridVecEnv(RecolorWorld(), [1, 2], 2)
    other = PPO("MlpPolicy", env, policy_kwargs={"net_arch": [32, 32]}, device="cpu")
    save_file(dict(other.policy.state_dict()), agent / "policy.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda agent: _flip(agent / "policy.safetensors"), "its sha256 is another"),
        (lambda agent: (agent / "policy.safetensors").unlink(), "policy.safetensors: No such file"),
        (lambda agent: (agent / "agent.json").write_text("{"), "agent.json is damaged"),
        (lambda agent: (agent / "agent.json").write_text("[]"), "of another format"),
        (lambda agent: _edit(agent / "agent.json", format=7), "of another format than 1"),
        (lambda agent: _edit(agent / "agent.json", observation_dimension=3), "tells of 3 observed values"),
        (lambda agent: _edit(agent / "agent.json", n_actions="many"), "has no n_actions"),
        (_other_network, "action_net.weight has the shape [3, 32], the configuration wants [3, 64]"),
    ],
)
def test_a_mismatch_is_explained_in_one_line(
    run: Path, refused: Refused, damage: Callable[[Path], object], message: str
) -> None:
    damage(run / "agents" / "base")
    refused(evaluate, [str(run), "--n-deploy", "300"], message)


def test_other_versions_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(run / "versions.json", torch="1.0.0")
    _no_hash(run / "agents" / "base")  # as agents of earlier versions are
    (run / "timings.json").unlink()
    assert train(["--resume", str(run)]) == 0
    assert f"(torch 1.0.0 -> {torch.__version__}): last digits may differ" in capsys.readouterr().out
    assert evaluate([str(run), "--n-deploy", "300"]) == 0


def test_a_checkpoint_of_other_settings_is_refused(run: Path, refused: Refused) -> None:
    env = GridVecEnv(RecolorWorld(), [1, 2], 2)
    other = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    other.learn(32, callback=KeepCheckpoint(RunFolder(run), "base", 1))
    shutil.rmtree(run / "agents")
    (run / "timings.json").unlink()
    refused(train, ["--resume", str(run)], "'PPO', 2), the agent is of")
