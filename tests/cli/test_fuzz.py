"""Malformed files and tables: never a traceback, never a wrong answer."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_forecast.io import ReadOptions, read_groups, save_summary
from rl_forecast.scores import log_p_from_psi
from rl_forecast.summary import summarize_scores

from .conftest import Cli

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A sound file of each format."""
    folder = tmp_path_factory.mktemp("valid")
    p = np.random.default_rng(0).random(60)
    table = pl.DataFrame({"p": p})
    table.write_parquet(folder / "x.parquet")
    table.write_csv(folder / "x.csv")
    table.write_ndjson(folder / "x.jsonl")
    np.savez(folder / "x.npz", p=p)
    save_summary(summarize_scores(p), folder / "x.json")
    samples = [{"doc_id": i, "resps": [[["-1.5", "True"]]], "filter": "none", "acc": i % 2} for i in range(20)]
    (folder / "samples_x.jsonl").write_text("\n".join(map(json.dumps, samples)))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@given(st.data())
@settings(SETTINGS, max_examples=150)
def test_damaged_files(tmp_path: Path, cli: Cli, valid: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(valid)))
    content = bytearray(valid[name])
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["cut", "flip", "insert", "drop"]))
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        if kind == "cut":
            del content[at:]
        elif kind == "flip" and content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del content[at : at + data.draw(st.integers(1, 20))]
    path = tmp_path / name
    path.write_bytes(bytes(content))
    code, out, _ = cli("forecast", path, "-n", 1000, "--metric", "acc", "--fails", "0", "--json", "-")
    assert code in (0, 2)
    if out:
        for row in json.loads(out)["groups"][0]["forecasts"]:
            low, high = row["worst_query_risk"]["low"], row["worst_query_risk"]["high"]
            assert low is None or high is None or 0.0 <= low <= high <= 1.0


BAD_CELLS = ["nan", "NaN", "inf", "-0.5", "1.0000001", "abc", "0,5", "1e400"]
GOOD_CELLS = ["", "0", "1", "1e-320", "  0.25", "-0.0", "1e-3"]
CELLS = st.one_of(
    *[st.floats(0, 1).map(repr)] * 8, *[st.sampled_from(GOOD_CELLS)] * 3, st.sampled_from(GOOD_CELLS + BAD_CELLS)
)


def reading_of(cell: str) -> float | str | None:
    """What a cell means, by Python's own rules: a number, None for no score, or ``"bad"``."""
    if cell == "":
        return None
    try:
        value = float(cell)
    except ValueError:
        return "bad"
    return value if 0 <= value <= 1 else "bad"  # NaN and infinities are bad too


@given(st.lists(CELLS, min_size=1, max_size=25))
@settings(SETTINGS, max_examples=150)
def test_csv_cells_are_read_right_or_refused(tmp_path: Path, cli: Cli, cells: list[str]) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("id,p\n" + "".join(f'{i},"{c}"\n' if c else f"{i},\n" for i, c in enumerate(cells)))
    meant = [reading_of(c) for c in cells]
    code, out, err = cli("forecast", path, "-n", 50, "--column", "p", "--json", "-")
    scores = [m for m in meant if isinstance(m, float)]
    if "bad" in meant or not scores:
        assert (code, out) == (2, ""), (meant, out)
        assert "cells.csv" in err
        return
    group = json.loads(out)["groups"][0]
    assert (group["n_eval"], group["n_unscored"]) == (len(scores), meant.count(None))
    assert math.isclose(group["largest_risk_seen"], max(scores), rel_tol=1e-12)
    assert code == (0 if group["status"] == "ok" else 2)
    if len({s for s in scores if 0 < s < 1}) < 2:
        assert group["status"] == "degenerate"


ANY_PSI = st.one_of(st.floats(-700, 900), st.sampled_from([-math.inf, math.inf, 0.0, 700.0, 800.0]))


@given(
    st.lists(ANY_PSI, min_size=1, max_size=40),
    st.sampled_from(["parquet", "csv", "npz"]),
    st.sampled_from(["p", "log_p", "psi"]),
)
@SETTINGS
def test_any_scores_in_any_table_are_summarised_alike(tmp_path: Path, psi: list[float], suffix: str, kind: str) -> None:
    """Three readers and the library against one another, from one end of the scale to the other."""
    log_p = log_p_from_psi(psi)
    values = {"p": np.exp(log_p), "log_p": log_p, "psi": np.array(psi)}[kind]
    path = tmp_path / f"any.{suffix}"
    if suffix == "npz":
        np.savez(path, x=values)
    else:
        frame = pl.DataFrame({"x": values})
        frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path)
    found = read_groups([str(path)], ReadOptions(column="x", kind=kind, capacity=15))[""].summary  # type: ignore[arg-type]
    expected = summarize_scores(**{kind: values}, capacity=15)
    np.testing.assert_array_equal(found.top, expected.top)
    assert (found.n_neg_inf, found.n_pos_inf) == (expected.n_neg_inf, expected.n_pos_inf)
    for name in ("mean_psi", "sum_squared_deviations", "sum_log_survival", "sum_log_survival_squared"):
        assert math.isclose(getattr(found, name), getattr(expected, name), rel_tol=1e-7, abs_tol=1e-9), name
