"""What importing the forecaster pulls in, and the small helpers of the error lines."""

import subprocess
import sys

from rl_forecast.errors import closest, unknown_name

HEAVY = ("torch", "matplotlib", "polars", "stable_baselines3", "transformers", "agents", "envs", "inspect_ai", "rich")


def test_a_forecast_imports_nothing_heavy() -> None:
    statement = "from rl_forecast import forecast; forecast([.1, .2, .3, .4], n_deploy=100).warnings"
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_closest_names() -> None:
    assert closest("Gumbel_Tial", ["gumbel_tail", "log_normal"]) == "gumbel_tail"
    assert closest("zzz", ["gumbel_tail"]) == ""
    assert (
        unknown_name("column", "logp", ["log_p", "id"])
        == "unknown column 'logp': did you mean 'log_p'? choose from: log_p, id"
    )
    assert "and 8 more" in unknown_name("column", "zzz", [f"a{i}" for i in range(20)])
