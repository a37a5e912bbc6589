"""Sample files of the LM Evaluation Harness, in the shape it writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from rl_forecast.errors import InputError
from rl_forecast.io import ReadOptions, read_groups
from rl_forecast.scores import psi_from_log_p

from .conftest import Cli


def row(doc_id: int, acc: float, log_likelihoods: list[float], **extra: object) -> dict[str, object]:
    responses = [[[str(x), "False"]] for x in log_likelihoods]  # the harness writes numbers as text
    return {
        "doc_id": doc_id,
        "doc": {"question": "?"},
        "resps": responses,
        "filtered_resps": [r[0] for r in responses],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": "0" * 8,
        "acc": acc,
    } | extra


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_repeated_runs_of_a_task_count_as_samples(tmp_path: Path) -> None:
    runs = []
    for day in (1, 2):
        rows = [row(i, float((i + day) % 3 > 0), [-1]) for i in range(6)]
        runs.append(write(tmp_path / f"samples_arc_2026-01-0{day}T10-00-00.123.jsonl", rows))
    found = read_groups(runs, ReadOptions(metric="acc", fails="0"))[""].summary
    assert found.count_table == {(2, 0): 2, (2, 1): 4}
    other_task = write(tmp_path / "samples_other.jsonl", [row(0, 1.0, [-1]), row(1, float("nan"), [-1])])
    found = read_groups([*runs, other_task], ReadOptions(metric="acc", fails="<0.5"))[""]
    assert found.summary.count_table == {(2, 0): 2, (2, 1): 4, (1, 0): 1}
    assert found.summary.n_unscored == 1
    assert "1 samples have no score" in found.notes[0]


def test_what_is_the_same_query(tmp_path: Path) -> None:
    """A document repeated by padding counts once; one that changed is another query; two verdicts need a choice."""
    options = ReadOptions(metric="acc", fails="0")
    rows = [row(i, float(i > 0), [-1], doc_hash=f"{i}") for i in range(4)]
    padded = read_groups([write(tmp_path / "samples_t_2026-01-01T10-00-00.1.jsonl", [*rows, rows[-1]])], options)[""]
    assert padded.summary.count_table == {(1, 0): 3, (1, 1): 1}
    assert padded.notes[0].startswith("1 samples are in the logs more than once")
    changed = write(tmp_path / "samples_t_2026-01-02T10-00-00.1.jsonl", [rows[0], row(1, 1.0, [-1], doc_hash="new")])
    both = read_groups([write(tmp_path / "samples_t.jsonl", rows), changed], options)[""].summary
    assert both.count_table == {(1, 0): 4, (2, 2): 1}
    with pytest.raises(InputError, match="twice with different verdicts"):
        read_groups([write(tmp_path / "samples_two.jsonl", [*rows, row(3, 0.0, [-1], doc_hash="3")])], options)


def test_groups_and_backtests(tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    log_p = -rng.exponential(5.0, size=60)
    rows = [row(i, 1.0, [-0.1, x], doc={"subject": "ab"[i % 2]}) for i, x in enumerate(log_p)]
    path = write(tmp_path / "samples_t.jsonl", rows)
    found = read_groups([path], ReadOptions(response_log_prob=1, group_by="subject"))
    np.testing.assert_allclose(found["b"].summary.top, np.sort(psi_from_log_p(log_p[1::2]))[::-1])
    code, text, _ = cli("backtest", path, "--response-log-prob", 1, "-m", 20, "-n", 30, "--splits", 5, "--json", "-")
    assert (code, json.loads(text)["n_scores"]) == (0, 60)
    assert "one try" in cli.refused("backtest", path, "--metric", "acc", "--fails", "0", "-m", 20, "-n", 30)


def test_filters_are_chosen_not_mixed(tmp_path: Path) -> None:
    rows = [row(i, acc, [-1], filter=name) for i in range(4) for name, acc in (("strict", 0.0), ("flexible", 1.0))]
    path = write(tmp_path / "samples_t.jsonl", rows)
    with pytest.raises(InputError, match="several filters: choose one with --filter: flexible, strict"):
        read_groups([path], ReadOptions(metric="acc", fails="0"))
    found = read_groups([path], ReadOptions(metric="acc", fails="0", filter="strict"))[""].summary
    assert found.count_table == {(1, 1): 4}
    with pytest.raises(InputError, match="did you mean 'strict'"):
        read_groups([path], ReadOptions(metric="acc", fails="0", filter="strickt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "acc"}, r"which value of metric 'acc' means failure\? .* values seen: 1.0 \(2\), 0.0 \(1\)"),
        ({"metric": "ac", "fails": "0"}, "did you mean 'acc'"),
        ({"metric": "acc", "fails": "<x"}, "needs a number"),
        ({"response_log_prob": 3}, "no response 3"),
    ],
)
def test_what_is_missing_is_asked_for(tmp_path: Path, options: dict[str, str], message: str) -> None:
    path = write(tmp_path / "samples_t.jsonl", [row(0, 1.0, [-1]), row(1, 1.0, [-1]), row(2, 0.0, [-1])])
    with pytest.raises(InputError, match=message):
        read_groups([path], ReadOptions(**options))  # type: ignore[arg-type]


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "samples_t.jsonl", [row(0, 1.0, [-1]), row(1, 0.0, [0.5])]))
    with pytest.raises(InputError, match=r"line 2: log-likelihood 0\.5"):
        read_groups([str(path)], ReadOptions(response_log_prob=0))
    path.write_text(path.read_text() + '{"doc_id": 3, ')
    with pytest.raises(InputError, match="line 3 is not JSON"):
        read_groups([str(path)], ReadOptions(metric="acc", fails="0"))
