"""The commands as a user calls them: output, files, exit codes, error lines."""

import importlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rl_forecast import forecast
from rl_forecast.cli import COMMANDS
from rl_forecast.forecasting.backtest import backtest

from .conftest import Cli

OURS = ("forecast", "backtest", "compare", "summarize")


def test_forecast_prints_what_the_library_says(cli: Cli, files: Path, psi: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, text, _ = cli("forecast", files / "scores.parquet", "-n", "1e4", "1e6", "--column", "log_p", "--json", out)
    assert code == 0
    written = json.loads(out.read_text())["groups"][0]
    expected = forecast(psi=psi, n_deploy=[10_000, 1_000_000])
    for row, risk in zip(written["forecasts"], expected.worst_query_risk, strict=True):
        assert row["worst_query_risk"]["point"] == pytest.approx(risk, rel=1e-9)
    assert [w["code"] for w in written["warnings"]] == [w.code for w in expected.warnings]
    assert f"{expected.worst_query_risk[0]:.3g}" in text
    assert "No method sees what the evaluation did not" in text


@pytest.mark.parametrize("figure", ["tail", "return-level", "stability", "all"])
@pytest.mark.parametrize("method", ["shape_prior", "log_normal"])
def test_figures_are_drawn(cli: Cli, files: Path, tmp_path: Path, figure: str, method: str) -> None:
    path = tmp_path / "figure.png"
    argv = ("forecast", files / "scores.csv", "-n", "1e4", "--plot", path, "--figure", figure, "--method", method)
    assert cli(*argv)[0] == 0
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == ((2790 if figure == "all" else 930), 660)


def test_figures_of_groups_get_names_of_their_own(cli: Cli, files: Path, tmp_path: Path) -> None:
    argv = ("forecast", files / "scores.csv", "-n", 100, "--group-by", "family", "--plot", tmp_path / "t.svg")
    assert cli(*argv)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t-a.svg", "t-b.svg"]


def test_gate_of_one_file_and_of_several(cli: Cli, tmp_path: Path, files: Path) -> None:
    for limit, gate, code in (("0.9999", "upper", 0), ("0.9", "upper", 3), ("0.9", "point", 0), ("0.3", "point", 3)):
        found, _, err = cli("forecast", files / "scores.csv", "--fail-above", limit, "--at", "1e4", "--gate", gate)
        assert found == code
        assert f"gate: {'failed' if code else 'passed'}: at n = 10000" in err
    rng = np.random.default_rng(0)
    pl.DataFrame({"p": 1e-6 * rng.random(500)}).write_csv(tmp_path / "safe.csv")
    argv = ("--group-by", "file", "--fail-above", "0.01", "--at", "1e4", "--json", tmp_path / "o.json")
    assert cli("forecast", tmp_path / "safe.csv", files / "scores.csv", *argv)[0] == 3
    groups = json.loads((tmp_path / "o.json").read_text())["groups"]
    assert [g["gate"]["status"] for g in groups] == ["passed", "failed"]
    assert cli("forecast", tmp_path / "safe.csv", *argv)[0] == 0


@pytest.mark.parametrize("values", [[0.0] * 20, [0.25] * 20, [0.25]])
def test_degenerate_scores_leave_a_statement_and_code_2(cli: Cli, tmp_path: Path, values: list[float]) -> None:
    pl.DataFrame({"p": values}).write_csv(tmp_path / "p.csv")
    code, text, err = cli(
        "forecast", tmp_path / "p.csv", "-n", 80, "--json", tmp_path / "o.json", "--plot", tmp_path / "o.png"
    )
    assert code == 2
    assert "status degenerate" in text
    assert "No forecast:" in text
    group = json.loads((tmp_path / "o.json").read_text())["groups"][0]
    assert group["status"] == "degenerate"
    assert group["forecasts"][0]["new_record_probability"] == pytest.approx(80 / (80 + len(values)))
    assert "no figure" in err
    assert not (tmp_path / "o.png").exists()
    assert cli("forecast", tmp_path / "p.csv", "-n", 80, "--fail-above", "0.5")[0] == 2


def test_shards_summarised_and_merged_are_the_whole(cli: Cli, files: Path, psi: np.ndarray, tmp_path: Path) -> None:
    names = []
    for i, part in enumerate(np.array_split(psi, 5)):
        pl.DataFrame({"psi": part}).write_parquet(tmp_path / f"{i}.parquet")
        assert cli("summarize", tmp_path / f"{i}.parquet", "-o", tmp_path / f"{i}.json")[0] == 0
        names.append(tmp_path / f"{i}.json")
    code, text, _ = cli("forecast", *names[::-1], "-n", "1e5", "--json", "-")
    merged = json.loads(text)["groups"][0]
    assert code == 0
    expected = forecast(psi=psi, n_deploy=100_000)
    assert merged["forecasts"][0]["worst_query_psi"]["point"] == expected.worst_query_psi[0]


def test_backtest_says_that_its_splits_overlap(cli: Cli, files: Path, psi: np.ndarray, tmp_path: Path) -> None:
    argv = ("backtest", files / "scores.parquet", "-m", 100, "-n", 300, "--splits", 40, "--json", tmp_path / "b.json")
    code, text, _ = cli(*argv)
    assert code == 0
    assert "the file holds 5 disjoint blocks of m + n" in " ".join(text.split())
    written = json.loads((tmp_path / "b.json").read_text())
    expected = backtest(psi, 100, 300, n_splits=40)
    assert written["n_distinct_maxima"] == expected.n_distinct_maxima < 40
    for row, metric in zip(written["metrics"], expected.metrics, strict=True):
        assert row["bias"] == pytest.approx(metric.bias)


def test_compare_weighs_risk_against_cost(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, shift in (("strong", 1.0), ("weak", 0.0)):
        pl.DataFrame({"psi": rng.exponential(0.3, size=1_000) + shift}).write_csv(tmp_path / f"{name}.csv")
    argv = ("compare", tmp_path / "strong.csv", tmp_path / "weak.csv", "--budget", "1e5", "--json", tmp_path / "c.json")
    code, text, _ = cli(*argv)
    assert code == 0
    sources = json.loads((tmp_path / "c.json").read_text())["sources"]
    assert sources[0]["finds_the_worst"] > 0.75
    assert sum(s["finds_the_worst"] for s in sources) == pytest.approx(1.0)
    assert "strong.csv finds the worst failure" in text
    cli(*argv, "--cost", 1, 0.001)
    sources = json.loads((tmp_path / "c.json").read_text())["sources"]
    assert [s["forecasts"][0]["n_deploy"] for s in sources] == [100_000, 100_000_000]
    assert sources[0]["finds_the_worst"] < 0.6  # a thousand times as many weak queries make up for it


def test_files_that_were_read_are_not_overwritten(cli: Cli, files: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes((files / "scores.csv").read_bytes())
    assert "it is a file that was read" in cli.refused("summarize", path, "-o", path)
    cli("forecast", path, "-n", 100, "--json", path)
    assert path.read_bytes() == (files / "scores.csv").read_bytes()


def test_the_program_itself(files: Path) -> None:
    def run(argv: str) -> tuple[int, str, str]:
        command = f"{sys.executable} -m rl_forecast {argv}"
        result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout, result.stderr

    assert run(f"forecast {files / 'scores.csv'} -n 100 >&-") == (0, "", "")
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert run("")[0] == 2
    assert run("--version")[1].startswith("rl-forecast ")


def test_standard_input(cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (
        ("scores.csv", "log_p"),
        ("scores.jsonl", "log_p"),
        ("scores.parquet", "log_p"),
        ("bare.txt", "p"),
    ):
        with (files / name).open("rb") as given:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given))
            code, out, _ = cli("forecast", "-", "-n", "1e4", "--kind", kind)
        assert code == 0
        assert "2000 scores" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("forcast", "x"), "did you mean 'forecast'"),
        (("forecast", "{csv}"), "how many deployment queries"),
        (("forecast", "{csv}", "-n", "0"), "'0'"),
        (("forecast", "{csv}", "-n", "10", "--colum", "p"), "did you mean --column?"),
        (("forecast", "{csv}", "-n", "10", "--method", "shape-prior"), "did you mean 'shape_prior'"),
        (("forecast", "{csv}", "-n", "10", "--tail-k", "1"), "at least 2"),
        (("forecast", "{csv}", "-n", "10", "--capacity", "1"), "at least 2"),
        (("forecast", "{csv}", "-n", "10", "--method", "binomial_tail"), "needs failure counts"),
        (("forecast", "{csv}", "-n", "10", "--level", "90"), "between 0 and 1"),
        (("forecast", "{csv}", "-n", "10", "--plot", "x.gif"), ".png, .svg or .pdf"),
        (("forecast", "{csv}", "-n", "10", "--plot", "/no/such/folder/x.png"), "cannot write"),
        (("forecast", "{csv}", "-n", "10", "--at", "5"), "add --fail-above"),
        (("forecast", "{csv}", "-n", "10", "--group-by", "famly"), "did you mean 'family'"),
        (("backtest", "{csv}", "-m", "1500", "-n", "1500"), "fewer than m + n = 3000"),
        (("compare", "{csv}", "--budget", "10"), "nothing to compare"),
        (("compare", "{csv}", "{parquet}", "--budget", "10", "--cost", "1"), "1 costs for 2 sources"),
        (("compare", "{csv}", "{parquet}", "--budget", "-5"), "positive"),
        (("summarize", "{csv}"), "required: -o"),
        (("summarize", "{csv}", "-o", "/no/such/folder/x.json"), "cannot write"),
    ],
)
def test_bad_usage_is_one_line(cli: Cli, files: Path, argv: tuple[str, ...], message: str) -> None:
    filled = [a.format(csv=files / "scores.csv", parquet=files / "scores.parquet") for a in argv]
    assert message in cli.refused(*filled)


@pytest.mark.parametrize("command", OURS)
def test_help_answers_at_once_and_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from rl_forecast.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = [m for m in ('torch', 'matplotlib', 'polars', 'scipy', 'numpy', 'rich') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: rl-forecast {command}" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 120


@pytest.mark.parametrize(("sent", "code", "word"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_signals_end_a_command_with_one_line(
    cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch, sent: str, code: int, word: str
) -> None:
    def long_work(_: object) -> int:
        signal.raise_signal(getattr(signal, sent))
        time.sleep(60)
        return 0

    monkeypatch.setattr(importlib.import_module("rl_forecast.commands.forecast"), "main", long_work)
    assert cli("forecast", files / "scores.csv", "-n", 100) == (code, "", f"rl-forecast forecast: {word}\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
