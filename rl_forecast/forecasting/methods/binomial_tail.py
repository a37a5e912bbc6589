"""Tail of the true failure probabilities when each is known only through J samples.

A score made from ``f`` failures in ``J`` samples carries the noise of the sampling, and the largest scores carry the
luckiest noise. Here the likelihood is that of the counts: above a score u the true psi is exponential with total mass A
and scale s; a query with more than c failures contributes ``A E_s[Binomial(f; J, p)]``, every other one only
``1 - A E_s[P(f > c)]``. Mass and scale are integrated out on a grid, flat in both logarithms. The forecast is of the
largest *true* p, not of the largest share of failures in J samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rl_forecast.forecasting.methods.base import EnsembleFit, NoTailError
from rl_forecast.forecasting.methods.ensemble import GeneralisedParetoTails, TailEnsemble, grid_weights
from rl_forecast.scores import log_p_from_psi, psi_from_p
from rl_forecast.summary import TailSummary

_BELOW_U = 0.02  # P(more than c failures) at u: queries below u hardly ever look like tail queries


@dataclass(frozen=True)
class BinomialTailFit(EnsembleFit):
    """Posterior of an exponential tail of true psi scores behind binomial counts.

    :param threshold: score u above which the tail is modelled, psi
    :param n_tail_queries: queries with more failures than the censoring count
    """

    threshold: float
    n_tail_queries: int


@dataclass(frozen=True)
class BinomialTail:
    """Censored binomial likelihood of an exponential tail.

    :param tail_k: about how many queries count as the tail: those with at least as many failures as the k-th
    """

    tail_k: int = 20
    name: str = "binomial_tail"

    def fit(self, summary: TailSummary) -> BinomialTailFit:
        """Posterior over mass and scale from the table of counts.

        :raises ValueError: a summary made from scores, not from counts
        :raises NoTailError: one sample per query, no failures, or a likelihood without a maximum
        """
        if not summary.count_table:
            raise ValueError("binomial_tail needs failure counts: give failures=... and samples=..., not scores")
        j, f, repeats = (np.array(x) for x in zip(*((*k, v) for k, v in summary.count_table.items()), strict=True))
        if j.max() == 1:
            raise NoTailError(
                "one sample per query tells how often queries fail, not how bad the worst is: sample more"
            )
        if f.max() == 0:
            raise NoTailError("no query failed in any sample: nothing to extrapolate from")
        censored, threshold = self._censor(j, f, repeats)
        likelihood = _Likelihood.tabulate(j, f, repeats, censored, threshold)
        weight, log_mass, log_scale = likelihood.posterior(summary.count)
        scale = np.exp(log_scale)
        tails = GeneralisedParetoTails(threshold + scale * log_mass, scale, np.zeros(1))
        finite = summary.top[np.isfinite(summary.top)]
        return BinomialTailFit(
            ensemble=TailEnsemble(tails, weight, threshold, None, finite),
            tail_scale=float(np.exp(weight @ log_scale)),
            threshold=threshold,
            n_tail_queries=int(repeats[~censored].sum()),
        )

    def _censor(
        self, j: NDArray[np.int64], f: NDArray[np.int64], repeats: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], float]:
        """Which count pairs lie below the k-th largest estimate, and the score u from which on the tail is modelled."""
        estimate = (f + 0.5) / (j + 1.0)
        order = np.argsort(-estimate, kind="stable")
        kth = estimate[order][min(int(np.searchsorted(np.cumsum(repeats[order]), self.tail_k)), f.size - 1)]
        censored = (estimate < kth) | (f == 0)
        # the weakest of the tail pairs sets u, separately for each J
        least = [(int(jj), int(f[(j == jj) & ~censored].min())) for jj in np.unique(j[~censored])]
        p_u = min(float(special.betaincinv(ff, jj - ff + 1, _BELOW_U)) for jj, ff in least)
        return censored, float(psi_from_p(p_u))


@dataclass(frozen=True)
class _Likelihood:
    """Binomial likelihoods on a grid of G scores, its edges ``excess`` above u: ``tail``, shape (T, G), of each tail
    pair's count; ``seen``, shape (C, G), the chance that a query of this J would have been in the tail.
    """

    excess: NDArray[np.float64]
    tail: NDArray[np.float64]
    tail_repeats: NDArray[np.int64]
    seen: NDArray[np.float64]
    censored_repeats: NDArray[np.int64]

    @classmethod
    def tabulate(
        cls,
        j: NDArray[np.int64],
        f: NDArray[np.int64],
        repeats: NDArray[np.int64],
        censored: NDArray[np.bool_],
        threshold: float,
    ) -> _Likelihood:
        # beyond psi = 25 a query fails in every sample that could ever be taken
        edges = np.append(np.linspace(threshold, max(25.0, threshold + 5.0), 2000), np.inf)
        middle = np.append(0.5 * (edges[:-2] + edges[1:-1]), edges[-2])
        p = np.exp(log_p_from_psi(middle))
        jt, ft = j[~censored, None], f[~censored, None]
        log_binomial = special.gammaln(jt + 1) - special.gammaln(ft + 1) - special.gammaln(jt - ft + 1)
        tail = np.exp(log_binomial + special.xlogy(ft, p) + special.xlog1py(jt - ft, -np.minimum(p, 1 - 1e-15)))
        seen, censored_repeats = [], []
        for jj in np.unique(j):
            # more than c failures, c being the largest censored count at this J
            out = (j == jj) & censored
            c = int(f[out].max()) if out.any() else -1
            inside = f[(j == jj) & ~censored]
            c = max(c, int(inside.min()) - 1) if inside.size else c
            seen.append(special.betainc(c + 1, jj - c, p) if c < jj else np.zeros_like(p))
            censored_repeats.append(int(repeats[out].sum()))
        return cls(edges - threshold, tail, repeats[~censored], np.array(seen), np.array(censored_repeats))

    def log_likelihood(self, log_mass: NDArray[np.float64], log_scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """On the outer grid of log mass (A,) and log scale (S,): shape (A, S)."""
        cell = -np.diff(np.exp(-self.excess[:, None] / np.exp(log_scale)), axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            total = self.tail_repeats @ np.log(self.tail @ cell) + self.tail_repeats.sum() * log_mass[:, None]
            missed = np.log1p(-np.exp(log_mass)[:, None, None] * (self.seen @ cell))
            total = total + np.einsum("c,acs->as", self.censored_repeats, missed)
        return np.where(np.isnan(total), -np.inf, total)

    def posterior(self, n_eval: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Weights, log mass and log scale of the grid points that matter; a likelihood without a maximum is refused."""
        mass = np.linspace(-np.log(n_eval) - 2.0, 0.0, 60)
        scale = np.linspace(np.log(0.01), np.log(20.0), 60)
        for _ in range(2):  # a coarse look, then a fine one at what it found
            surface = self.log_likelihood(mass, scale)
            best = np.unravel_index(int(np.argmax(surface)), surface.shape)
            near = np.argwhere(surface > surface.max() - 12.0)
            (a0, s0), (a1, s1) = near.min(axis=0), near.max(axis=0)
            if scale[best[1]] in (np.log(0.01), np.log(20.0)):
                raise NoTailError(
                    "the failure counts fit every tail scale alike: take more samples per query or more queries"
                )
            mass = np.linspace(mass[max(a0 - 1, 0)], mass[min(a1 + 1, 59)], 60)
            scale = np.linspace(scale[max(s0 - 1, 0)], scale[min(s1 + 1, 59)], 60)
        surface = self.log_likelihood(mass, scale)
        a, s = (grid.ravel() for grid in np.meshgrid(mass, scale, indexing="ij"))
        weight, keep = grid_weights(surface.ravel(), drop_below=1e-6)
        return weight, a[keep], s[keep]
