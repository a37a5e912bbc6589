"""Maximum likelihood against published fits, OpenTURNS and scipy."""

import numpy as np
import openturns as ot
import pytest
from openturns.usecases import coles
from scipy import stats

from rl_forecast.forecasting.methods import GPD, NoTailError
from rl_forecast.forecasting.methods.gpd import fit_generalised_pareto
from rl_forecast.summary import TailSummary


@pytest.fixture(scope="module")
def rain() -> np.ndarray:
    return np.array(coles.Coles().rain).ravel()


@pytest.fixture(scope="module")
def dow_jones() -> np.ndarray:
    """Daily log returns in percent, the transformation of Coles (2001), section 4.4.2."""
    price = np.loadtxt(coles.Coles().dowjones, delimiter=",", skiprows=1, usecols=1)
    return 100.0 * np.diff(np.log(price))


def test_published_rainfall_fit(rain: np.ndarray) -> None:
    fit = GPD(threshold=30.0).fit_finite(TailSummary.from_scores(rain))
    assert rain.size == 17_531
    assert (fit.tail_scale, fit.shape) == pytest.approx((7.44, 0.184), abs=0.005)
    assert fit.point(100 * 365) == pytest.approx(106.3, abs=0.1)  # the 100-year level


def test_published_dow_jones_fit(dow_jones: np.ndarray) -> None:
    fit = GPD(threshold=2.0).fit_finite(TailSummary.from_scores(dow_jones))
    assert (fit.tail_scale, fit.shape) == pytest.approx((0.495, 0.288), abs=0.0006)


def test_agrees_with_openturns_and_scipy() -> None:
    excess = stats.genpareto.rvs(0.15, scale=2.0, size=400, random_state=np.random.default_rng(6))
    xi, sigma = fit_generalised_pareto(excess)
    theirs = ot.GeneralizedParetoFactory().buildMethodOfLikelihoodMaximization(ot.Sample(excess[:, None]), 0.0)
    assert (sigma, xi) == pytest.approx((theirs.getSigma(), theirs.getXi()), rel=1e-3)
    shape, _, scale = stats.genpareto.fit(excess, floc=0)
    assert (sigma, xi) == pytest.approx((scale, shape), rel=1e-3)


@pytest.mark.parametrize("xi", [-0.4, -0.1, 0.0, 0.3, 0.7])
def test_the_maximum_is_a_maximum(xi: float) -> None:
    excess = stats.genpareto.rvs(xi, size=100, random_state=np.random.default_rng(1))
    shape, scale = fit_generalised_pareto(excess)
    best = stats.genpareto.logpdf(excess, shape, scale=scale).sum()
    for dx, ds in [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01), (0.2, -0.2), (-0.2, 0.3)]:
        assert stats.genpareto.logpdf(excess, shape + dx, scale=scale * np.exp(ds)).sum() <= best + 1e-9


def test_threshold_is_checked() -> None:
    summary = TailSummary.from_scores(np.arange(100.0), capacity=10)
    with pytest.raises(NoTailError, match="lower it"):
        GPD(threshold=98.5).fit(summary)
    with pytest.raises(NoTailError, match="kept"):
        GPD(threshold=50.0).fit(summary)
