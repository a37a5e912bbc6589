"""Points MiniGrid's parametrised environment tests at every ``RiskGrid/`` id.

MiniGrid's tests import their list of environments and a comparison from ``tests.utils``, which its sdist leaves out:
the two names are supplied here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

import envs  # registers the ids


def _assert_equals(a: Any, b: Any, prefix: str = "") -> None:
    """Assert that two nested observations or infos are equal, arrays included."""
    assert type(a) is type(b), f"{prefix}{a!r} and {b!r} differ in type"
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{prefix}keys {list(a)} and {list(b)}"
        for key in a:
            _assert_equals(a[key], b[key], f"{prefix}{key}: ")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), f"{prefix}lengths {len(a)} and {len(b)}"
        for x, y in zip(a, b, strict=True):
            _assert_equals(x, y, prefix)
    else:
        np.testing.assert_array_equal(a, b, err_msg=prefix)


utils = ModuleType("tests.utils")
utils.all_testing_env_specs = [gymnasium.spec(name) for name in envs.REGISTERED]  # type: ignore[attr-defined]
utils.assert_equals = _assert_equals  # type: ignore[attr-defined]
package = ModuleType("tests")
package.__path__ = []
# The suite's own ``tests`` package would shadow ours or be shadowed by it: neither is imported.
sys.modules |= {"tests": package, "tests.utils": utils}
