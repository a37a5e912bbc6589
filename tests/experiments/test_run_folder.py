"""Files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_forecast.errors import InputError
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.settings import Config


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("a/metrics.json", {"x": 1})

    def fails(path: Path) -> None:
        path.write_text("half a fi")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.write("a/metrics.json", fails)
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == {"x": 1}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["metrics.json"]


def test_json_refuses_what_is_not_json_and_files_have_the_users_usual_mode(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunFolder(tmp_path).write_json("metrics.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())
    plain = tmp_path / "b.txt"
    plain.write_text("x")
    assert RunFolder(tmp_path).write_text("a.txt", "x").stat().st_mode == plain.stat().st_mode


def test_a_taken_name_gets_a_counter(tmp_path: Path) -> None:
    config = Config(preset="p", seed=3, log_dir=str(tmp_path))
    paths = [RunFolder.create(config, ["python"]).path.name for _ in range(3)]
    assert paths == ["p-3", "p-3-2", "p-3-3"]
    assert RunFolder.open(str(tmp_path / "p-3")).path.name == "p-3"
    with pytest.raises(InputError, match="is not a run folder"):
        RunFolder.open(str(tmp_path))
