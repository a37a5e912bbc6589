"""Inspect logs made by running Inspect itself with its mock model, against Inspect's own reader."""

import json
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl_forecast.errors import InputError
from rl_forecast.io import ReadOptions, read_groups, read_psi
from rl_forecast.scores import psi_from_counts

from .conftest import Cli

inspect_ai = pytest.importorskip("inspect_ai")

# Inspect runs event loops and worker threads of its own and imports what it finds; its resource and deprecation
# warnings are not this project's
pytestmark = pytest.mark.filterwarnings("ignore")

N_SAMPLES, EPOCHS = 12, 4


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same evaluation as ``.eval`` and ``.json``: epochs, two scorers, NaN and dict scores, errored samples."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, Target, accuracy, match, mean, scorer
    from inspect_ai.solver import Generate, TaskState, generate, solver

    @scorer(metrics=[accuracy()])
    def sometimes():  # type: ignore[no-untyped-def]
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value=float("nan") if state.sample_id == 3 else float(int(state.sample_id) % 2))

        return score

    @scorer(metrics={"harm": [mean()], "tone": [mean()]})
    def graded():  # type: ignore[no-untyped-def]
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value={"harm": float(int(state.sample_id) % 5 == 0), "tone": 0.5})

        return score

    @solver
    def breaks_down():  # type: ignore[no-untyped-def]
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            if state.sample_id == 7 or (state.sample_id == 8 and state.epoch == 2):
                raise RuntimeError("tool crashed")
            return state

        return solve

    folder = tmp_path_factory.mktemp("inspect")
    found = {}
    for fmt in ("eval", "json"):
        outputs = [ModelOutput.from_content("mockllm/model", "yes" if i % 3 else "no") for i in range(200)]
        for output in outputs:
            output.usage = ModelUsage()  # else the mock counts tokens with a tokenizer that it has to download
        samples = [Sample(input=f"q{i}", target="yes", id=i) for i in range(1, N_SAMPLES + 1)]
        scorers, solvers = [match(), sometimes(), graded()], [breaks_down(), generate()]
        task = Task(dataset=samples, solver=solvers, scorer=scorers, epochs=EPOCHS, name="mocked")
        model = get_model("mockllm/model", custom_outputs=outputs)
        where = {"log_dir": str(folder / fmt), "log_format": fmt, "display": "none"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log = eval(task, model=model, fail_on_error=False, max_samples=1, **where)[0]
        assert log.status == "success"
        found[fmt] = Path(log.location.removeprefix("file://"))
    return found


def expected_counts(path: Path, scorer: str, failing: set[object], key: str | None = None) -> Counter[tuple[int, int]]:
    """(J, f) counts from Inspect's full reader, not from the summaries that are read here."""
    from inspect_ai.log import read_eval_log

    tries: dict[object, list[int]] = {}
    for sample in read_eval_log(str(path)).samples or []:
        if sample.error is None and sample.scores and scorer in sample.scores:
            value = sample.scores[scorer].value
            value = value[key] if key else value  # type: ignore[index]
            if value == value:
                j, f = tries.setdefault(sample.id, [0, 0])
                tries[sample.id] = [j + 1, f + (value in failing)]
    return Counter((j, f) for j, f in tries.values())


@pytest.mark.parametrize("fmt", ["eval", "json"])
def test_counts_agree_with_inspects_own_reader(logs: dict[str, Path], fmt: str) -> None:
    path = logs[fmt]
    match = read_groups([str(path)], ReadOptions(scorer="match", fails="I"))[""]
    assert match.summary.count_table == dict(expected_counts(path, "match", {"I"}))
    assert sum(f * n for (_, f), n in match.summary.count_table.items()) > 0
    harm = read_groups([str(path)], ReadOptions(scorer="graded/harm", fails="1"))[""]
    assert harm.summary.count_table == dict(expected_counts(path, "graded", {1.0}, "harm"))


def test_errored_and_unscored_samples_are_counted_not_dropped(logs: dict[str, Path]) -> None:
    match = read_groups([str(logs["eval"])], ReadOptions(scorer="match", fails="I"))[""]
    # sample 7 errored in all epochs, sample 8 in one
    assert match.summary.count == N_SAMPLES - 1
    assert match.summary.n_unscored == 1
    assert any(note.startswith(f"{EPOCHS + 1} samples errored") for note in match.notes)
    sometimes = read_groups([str(logs["eval"])], ReadOptions(scorer="sometimes", fails="7"))[""]
    assert sometimes.summary.n_unscored == 2  # sample 3 is NaN in every epoch
    for said in (f"{EPOCHS} samples have no score", "no sample has the value '7'"):
        assert any(said in note for note in sometimes.notes)


def test_a_rerun_adds_tries_and_a_converted_log_none(logs: dict[str, Path], tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log, write_eval_log

    log = read_eval_log(str(logs["eval"]))
    write_eval_log(log, str(tmp_path / "converted.json"))
    options = ReadOptions(scorer="match", fails="I")
    rerun = read_groups([str(logs["eval"]), str(logs["json"])], options)[""].summary
    assert (rerun.count, max(j for j, _ in rerun.count_table)) == (N_SAMPLES - 1, 2 * EPOCHS)
    both = read_groups([str(logs["eval"]), str(tmp_path / "converted.json")], options)[""]
    assert both.summary.count_table == dict(expected_counts(logs["eval"], "match", {"I"}))
    assert both.notes[0].startswith(f"{N_SAMPLES * EPOCHS} samples are in the logs more than once")
    scored = next(s for s in log.samples or [] if s.scores and "match" in s.scores)
    scored.scores["match"].value = "C" if scored.scores["match"].value == "I" else "I"  # type: ignore[index]
    write_eval_log(log, str(tmp_path / "rescored.json"))
    with pytest.raises(InputError, match="twice with different verdicts"):
        read_groups([str(logs["eval"]), str(tmp_path / "rescored.json")], options)


def test_logs_have_groups_and_backtests_like_tables(logs: dict[str, Path], cli: Cli) -> None:
    options = ReadOptions(scorer="match", fails="I", group_by="task")
    assert list(read_groups([str(logs["eval"])], options)) == ["mocked"]
    with pytest.raises(InputError, match="did you mean 'model'"):
        read_groups([str(logs["eval"])], replace(options, group_by="modle"))
    psi = read_psi([str(logs["eval"])], replace(options, group_by=None))
    counts = expected_counts(logs["eval"], "match", {"I"})
    expected = [psi_from_counts(f, j) for (j, f), n in counts.items() for _ in range(n)]
    np.testing.assert_allclose(np.sort(psi), np.sort(expected))
    argv = ("--scorer", "match", "--fails", "I", "-m", 5, "-n", 5, "--splits", 9, "--json", "-")
    assert json.loads(cli("backtest", logs["eval"], *argv)[1])["n_scores"] == N_SAMPLES - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fails": "I"}, "several scorers: choose one with --scorer: graded, match, sometimes"),
        ({"scorer": "match"}, r"which value of scorer 'match' means failure\?.*C \(\d+\)"),
        ({"scorer": "graded", "fails": "1"}, "several values: choose one with --scorer: graded/harm, graded/tone"),
        ({"scorer": "graded/harn", "fails": "1"}, "did you mean 'harm'"),
        ({"scorer": "match/x", "fails": "I"}, "has no key 'x'"),
        ({"scorer": "match", "fails": "<0.5"}, "compares numbers"),
    ],
)
def test_what_is_missing_is_asked_for(logs: dict[str, Path], options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_groups([str(logs["eval"])], ReadOptions(**options))  # type: ignore[arg-type]


def test_damaged_logs_are_one_line(logs: dict[str, Path], tmp_path: Path) -> None:
    data = logs["eval"].read_bytes()
    for name, content in [("cut.eval", data[: len(data) // 2]), ("text.eval", b"hello"), ("other.json", b'{"a": 1}')]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=name) as caught:
            read_groups([str(path)], ReadOptions(scorer="match", fails="I"))
        assert "\n" not in str(caught.value)


def test_without_inspect_the_way_to_get_it_is_named(logs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(InputError, match=r"pip install 'rl-forecast\[eval-logs\]'"):
        read_groups([str(logs["eval"])], ReadOptions(scorer="match", fails="I"))
