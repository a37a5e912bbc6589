"""Puts a :class:`ForecastPPO` with ``settings=None`` in PPO's place in Stable-Baselines3's own tests.

Of the suite those tests are kept that concern PPO: a parameter of the test is PPO, or the test has no parameter that
is another algorithm and its own code names PPO. All others test A2C, DQN, SAC and so on, or no algorithm at all.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.ppo import ForecastPPO

_NAMED = re.compile(r"\bPPO\b")
_PPO = stable_baselines3.PPO


class PPO(ForecastPPO):
    """ForecastPPO without the callback; of PPO's name, which some tests look for in messages and folders."""

    def __init__(self, *args: Any, settings: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, settings=settings, **kwargs)


stable_baselines3.PPO = stable_baselines3.ppo.PPO = PPO  # type: ignore[misc]


def _algorithms(value: Any) -> set[type]:
    """Algorithms that a parameter of a test names."""
    if isinstance(value, list | tuple | set):
        return {found for item in value for found in _algorithms(item)}
    if isinstance(value, str) and value.upper() == "PPO":
        return {PPO}
    return {value} if isinstance(value, type) and issubclass(value, BaseAlgorithm) else set()


def _concerns_ppo(item: pytest.Function) -> bool:
    named = _algorithms(list(item.callspec.params.values())) if hasattr(item, "callspec") else set()
    assert _PPO not in named, "the test was collected before PPO was replaced"
    if named:
        return PPO in named
    return _NAMED.search(inspect.getsource(item.function)) is not None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out modules that never name PPO, before they ask for packages that are not needed here."""
    if collection_path.suffix == ".py" and _NAMED.search(collection_path.read_text()) is None:
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Keep the tests that concern PPO."""
    kept = [item for item in items if _concerns_ppo(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
