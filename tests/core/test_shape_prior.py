"""The default forecaster: against brute-force integration, its limit, and simulation."""

import numpy as np
import pytest
from scipy import stats

from rl_forecast.forecasting.methods import ExponentialPivot, NoTailError, ShapePrior
from rl_forecast.forecasting.methods.shape_prior import default_tail_k
from rl_forecast.summary import TailSummary


def test_number_of_tail_scores() -> None:
    assert [default_tail_k(m) for m in (5, 200, 500, 1_000, 10**9)] == [20, 20, 50, 100, 100]


def test_predictive_distribution_is_the_brute_force_posterior() -> None:
    """Scipy's genpareto on a fine, wide grid (cells end at 3.25 sd), the rate integrated over its own quantiles."""
    m, n, k, tau = 400, 8_000, 40, 0.15
    psi = np.random.default_rng(5).gumbel(size=m)
    fit = ShapePrior(k, tau).fit_finite(TailSummary.from_scores(psi))
    top = np.sort(psi)[::-1][:k]
    excess = top[:-1] - top[-1]
    xi, log_scale = np.meshgrid(3.25 * tau * (np.arange(-64.5, 65) / 65), np.linspace(-2.0, 2.0, 161), indexing="ij")
    log_post = stats.norm.logpdf(xi, 0, tau)
    for z in excess:
        log_post = log_post + stats.genpareto.logpdf(z, xi, scale=np.exp(log_scale))
    weight = np.exp(log_post - log_post.max())
    weight /= weight.sum()
    rate = stats.beta(k, m - k + 1).ppf((np.arange(400) + 0.5) / 400)
    for level in (0.05, 0.5, 0.95):
        t = fit.quantile(level, n) - top[-1]
        survival = stats.genpareto.sf(t, xi, scale=np.exp(log_scale)).ravel()
        cdf = np.exp(n * np.log1p(-np.outer(survival, rate))).mean(axis=1)
        assert weight.ravel() @ cdf == pytest.approx(level, abs=2e-3)
    assert fit.shape_mean == pytest.approx(float((weight * xi).sum()), abs=2e-3)
    assert fit.shape_sd == pytest.approx(float(np.sqrt((weight * xi**2).sum() - fit.shape_mean**2)), rel=0.02)


def test_a_prior_of_no_width_is_the_exact_pivot() -> None:
    summary = TailSummary.from_scores(np.random.default_rng(1).exponential(size=500))
    narrow, pivot = ShapePrior(20, 1e-4).fit(summary), ExponentialPivot(20).fit(summary)
    for level in (0.05, 0.5, 0.95):
        assert narrow.quantile(level, 5_000) == pytest.approx(pivot.quantile(level, 5_000), abs=5e-3)
    with pytest.raises(ValueError, match="exponential_pivot"):
        ShapePrior(20, 0.0)


def test_shape_is_found_and_large_tails_keep_a_fine_grid() -> None:
    rng = np.random.default_rng(2)
    for xi in (-0.2, 0.0, 0.2):
        psi = stats.genpareto.rvs(xi, size=20_000, random_state=rng)
        fit = ShapePrior(2_000).fit_finite(TailSummary.from_scores(psi, capacity=2_000))
        assert fit.shape_mean == pytest.approx(xi, abs=4 * fit.shape_sd)
        assert 0.01 < fit.shape_sd < 0.04  # (1 + xi) / sqrt(k) = 0.022: a coarse grid could not resolve it


def test_it_answers_for_tails_that_bend_where_the_pivot_does_not() -> None:
    rng = np.random.default_rng(3)
    m, n, reps = 1_000, 10_000, 400
    inside = {"prior": 0, "pivot": 0}
    for _ in range(reps):
        summary = TailSummary.from_scores(np.expm1(0.2 * rng.exponential(size=m)) / 0.2)
        realised = float(np.expm1(0.2 * -np.log(-np.expm1(np.log(rng.random()) / n))) / 0.2)
        for name, method in (("prior", ShapePrior()), ("pivot", ExponentialPivot())):
            fit = method.fit(summary)
            inside[name] += fit.quantile(0.05, n) <= realised <= fit.quantile(0.95, n)
    assert inside["prior"] / reps > 0.80
    assert inside["pivot"] / reps < 0.70


@pytest.mark.parametrize("psi", [[1.0], [2.0] * 30, [-np.inf] * 5, [-np.inf, 3.0]])
def test_no_tail_is_said_and_not_invented(psi: list[float]) -> None:
    with pytest.raises(NoTailError, match="distinct finite value"):
        ShapePrior().fit(TailSummary.from_scores(psi))


def test_extreme_sizes_stay_finite_and_ordered() -> None:
    summary = TailSummary.from_scores(np.random.default_rng(0).exponential(size=1_000))
    fit = ShapePrior().fit(summary)
    quantiles = [fit.quantile(0.5, n) for n in (10**3, 10**6, 10**9, 10**15, 10**30)]
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles) > 0).all()
