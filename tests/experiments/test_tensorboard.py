"""What TensorBoard shows of runs and sweeps, read with its own readers; docs/log_keys.md explains all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from agents import DegeneracyCallback, ForecastPPO, ForecastSettings
from envs import GridVecEnv, RecolorWorld
from rl_forecast.experiments.metrics import METRICS
from rl_forecast.experiments.tensorboard import GRIDWORLD_LAYOUT, drawn
from rl_forecast.loss.objectives import cvar, objective_of, risk_limit, top_risk
from tests.log_keys import PAGE, documented, scalar_tags, undocumented

ROOT = Path(__file__).parents[2]
# Written by Stable-Baselines3 itself, so they stand nowhere in our code.
SB3 = (
    "ep_len_mean ep_rew_mean success_rate fps approx_kl clip_fraction clip_range entropy_loss explained_variance loss "
    "policy_gradient_loss value_loss"
)


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_methods_stand_side_by_side_without_a_click(smoke: tuple[Path, str]) -> None:
    agents = [_events(path) for path in (smoke[0] / "tensorboard").iterdir()]
    logged = {tag for events in agents for tag in events.Tags()["scalars"]}
    for events in agents:
        layout = layout_pb2.Layout()
        layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
        assert [category.title for category in layout.category] == list(GRIDWORLD_LAYOUT)
        shown = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
        assert len(shown) == sum(map(len, GRIDWORLD_LAYOUT.values()))
        for pattern in shown:
            assert any(re.search(pattern, tag) for tag in logged), f"nothing is logged as {pattern}"
    survival = [events.Images("final/survival_and_forecast")[0].encoded_image_string for events in agents]
    assert len(survival) == 4
    assert len(set(survival)) == 1


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
    found = {}
    for name in ("session_start_info", "experiment"):
        data = plugin_data_pb2.HParamsPluginData()
        data.ParseFromString(events.summary_metadata[f"_hparams_/{name}"].plugin_data.content)
        found[name] = getattr(data, name)
    hparams = found["session_start_info"].hparams.items()
    settings = {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in hparams}
    return settings, {info.name.tag for info in found["experiment"].metric_infos}


def test_every_metric_of_the_hparams_page_has_a_value(smoke: tuple[Path, str], sweep: Path) -> None:
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
    for row in pl.read_parquet(sweep / "results.parquet").iter_rows(named=True):
        events = _events(sweep / "tensorboard" / f"{row['world']}-{row['method']}-{row['seed']}")
        settings, metrics = _hparams(events)
        assert (settings["world"], settings["method"], settings["seed"]) == (row["world"], row["method"], row["seed"])
        assert metrics <= set(events.Tags()["scalars"])
        assert events.Scalars("final/kl_from_base")[0].value == pytest.approx(row["kl_from_base"])


def test_every_key_of_runs_and_sweeps_is_explained(smoke: tuple[Path, str], sweep: Path) -> None:
    tags = scalar_tags(smoke[0] / "tensorboard") | scalar_tags(sweep / "tensorboard")
    assert {"train/forecast_loss", "forecast/absolute_error", "final/abs_error_psi", "train/approx_kl"} <= tags
    assert {"final/cvar_risk", "final/kl_from_base"} <= tags
    assert undocumented(tags) == set()


@pytest.mark.filterwarnings(r"ignore:\w+ after \d+ steps:UserWarning")  # the callback at work
def test_every_key_of_an_agent_with_all_terms_is_explained() -> None:
    env = GridVecEnv(RecolorWorld(), np.arange(4000), num_envs=32, seed=0)
    sizes = {"n_steps": 32, "batch_size": 256, "n_epochs": 1, "seed": 0, "device": "cpu"}
    base = PPO("MlpPolicy", env, **sizes)
    settings = ForecastSettings(n_eval=40, n_deploy=60)
    objective = objective_of(settings) + cvar(1.0) + top_risk(1.0) + risk_limit(1e-4)
    model = ForecastPPO("MlpPolicy", env, **sizes, settings=settings, objective=objective, anchor=base.policy)
    model.learn(3072, callback=DegeneracyCallback())
    tags = set(model.logger.name_to_value)
    assert {"train/multiplier", "train/mean_risk", "train/cvar", "train/top_risk", "train/anchor_loss"} <= tags
    excluded = {tag for tag in tags if "tensorboard" in (model.logger.name_to_excluded[tag] or ())}
    assert undocumented(tags - excluded) == set()


def test_every_key_explained_stands_in_the_code() -> None:
    files = [path for package in ("rl_forecast", "agents") for path in (ROOT / package).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    rows = documented()
    assert len(rows) > 80
    for tag, _, meaning in rows:
        assert meaning, tag
        name = tag.partition("/")[2]
        assert name in SB3.split() or f'{name.removesuffix("_*")}"' in code, tag
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `final/")]
    bar = "\\|"
    assert written == [f"| `final/{m.name}` | {m.unit} | {m.meaning.replace('|', bar)} |" for m in METRICS.values()]
