"""log_normal, binomial_tail and certain failures; and what all forecasters share."""

import numpy as np
import pytest
from scipy import special, stats

from rl_forecast.forecasting.methods import FORECASTERS, BinomialTail, LogNormal, NoTailError, make_forecaster
from rl_forecast.forecasting.methods.base import CertainFailureFit
from rl_forecast.scores import psi_from_p
from rl_forecast.summary import TailSummary

SCORE_METHODS = [name for name in FORECASTERS if name != "binomial_tail"]


def test_log_normal_point_is_the_normal_quantile() -> None:
    psi = np.random.default_rng(0).normal(-2, 0.5, size=400)
    fit = LogNormal().fit(TailSummary.from_scores(psi))
    assert fit.point(10_000) == pytest.approx(stats.norm.ppf(1 - 1e-4, psi.mean(), psi.std(ddof=1)))


def test_log_normal_interval_is_exact_for_one_new_normal_score() -> None:
    """N = 1: the predictive distribution is the textbook t interval."""
    psi = np.random.default_rng(1).normal(size=12)
    fit = LogNormal().fit(TailSummary.from_scores(psi))
    spread = psi.std(ddof=1) * np.sqrt(1 + 1 / psi.size)
    for level in (0.05, 0.5, 0.95):
        assert fit.quantile(level, 1) == pytest.approx(psi.mean() + spread * stats.t.ppf(level, psi.size - 1), abs=0.01)


def test_binomial_tail_likelihood_is_the_integral() -> None:
    """One grid point of the likelihood against scipy's adaptive quadrature."""
    from scipy import integrate

    from rl_forecast.forecasting.methods.binomial_tail import _Likelihood

    u, log_mass, s = psi_from_p(0.05), np.log(0.2), 0.4
    j, f, repeats = np.array([10, 10, 10]), np.array([0, 3, 6]), np.array([90, 7, 2])
    censored = np.array([True, False, False])
    found = _Likelihood.tabulate(j, f, repeats, censored, float(u)).log_likelihood(np.array([log_mass]), np.log([s]))

    def over_tail(function):  # type: ignore[no-untyped-def]
        return integrate.quad(lambda e: np.exp(-e) * function(np.exp(-np.exp(-(u + s * e)))), 0, 60, limit=400)[0]

    expected = sum(
        r * (log_mass + np.log(over_tail(lambda p, f=f: stats.binom.pmf(f, 10, p)))) for f, r in ((3, 7), (6, 2))
    )
    expected += 90 * np.log1p(-0.2 * over_tail(lambda p: stats.binom.sf(2, 10, p)))
    assert found[0, 0] == pytest.approx(expected, abs=1e-3)  # 2000 cells of 0.01


def test_binomial_tail_forecasts_the_true_maximum_where_scores_do_not() -> None:
    m, n, samples, reps = 1_000, 10_000, 30, 60
    inside = {"binomial_tail": 0, "exponential_pivot": 0}
    for rep in range(reps):
        rng = np.random.default_rng([13, rep])
        failures = rng.binomial(samples, special.expit(rng.normal(-8, 1.5, size=m)))
        truth = float(psi_from_p(special.expit(rng.normal(-8, 1.5, size=n))).max())
        summary = TailSummary.from_counts(failures, samples)
        for name in inside:
            try:
                fit = make_forecaster(name).fit(summary)
            except NoTailError:
                continue
            inside[name] += fit.quantile(0.05, n) <= truth <= fit.quantile(0.95, n)
    assert inside["binomial_tail"] / reps >= 0.72  # .82 measured elsewhere, .78 to .98 over populations
    assert inside["exponential_pivot"] / reps < 0.65  # the scores of rare failures are mostly sampling noise


def test_binomial_tail_takes_different_numbers_of_samples() -> None:
    rng = np.random.default_rng(0)
    samples = rng.choice([8, 16, 32], size=800)
    failures = rng.binomial(samples, special.expit(rng.normal(-4, 1.5, size=800)))
    fit = BinomialTail().fit(TailSummary.from_counts(failures, samples))
    assert fit.n_tail_queries >= 20
    assert fit.quantile(0.05, 8_000) < fit.point(8_000) < fit.quantile(0.95, 8_000)


@pytest.mark.parametrize(
    ("failures", "samples", "message"),
    [([0, 1, 1, 0] * 20, 1, "one sample per query"), ([0] * 50, 10, "no query failed")],
)
def test_counts_without_a_tail_are_refused(failures: list[int], samples: int, message: str) -> None:
    with pytest.raises(NoTailError, match=message):
        BinomialTail().fit(TailSummary.from_counts(failures, samples))
    with pytest.raises(ValueError, match="failure counts"):
        BinomialTail().fit(TailSummary.from_scores([1.0, 2.0]))


def test_certain_failures_are_an_atom() -> None:
    rng = np.random.default_rng(2)
    psi = np.append(rng.exponential(size=97), [np.inf] * 3)
    fit = make_forecaster("shape_prior").fit(TailSummary.from_scores(psi))
    assert isinstance(fit, CertainFailureFit)
    # chance that 10 new queries hold none, by drawing which 3 of 110 exchangeable ones are certain
    none = np.mean([not (rng.permutation(110)[:3] < 10).any() for _ in range(20_000)])
    assert 1 - fit.exceedance(1e9, 10) == pytest.approx(none, abs=0.015)
    assert fit.quantile(0.95, 10) < np.inf if 1 - none < 0.05 else fit.quantile(0.95, 10) == np.inf
    assert fit.quantile(0.5, 10) == pytest.approx(fit.finite.quantile(0.5 / (1 - fit.exceedance(1e9, 10)), 10))
    assert fit.point(10_000) == np.inf


@pytest.mark.parametrize("name", SCORE_METHODS)
def test_every_method_keeps_the_order_of_its_answers(name: str) -> None:
    psi = np.random.default_rng(3).gumbel(size=500)
    fit = make_forecaster(name).fit(TailSummary.from_scores(psi))
    assert fit.tail_scale > 0
    for n in (500, 5_000, 10**8):
        quantiles = [fit.quantile(level, n) for level in (0.01, 0.05, 0.5, 0.95, 0.99)]
        assert (np.diff(quantiles) > 0).all()
        for level, q in zip((0.05, 0.5, 0.95), quantiles[1:4], strict=True):
            assert fit.exceedance(q, n) == pytest.approx(1 - level, abs=1e-5)
    assert fit.point(10**6) > fit.point(10**4)


@pytest.mark.parametrize("name", SCORE_METHODS)
def test_every_method_moves_with_location_and_scale(name: str) -> None:
    psi = np.random.default_rng(4).exponential(size=300)
    one, other = (make_forecaster(name).fit(TailSummary.from_scores(x)) for x in (psi, 3.0 * psi - 7.0))
    for level in (0.05, 0.5, 0.95):
        assert other.quantile(level, 6_000) == pytest.approx(3.0 * one.quantile(level, 6_000) - 7.0, rel=1e-6)
    assert other.point(6_000) == pytest.approx(3.0 * one.point(6_000) - 7.0, rel=1e-6)


@pytest.mark.parametrize("name", ["shape_prior", "exponential_pivot", "gpd"])
def test_below_the_tail_the_maximum_follows_order_statistics(name: str) -> None:
    """N far below m: no model is needed, and none is used."""
    m, n = 200, 5
    psi = np.sort(np.random.default_rng(5).normal(size=m))[::-1]
    fit = make_forecaster(name, 10).fit(TailSummary.from_scores(psi))
    j = 60  # P(max of 5 new <= 60th largest of 200), by the hypergeometric distribution of ranks
    expected = special.comb(m + n - j, n) / special.comb(m + n, n)
    assert 1 - fit.exceedance(psi[j - 1], n) == pytest.approx(expected, rel=1e-9)
    assert fit.quantile(expected, n) == pytest.approx(psi[j - 1])


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match="did you mean 'gumbel_tail'"):
        make_forecaster("gumbel-tail")
    with pytest.raises(ValueError, match="at least 2"):
        make_forecaster("gumbel_tail", 1)
