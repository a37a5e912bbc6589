"""Stable-Baselines3's own tests once more, with the callback on and an environment of ours in place of theirs.

``CartPole-v1``, ``Pendulum-v1`` and the identity environments become a bridge that follows the risk contract. Its
episodes are short, so that even the suite's tiny runs complete enough tasks for a gradient; at the end the number of
tests is printed in which there was one. Beside what :mod:`sb3_plugin` leaves out, tests are left out whose environment
cannot be replaced because they are about just that environment: see ``_LEFT_OUT``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import sb3_plugin
import stable_baselines3
from sb3_plugin import pytest_ignore_collect  # noqa: F401
from stable_baselines3.common import envs

from rl_forecast.loss.settings import ForecastSettings
from tests.agents.contract_env import Bridge

# Why, and which tests: functions, or ids where only some of a function's cases are concerned.
_LEFT_OUT = {
    "continuous or composite actions, which the term refuses": (
        "test_squashed_gaussian",
        "test_state_dependent_noise",
        "test_float64_action_space",
        "test_subclassed_space_env",
        "test_gae_computation",
        "test_consistency",
        "test_save_load_policy[True-MlpPolicy-PPO]",  # gSDE
        "test_action_spaces[env2-PPO]",
    ),
    "an environment of the test's own, which follows no risk contract": (
        "test_cnn",
        "test_image_like_input",
        "test_save_load_policy[False-CnnPolicy-PPO]",
        "test_save_load_policy[True-CnnPolicy-PPO]",
        "test_goal_env",
        "test_dict_spaces",
        "test_multiprocessing",
        "test_dict_vec_framestack",
        "test_vec_normalize",
        "test_vec_with_ppo",
        "test_rollout_success_rate_onpolicy_algo",
        "test_discrete_obs_space",
    ),
    "that environment's rewards, or the length of its episodes": ("test_discrete", "test_continuous", "test_callbacks"),
    "another algorithm on that environment": ("test_no_resource_warning",),
    "the sign of a loss after one update in that environment": ("test_ppo_warnings",),
}
_record: Any = None  # of the running test


class PPO(sb3_plugin.PPO):
    """ForecastPPO with the callback, over few enough tasks for runs of a hundred steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        small = {"tail_k": 2, "n_eval": 4, "n_deploy": 8, "n_partitions": 8, "interval": 1, "anchor_coef": 0.0}
        super().__init__(*args, settings=ForecastSettings(**small), **kwargs)

    def train(self) -> None:
        """Notes whether a gradient was added, in the report: tests may run in xdist's workers."""
        super().train()
        if self.forecastability is not None and self.forecastability.update.grad_norms:
            _record("gradient", True)


class _Bridge(Bridge):
    """Takes the arguments of the environment it stands for."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


sb3_plugin.PPO = stable_baselines3.PPO = stable_baselines3.ppo.PPO = PPO  # type: ignore[misc]
envs.IdentityEnv = envs.IdentityEnvBox = _Bridge  # type: ignore[assignment, misc]
for _name in ("CartPole-v1", "Pendulum-v1"):
    gymnasium.register(_name, entry_point=_Bridge, max_episode_steps=200)


@pytest.fixture(autouse=True)
def _report(record_property: Any) -> None:
    global _record
    _record = record_property


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Keep the tests that concern PPO and whose environment can be replaced."""
    sb3_plugin.pytest_collection_modifyitems(config, items)
    names = {name for group in _LEFT_OUT.values() for name in group}
    left_out = [item for item in items if {item.name, getattr(item, "originalname", None)} & names]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say where the callback had an effect."""
    acted = [report for report in terminalreporter.getreports("passed") if ("gradient", True) in report.user_properties]
    terminalreporter.write_line(f"the forecast gradient was added in {len(acted)} tests")
