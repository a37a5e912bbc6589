"""The numbers behind the figures; that files are drawn is tested with the command line."""

import numpy as np
import pytest

from rl_forecast import forecast
from rl_forecast.forecasting.plots import return_level_curve, tail_curve

PSI = np.random.default_rng(0).exponential(size=1_000)


@pytest.mark.parametrize("method", ["shape_prior", "exponential_pivot", "gumbel_tail", "log_normal", "gpd"])
def test_the_tail_curve_is_what_the_forecast_believes(method: str) -> None:
    fc = forecast(psi=PSI, n_deploy=[10_000], method=method)
    curve = tail_curve(fc, 0.9)
    assert (np.diff(curve.x) > 0).all()
    assert (np.diff(curve.middle) <= 1e-12).all()
    assert ((curve.low <= curve.middle) & (curve.middle <= curve.high)).all()
    beyond = np.flatnonzero(curve.x > PSI.max())[0]
    p = float(np.exp(-np.exp(-curve.x[beyond])))
    expected = fc.behavior_frequency(p, 0.9)
    found = (curve.middle[beyond], curve.low[beyond], curve.high[beyond])
    assert found == pytest.approx((expected.estimate, expected.low, expected.high), rel=0.05)


def test_on_an_exponential_tail_the_band_holds_the_truth() -> None:
    curve = tail_curve(forecast(psi=PSI, n_deploy=[10_000], method="exponential_pivot"), 0.99)
    assert (curve.low <= np.exp(-curve.x)).all()
    assert (np.exp(-curve.x) <= curve.high).all()


def test_return_levels_are_the_forecasts_themselves() -> None:
    fc = forecast(psi=PSI, n_deploy=[100_000])
    curve = return_level_curve(fc, 0.8)
    again = forecast(psi=PSI, n_deploy=[int(n) for n in curve.x])
    np.testing.assert_allclose(curve.middle, again.worst_query_psi)
    np.testing.assert_allclose(np.column_stack([curve.low, curve.high]), again.prediction_interval(0.8, "psi"))
    assert (curve.x[0], curve.x[-1]) == (100, 100_000)
