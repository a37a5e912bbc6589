"""``rl-forecast report`` on real runs: files, page, and the page in a browser."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from rl_forecast.cli import main
from rl_forecast.errors import InputError
from rl_forecast.experiments.report.reading import read_inputs


class _Page(html.parser.HTMLParser):
    """Images, everything that a browser would have to fetch, and the places that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        assert tag not in ("script", "iframe", "object")
        assert found.get("id") not in self.places
        self.images += [found] if tag == "img" else []
        self.places |= {found["id"]} if "id" in found else set()
        self.addresses += [found[key] for key in ("src", "href") if key in found]


@pytest.fixture(scope="session")
def runs(smoke: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three seeds, the last one unfinished. The second has the scores of the first, shifted."""
    folder = tmp_path_factory.mktemp("seeds")
    shutil.copytree(smoke[0], folder / "smoke-0")
    for seed in (1, 2):
        copy = folder / f"smoke-{seed}"
        shutil.copytree(smoke[0], copy)
        config = yaml.safe_load((copy / "config.yaml").read_text())
        (copy / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
    (folder / "smoke-2" / "metrics.json").unlink()
    metrics = json.loads((folder / "smoke-1" / "metrics.json").read_text())
    metrics["ppo"]["success"] -= 0.2
    (folder / "smoke-1" / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture(scope="session")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a report on them."""
    out = tmp_path_factory.mktemp("report")
    assert main(["report", str(runs), "--out", str(out)]) == 0
    return out


def test_the_page_stands_alone_and_every_figure_has_words(report: Path) -> None:
    text = (report / "report.html").read_text()
    page = _Page(text)
    assert len(page.images) > 15
    assert all(image["src"].startswith("data:image/") and len(image["alt"]) > 40 for image in page.images)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert {"contents", "warnings", "recolor-training", "terms"} <= links <= page.places
    assert "url(" not in text
    for words in ("smoke-2 is not finished", "Capability collapsed", "with 2 seeds p cannot fall below 0.5"):
        assert words in text
    # Figures and tables lie beside it.
    names = {path.stem for path in (report / "figures").glob("*.svg")}
    assert names == {path.stem for path in (report / "figures").glob("*.png")}
    assert {"survival-recolor-base", "scatter-recolor", "coverage-recolor-gumbel_tail"} <= names
    assert {"pareto-recolor-success", "training-recolor-forecast_absolute_error"} <= names
    assert "worst-recolor-forecast_ppo-1" in names
    assert "<svg" in (report / "figures" / "scatter-recolor.svg").read_text()
    assert "| \\|error\\| psi (psi; lower is better) |" in (report / "tables" / "headline-recolor.md").read_text()
    numbers = pl.read_csv(report / "tables" / "numbers.csv").filter(agent="ppo", metric="success").row(0, named=True)
    values = pl.read_csv(report / "tables" / "agents.csv").filter(agent="ppo")["success"]
    assert numbers["seeds"] == len(values) == 2
    assert numbers["iqm"] == pytest.approx(values.mean())
    assert numbers["low_95"] == pytest.approx(values.min())


def test_a_report_on_one_run_says_what_it_cannot_say(smoke: tuple[Path, str], tmp_path: Path) -> None:
    """Of a run whose agents and curves are gone, and with two agents only: figures take time."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(smoke[0] / "config.yaml", run)
    metrics = json.loads((smoke[0] / "metrics.json").read_text())
    metrics["base"]["abs_error_log_odds"] = 0.0
    (run / "metrics.json").write_text(json.dumps(metrics))
    scores = pl.read_parquet(smoke[0] / "scores.parquet")
    scores.filter(pl.col("agent").is_in(["base", "ppo"])).write_parquet(run / "scores.parquet")
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert ">Training</h3>" not in text
    assert "One seed: no interval and no test can be given." in text
    assert "and that is no less than the 0.00 of the base agent" in text


def test_what_is_one_setting_and_counts_once(runs: Path, tmp_path: Path) -> None:
    (setting,) = read_inputs([str(runs), str(runs / "smoke-0"), str(runs / "smoke-1")]).settings
    assert (setting.seeds, len(setting.units)) == ((0, 1), 2 * 4)
    shutil.copytree(runs / "smoke-0", tmp_path / "again")
    inputs = read_inputs([str(runs / "smoke-0"), str(tmp_path / "again")])
    assert len(inputs.settings[0].units) == 4
    assert any("repeats settings and seed" in note for note in inputs.notes)
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    config["world"]["severity"] = 0.5
    (tmp_path / "again" / "config.yaml").write_text(yaml.safe_dump(config))
    settings = read_inputs([str(runs / "smoke-0"), str(tmp_path / "again")]).settings
    assert [setting.name for setting in settings] == ["recolor (smoke)", "recolor (smoke) 2"]


def test_what_is_not_a_run_is_refused_in_one_line(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_inputs([str(tmp_path / "nothing")])
    with pytest.raises(InputError, match="is no run and holds none"):
        read_inputs([str(tmp_path)])
    with pytest.raises(InputError, match=r"nothing to report in .*not finished"):
        read_inputs([str(runs / "smoke-2")])
    shutil.copytree(runs / "smoke-0", tmp_path / "damaged")
    (tmp_path / "damaged" / "scores.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"scores\.parquet cannot be read"):
        read_inputs([str(tmp_path / "damaged")])
    (tmp_path / "file").write_text("")
    assert main(["report", str(runs / "smoke-0"), "--out", str(tmp_path / "file")]) == 2


def test_the_page_in_a_browser(report: Path, tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium on this machine: the page is not looked at in a browser (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    said: list[str] = []
    with api.sync_playwright() as playwright:
        # Without a sandbox it runs as root too; the page is our own.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for width, height in ((1280, 900), (390, 844)):
            context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("requestfailed", lambda request: said.append(request.url[:80]))
            page.goto((report / "report.html").as_uri())
            page.wait_for_load_state("networkidle")
            sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
            assert len(sizes) > 15
            assert all(natural > 0 and 250 < shown <= width for natural, shown in sizes)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
            if width == 1280:
                printed = page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
                assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 3
            context.close()
        browser.close()
    assert said == []


def test_a_sweep_under_way_shows_what_there_is(sweep: Path, tmp_path: Path) -> None:
    """The held-out jobs come last; until then the report shows validation and says so."""
    folder = tmp_path / "copy"
    shutil.copytree(sweep, folder)
    (whole,) = read_inputs([str(folder)]).settings
    assert whole.agents == ("base", "task_only", "forecast_psi")
    assert whole.reference == "task_only"
    results = pl.read_parquet(folder / "results.parquet").filter(pl.col("method") == "forecast_psi")
    assert whole.of("forecast_psi")[0].metrics["success"] == results["success"][0]
    text = (folder / "report" / "report.html").read_text()
    assert ">Weights</h3>" in text
    assert ">Training</h3>" not in text
    # A room that is the riskiest of several agents is shown once, with the risk under each.
    risks = re.findall(r"([a-z ]+): P\(failure\)", " ".join(image["alt"] for image in _Page(text).images))
    assert sorted(name.strip() for name in risks) == ["base", "forecast psi", "task only"]
    next((folder / "held_out").glob("*forecast*.parquet")).unlink()
    partial = read_inputs([str(folder)])
    assert "is not finished: 1 of 2 held-out jobs are done" in partial.notes[0]
    shutil.rmtree(folder / "held_out")
    early = read_inputs([str(folder)])
    assert "Do not read them as results" in early.notes[0]
    assert early.settings[0].split == "validation"
    assert early.settings[0].agents == ("base", "task_only", "forecast_psi 0.1", "forecast_psi 1")
