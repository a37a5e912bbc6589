"""Tables of every format give the same summary as the scores themselves."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rl_forecast import TailSummary
from rl_forecast.errors import InputError, reading
from rl_forecast.io import ReadOptions, read_groups, read_psi, tables
from rl_forecast.scores import log_p_from_psi, psi_from_counts

from .conftest import Cli


def assert_same(found: TailSummary, expected: TailSummary) -> None:
    assert (found.count, found.n_neg_inf, found.n_pos_inf) == (expected.count, expected.n_neg_inf, expected.n_pos_inf)
    np.testing.assert_allclose(found.top, expected.top, rtol=1e-9)
    for name in ("mean_psi", "sum_squared_deviations", "sum_log_survival", "sum_log_survival_squared"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-8)


@pytest.mark.parametrize(
    "name", ["scores.parquet", "scores.csv", "scores.tsv", "scores.jsonl", "scores.npz", "bare.txt", "one.npy"]
)
def test_every_format_in_batches(files: Path, psi: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 333)
    options = ReadOptions(kind="p" if name in ("bare.txt", "one.npy") else None)
    batches = list(tables.read_table(str(files / name), options))
    assert max(batch.height for batch in batches) <= 333
    np.testing.assert_allclose(read_psi([str(files / name)], options), psi, rtol=1e-9)
    found = read_groups([str(files / name)], options)
    assert list(found) == [""]
    assert_same(found[""].summary, TailSummary.from_scores(psi))


def test_the_same_scores_twice_are_refused(files: Path, tmp_path: Path, cli: Cli) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes((files / "scores.csv").read_bytes())
    for other in (files / "scores.csv", files / f"../{files.name}/scores.csv", copy):
        for argv in (("forecast", "-n", 10), ("compare", "--budget", 10), ("forecast", "-n", 10, "--group-by", "file")):
            assert "would count twice" in cli.refused(argv[0], files / "scores.csv", other, *argv[1:])


def test_unusual_tables_are_read_right(tmp_path: Path) -> None:
    def top(path: Path, **options: str) -> list[float]:
        summary = read_groups([str(path)], ReadOptions(**options))[""].summary  # type: ignore[arg-type]
        return np.exp(log_p_from_psi(summary.top[:2])).round(6).tolist()

    (tmp_path / "late.csv").write_text("id,p\n" + "1,0\n" * 10_001 + "x,0.25\n")
    (tmp_path / "late.jsonl").write_text('{"p": null}\n' * 500 + '{"p": 0}\n' * 1_000 + '{"p": 0.25}\n')
    for name in ("late.csv", "late.jsonl"):  # whole numbers, or none, in the rows from which types are guessed
        assert top(tmp_path / name) == [0.25, 0.0]
    np.savez(tmp_path / "x.npz", p=np.array([0.1, 0.2]), weights=np.ones(7))
    assert top(tmp_path / "x.npz", column="p") == [0.2, 0.1]
    for name, p in (("run[1].jsonl", 0.5), ("run1.jsonl", 0.7), ("r*.jsonl", 0.6)):
        (tmp_path / name).write_text(f'{{"p": {p}}}\n{{"p": 0.1}}\n')
    assert top(tmp_path / "run[1].jsonl") == [0.5, 0.1]
    assert top(tmp_path / "r*.jsonl") == [0.6, 0.1]


def test_files_and_groups(files: Path, psi: np.ndarray) -> None:
    paths = [str(files / "scores.csv"), str(files / "scores.parquet")]
    together = read_groups(paths, ReadOptions(capacity=50))[""].summary
    assert_same(together, TailSummary.from_scores(np.concatenate([psi, psi]), capacity=50))
    apart = read_groups(paths, ReadOptions(group_by="file"))
    assert {name: r.summary.count for name, r in apart.items()} == {"scores.csv": psi.size, "scores.parquet": psi.size}
    found = read_groups(paths, ReadOptions(group_by="family"))
    assert list(found) == ["a", "b"]
    assert_same(found["b"].summary, TailSummary.from_scores(np.concatenate([psi[1::2]] * 2)))


def test_counts_and_missing_scores(tmp_path: Path) -> None:
    pl.DataFrame({"failures": [0, 3, None, 1, 0], "samples": [10, 10, 10, 5, 0]}).write_csv(tmp_path / "counts.csv")
    found = read_groups([str(tmp_path / "counts.csv")], ReadOptions())[""].summary
    assert found.count_table == {(5, 1): 1, (10, 0): 1, (10, 3): 1}
    assert found.n_unscored == 2
    np.testing.assert_array_equal(
        read_psi([str(tmp_path / "counts.csv")], ReadOptions()), psi_from_counts([0, 3, 1], [10, 10, 5])
    )
    np.testing.assert_allclose(found.top, np.sort(psi_from_counts([0, 3, 1], [10, 10, 5]))[::-1])
    pl.DataFrame({"p": [0.1, None, 0.2]}).write_parquet(tmp_path / "p.parquet")
    assert read_groups([str(tmp_path / "p.parquet")], ReadOptions())[""].summary.n_unscored == 1


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("p\n0.1\nabc\n", {}, "found 'abc'"),
        ("p\n0.1\nNaN\n", {}, "1 NaN"),
        ("p\n0.1\n1.5\n", {}, r"in \[0, 1\], found 1.5"),
        ("log_p\n-1\n0.5\n", {}, "at most 0"),
        ("", {}, "is empty"),
        ("p\n", {}, "holds no score"),
        ("x,y\n1,2\n", {}, "no column is named p, log_p or psi"),
        ("x\n0.1\n", {}, "does not say what it holds"),
        ("p,psi\n0.1,1\n", {}, "p and psi could be the scores"),
        ("risk,p\n0.1,1\n", {"column": "rsik"}, "did you mean 'risk'"),
        ("failures,samples\n3,2\n", {}, "more failures than samples: 3 of 2"),
        ("failures,samples\n0.5,2\n", {}, "failures must be whole numbers"),
        ("f,s\n1,2\n", {"failures": "f"}, "belong together"),
        ("p\n0.1\n", {"group_by": "family"}, "unknown column 'family'"),
        ("id,p\n1,0,5\n2,0,25\n3,0.1\n", {}, "more fields"),
    ],
)
def test_bad_tables_are_refused_in_one_line(
    tmp_path: Path, content: str, options: dict[str, str], message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_groups([str(path)], ReadOptions(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert "bad.csv" in str(caught.value) or "belong" in message


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "not.parquet").write_text("p\n0.1\n")
    (tmp_path / "x.docx").write_text("p\n0.1\n")
    np.savez(tmp_path / "matrix.npz", p=np.eye(3))
    refusals = {"not.parquet": "cannot be read", "none.csv": "no such file", "x.docx": "unknown format"}
    for name, message in (refusals | {"matrix.npz": "holds no vector of numbers", "": "folder"}).items():
        with pytest.raises(InputError, match=message):
            read_groups([str(tmp_path / name)], ReadOptions())


def test_panics_of_native_readers_are_one_line() -> None:
    class PanicException(BaseException):
        """As polars' own: no Exception."""

    with pytest.raises(InputError) as caught, reading("bad.parquet"), reading("bad.parquet"):
        raise PanicException("Thrift out of range\nmore")
    assert str(caught.value) == "bad.parquet: cannot be read: it is damaged: Thrift out of range"
    with pytest.raises(KeyboardInterrupt), reading("good.parquet"):
        raise KeyboardInterrupt
