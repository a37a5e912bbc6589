"""What importing the forecaster pulls in, and the small helpers of the error lines."""

import subprocess
import sys

import pytest

from rl_forecast.errors import closest, unknown_name

HEAVY = ("torch", "matplotlib", "polars", "stable_baselines3", "transformers", "agents", "envs", "inspect_ai", "rich")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import rl_forecast", ()),
        ("from rl_forecast import forecast; forecast([.1, .2, .3, .4], n_deploy=100).warnings", ()),
        ("import rl_forecast.forecasting.warnings, rl_forecast.forecasting.decomposition", ()),
    ],
)
def test_the_forecaster_imports_nothing_heavy(statement: str, allowed: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(list(allowed))


def test_every_public_name_resolves() -> None:
    import rl_forecast

    for name in rl_forecast.__all__:
        assert getattr(rl_forecast, name) is not None
        assert name in dir(rl_forecast)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = rl_forecast.nothing_like_it


def test_closest_names() -> None:
    assert closest("Gumbel_Tial", ["gumbel_tail", "log_normal"]) == "gumbel_tail"
    assert closest("zzz", ["gumbel_tail"]) == ""
    assert (
        unknown_name("column", "logp", ["log_p", "id"])
        == "unknown column 'logp': did you mean 'log_p'? choose from: log_p, id"
    )
    assert "and 8 more" in unknown_name("column", "zzz", [f"a{i}" for i in range(20)])
