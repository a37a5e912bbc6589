"""Points MiniGrid's parametrised environment tests at every ``RiskGrid/`` id.

MiniGrid's tests import their list of environments and a comparison from ``tests.utils``, which its sdist leaves out:
the two names are supplied here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import data_equivalence

import envs  # registers the ids


def _assert_equals(a: Any, b: Any, prefix: str | None = None) -> None:
    assert data_equivalence(a, b), f"{prefix}{a} and {b}"


utils = ModuleType("tests.utils")
utils.all_testing_env_specs = [gymnasium.spec(name) for name in envs.REGISTERED]  # type: ignore[attr-defined]
utils.assert_equals = _assert_equals  # type: ignore[attr-defined]
package = ModuleType("tests")
package.__path__ = []
# The suite's own ``tests`` package would shadow ours or be shadowed by it: neither is imported.
sys.modules |= {"tests": package, "tests.utils": utils}
