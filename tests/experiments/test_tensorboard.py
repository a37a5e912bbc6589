"""What TensorBoard shows of runs and sweeps, read with TensorBoard's own readers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from rl_forecast.experiments.tensorboard import GRIDWORLD_LAYOUT, drawn


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_methods_stand_side_by_side_without_a_click(smoke: tuple[Path, str]) -> None:
    agents = {path.name: _events(path) for path in (smoke[0] / "tensorboard").iterdir()}
    logged = {tag for events in agents.values() for tag in events.Tags()["scalars"]}
    for events in agents.values():
        layout = layout_pb2.Layout()
        layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
        assert [category.title for category in layout.category] == list(GRIDWORLD_LAYOUT)
        shown = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
        assert len(shown) == sum(map(len, GRIDWORLD_LAYOUT.values()))
        for pattern in shown:
            assert any(re.search(pattern, tag) for tag in logged), f"nothing is logged as {pattern}"


def test_a_figure_is_drawn_as_tensorboard_draws_it(tmp_path: Path) -> None:
    figure = Figure(figsize=(3, 2), layout="constrained")
    figure.subplots().plot([1, 3, 2], color="#d55e00")
    picture = drawn(figure)
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_figure("its own", figure, close=False)
        writer.add_image("ours", picture.image, dataformats=picture.dataformats)
    events = _events(tmp_path)
    assert events.Images("ours")[0].encoded_image_string == events.Images("its own")[0].encoded_image_string


def _hparams(events: EventAccumulator) -> tuple[dict[str, object], set[str]]:
    """Settings of a session, and tags of the metrics its page shows."""
    found = events.summary_metadata
    start = plugin_data_pb2.HParamsPluginData()
    start.ParseFromString(found["_hparams_/session_start_info"].plugin_data.content)
    experiment = plugin_data_pb2.HParamsPluginData()
    experiment.ParseFromString(found["_hparams_/experiment"].plugin_data.content)
    settings = {
        key: getattr(value, str(value.WhichOneof("kind"))) for key, value in start.session_start_info.hparams.items()
    }
    return settings, {info.name.tag for info in experiment.experiment.metric_infos}


def test_every_metric_of_the_hparams_page_has_a_value(smoke: tuple[Path, str]) -> None:
    wanted = json.loads((smoke[0] / "metrics.json").read_text())
    for path in (smoke[0] / "tensorboard").iterdir():
        events = _events(path)
        settings, metrics = _hparams(events)
        assert settings["agent"] == path.name
        # The page shows a metric only where its tag is a scalar, too.
        assert metrics <= set(events.Tags()["scalars"])
        finals = {tag.removeprefix("final/"): events.Scalars(tag)[-1].value for tag in metrics}
        assert finals == pytest.approx({k: v for k, v in wanted[path.name].items() if v is not None}, rel=1e-6)
        assert len(events.Scalars("forecast/error")) >= 2
        assert set(events.Tags()["images"]) == {"final/worst_tasks", "final/survival_and_forecast"}


def test_the_comparison_of_a_sweep_is_on_the_hparams_page(sweep: Path) -> None:
    results = pl.read_parquet(sweep / "results.parquet")
    for row in results.iter_rows(named=True):
        events = _events(sweep / "tensorboard" / f"{row['world']}-{row['method']}-{row['seed']}")
        settings, metrics = _hparams(events)
        assert (settings["world"], settings["method"], settings["seed"]) == (row["world"], row["method"], row["seed"])
        assert metrics <= set(events.Tags()["scalars"])
        assert events.Scalars("final/kl_from_base")[0].value == pytest.approx(row["kl_from_base"])
