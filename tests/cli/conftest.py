"""Score files of every format, made once."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rl_forecast.cli import main
from rl_forecast.scores import log_p_from_psi


@pytest.fixture(scope="session")
def psi() -> np.ndarray:
    return np.random.default_rng(0).exponential(0.35, size=2_000) - 2.4


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, psi: np.ndarray) -> Path:
    """A folder with the same scores in every table format."""
    folder = tmp_path_factory.mktemp("scores")
    log_p = log_p_from_psi(psi)
    table = pl.DataFrame({"id": np.arange(psi.size), "log_p": log_p, "family": ["a", "b"] * 1_000})
    table.write_parquet(folder / "scores.parquet", row_group_size=300)
    table.write_csv(folder / "scores.csv")
    table.write_csv(folder / "scores.tsv", separator="\t")
    table.write_ndjson(folder / "scores.jsonl")
    np.savez(folder / "scores.npz", log_p=log_p, id=np.arange(psi.size), other=np.eye(3))
    np.savetxt(folder / "bare.txt", np.exp(log_p))
    np.save(folder / "one.npy", np.exp(log_p))
    return folder


class Cli:
    """The command line in this process: exit code and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main([str(a) for a in argv])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def refused(self, *argv: object) -> str:
        """The line or two with which a command is refused, exit code 2."""
        code, _, err = self(*argv)
        assert code == 2, err
        assert 1 <= len(err.strip().splitlines()) <= 2, err
        return err.strip()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)
