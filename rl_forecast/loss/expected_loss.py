"""Exact expectation, over every partition, of the squared error of a forecaster that is linear in the scores.

For ``Q = sum_r c_r x_(r)`` (x_(r) the r-th largest evaluation score) the error of one partition is ``v'x`` with ``x``
the sorted scores of all tasks and ``v`` a random vector that depends on the partition only. Hence
``E[e^2] = x'Ax`` and ``E[e] = mu'x`` with ``A = E[vv']`` and ``mu = E[v]`` known in advance: no sampling noise, and
one matrix-vector product per update. All tasks outside the evaluation part form the deployment part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import torch
from scipy import special, stats

from rl_forecast.loss.tail_fit import scores_leaf, sorted_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ExpectedQuadraticLoss", "ExpectedQuadraticTerms", "blup_coefficients", "quadratic_form"]

# Probability that a partition reaches below the window; far under the rounding of float32 scores.
_WINDOW_RISK = 1e-12

# Largest matrix built (128 MiB); reached where about one task in eighty is evaluation (k = 10).
_MAX_WINDOW = 4096


def blup_coefficients(tail_k: int, n_eval: int, n_deploy: int) -> tuple[float, ...]:
    """Coefficients of the best linear unbiased forecast of the maximum on an exponential tail.

    ``Q = x_(k) + C s`` with ``s`` the mean excess of the k largest scores over the k-th and
    ``C = H_n - H_m + H_(k-1)`` (H the harmonic numbers), so ``c_r = C / (k - 1)`` for ``r < k`` and ``c_k = 1 - C``.

    :param tail_k: number k of scores, in ``[2, n_eval]``
    :param n_eval: evaluation size m
    :param n_deploy: deployment size n
    :return: k coefficients, largest score first; they sum to 1
    :raises ValueError: ``tail_k`` outside ``[2, n_eval]``
    """
    if not 2 <= tail_k <= n_eval:
        raise ValueError(f"tail_k must lie in [2, n_eval] = [2, {n_eval}], it is {tail_k}")
    # H_n = digamma(n + 1) + Euler's constant, which cancels between H_n and H_m
    c = float(special.digamma(n_deploy + 1) - special.digamma(n_eval + 1) + special.digamma(tail_k) + np.euler_gamma)
    return (c / (tail_k - 1),) * (tail_k - 1) + (1.0 - c,)


def _log_binomial(n: NDArray[np.int64] | int, r: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Log of ``C(n, r)``, ``-inf`` where ``r`` lies outside ``[0, n]``."""
    n, r = np.broadcast_arrays(n, r)
    inside = (r >= 0) & (r <= n)
    n, r = np.where(inside, n, 0), np.where(inside, r, 0)
    value: NDArray[np.float64] = special.gammaln(n + 1) - special.gammaln(r + 1) - special.gammaln(n - r + 1)
    return np.where(inside, value, -np.inf)


@lru_cache(maxsize=16)
def quadratic_form(
    n_tasks: int, n_eval: int, coefficients: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The matrix ``A`` and vector ``mu`` with ``E[e^2] = x'Ax`` and ``E[e] = mu'x``.

    With ranks a < b counted from 1, ``pi(b, h) = C(N-b, m-h) / C(N, m)`` the probability that a given set of h of the
    first b ranks is exactly the evaluation part there, and ``N_a`` the evaluation tasks above a:

        A_aa = sum_i C(a-1,i) pi(a,i+1) c_(i+1)^2 + pi(a,a-1)
        A_ab = sum_(i<l) C(a-1,i) C(b-a-1,l-i-1) pi(b,l+1) c_(i+1) c_(l+1)
               - sum_l C(b-a-1,l) pi(b,a+l) c_(a+l) - pi(b,b-1) c_a

    summed in log space: single factors overflow from a few hundred tasks on.

    :param n_tasks: number of tasks N
    :param n_eval: evaluation size m, below N
    :param coefficients: c_1 ... c_k, largest score first, at most m of them
    :return: ``A`` of shape (K', K') and ``mu`` of shape (K',), for the K' largest scores; a partition looks below
        them with probability at most 1e-12. Read-only, cached.
    :raises ValueError: sizes that do not fit, or so small an evaluation share that K' exceeds 4096
    """
    k = len(coefficients)
    if not 1 <= k <= n_eval < n_tasks:
        raise ValueError(f"needs 1 <= {k} coefficients <= n_eval = {n_eval} < n_tasks = {n_tasks}")
    c = np.asarray(coefficients, dtype=np.float64)
    size = _window(n_tasks, n_eval, k)
    if size > _MAX_WINDOW:
        raise ValueError(
            f"the exact loss would need a matrix of {size} x {size} scores, more than {_MAX_WINDOW}: "
            f"raise n_eval = {n_eval} or use fewer of the {n_tasks} tasks"
        )
    rank = np.arange(1, size + 1)
    log_total = _log_binomial(n_tasks, n_eval)

    def log_pi(b: NDArray[np.int64], h: NDArray[np.int64] | int) -> NDArray[np.float64]:
        return _log_binomial(n_tasks - b, n_eval - h) - log_total

    order = np.arange(k)
    # probability that rank a is the evaluation part's (i+1)-th largest score, and that it is the deployment maximum
    is_ith = np.exp(_log_binomial(rank[:, None] - 1, order) + log_pi(rank[:, None], order + 1))
    is_maximum = np.exp(log_pi(rank, rank - 1))
    mu = is_ith @ c - is_maximum

    # C(b-a-1, .) depends on the difference of ranks alone: tabulated once, spread over the matrix by indexing
    difference = np.abs(rank[None, :] - rank[:, None])
    upper = np.zeros((size, size))
    for i in range(k):
        above = _log_binomial(rank - 1, i)[:, None]
        for l in range(i + 1, k):  # noqa: E741 -- the formula's letter
            between = _log_binomial(np.arange(-1, size - 1), l - i - 1)[difference]
            upper += np.exp(above + between + log_pi(rank, l + 1)) * (c[i] * c[l])
    # a is the deployment maximum, so everything above it is evaluation: only a <= k leaves room for an evaluation b
    for top in range(1, min(k, size) + 1):
        below = rank[top:]
        for l in range(k - top + 1):  # noqa: E741
            term = _log_binomial(below - top - 1, l) + log_pi(below, top + l)
            upper[top - 1, top:] -= np.exp(term) * c[top + l - 1]
        upper[top - 1, top:] -= np.exp(log_pi(below, below - 1)) * c[top - 1]
    upper = np.triu(upper, 1)
    matrix = upper + upper.T + np.diag(is_ith @ c**2 + is_maximum)
    matrix.flags.writeable = mu.flags.writeable = False
    return matrix, mu


def _window(n_tasks: int, n_eval: int, k: int) -> int:
    """Smallest number of ranks that hold k evaluation tasks and one deployment task but for a negligible chance."""
    size = k + 1
    while size < n_tasks:
        n_found = stats.hypergeom(n_tasks, n_eval, size)
        if n_found.cdf(k - 1) + n_found.pmf(size) <= _WINDOW_RISK:
            return size
        size = int(np.ceil(1.05 * size)) + 1
    return n_tasks


@lru_cache(maxsize=16)
def _on_device(
    n_tasks: int, n_eval: int, coefficients: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    matrix, mu = quadratic_form(n_tasks, n_eval, coefficients)
    return torch.tensor(matrix, device=device), torch.tensor(mu, device=device)


@dataclass(frozen=True)
class ExpectedQuadraticTerms:
    """Exact moments of the forecast error over all partitions.

    :param loss: expected squared error, psi squared, shape (); carries the gradient ``2Ax``
    :param mean_error: expected error, psi, shape (); positive where the forecast is too high on average
    """

    loss: torch.Tensor
    mean_error: torch.Tensor


@dataclass(frozen=True)
class ExpectedQuadraticLoss:
    """Expected squared error of a linear forecaster over every partition of ``n_tasks`` scores.

    :param n_tasks: number of tasks N the loss is called with
    :param n_eval: evaluation size m; the other ``N - m`` tasks are deployment
    :param coefficients: weights of the evaluation part's largest scores, largest first, see :func:`blup_coefficients`
    :raises ValueError: sizes that do not fit, or coefficients that are not finite
    """

    n_tasks: int
    n_eval: int
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the sizes."""
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        if not 1 <= len(self.coefficients) <= self.n_eval < self.n_tasks:
            raise ValueError(
                f"needs 1 <= {len(self.coefficients)} coefficients <= n_eval = {self.n_eval} < n_tasks = {self.n_tasks}"
            )
        if not np.isfinite(self.coefficients).all():
            raise ValueError(f"coefficients must be finite, they are {self.coefficients}")

    @classmethod
    def exponential(cls, n_tasks: int, n_eval: int, tail_k: int = 10) -> Self:
        """The loss of the best linear unbiased forecaster for exponential tails.

        :param n_tasks: number of tasks N
        :param n_eval: evaluation size m
        :param tail_k: number k of scores used, at least 2
        """
        return cls(n_tasks, n_eval, blup_coefficients(tail_k, n_eval, n_tasks - n_eval))

    def __call__(self, psi: torch.Tensor) -> ExpectedQuadraticTerms:
        """Exact expected squared error.

        The form is evaluated in float64 whatever the scores are in: its terms cancel.

        :param psi: scores, shape (n_tasks,), float32 or float64, any device; differentiable
        :return: loss and mean error in the dtype of ``psi``
        :raises TypeError: psi is not a float32 or float64 tensor
        :raises ValueError: wrong shape, an evaluation share so small that the matrix would be huge, NaN, or an infinite
            score among the largest ones: a linear form has no value there
            (:class:`rl_forecast.loss.forecastability.ForecastabilityLoss` masks ``-inf``)
        """
        if psi.shape != (self.n_tasks,):
            raise ValueError(f"psi must have shape ({self.n_tasks},), it has {tuple(psi.shape)}")
        matrix, mu = _on_device(self.n_tasks, self.n_eval, self.coefficients, psi.device)
        x = sorted_window(psi, matrix.shape[0]).double()
        if not bool(torch.isfinite(x.detach()[[0, -1]]).all()):
            raise ValueError(
                f"the {x.numel()} largest scores must be finite, they are {x[0].item()} ... {x[-1].item()}"
            )
        return ExpectedQuadraticTerms(loss=(x @ (matrix @ x)).to(psi.dtype), mean_error=(mu @ x.detach()).to(psi.dtype))

    @overload
    def task_weights(self, psi: torch.Tensor) -> tuple[torch.Tensor, ExpectedQuadraticTerms]: ...

    @overload
    def task_weights(self, psi: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], ExpectedQuadraticTerms]: ...

    def task_weights(
        self, psi: torch.Tensor | NDArray[np.floating[Any]]
    ) -> tuple[torch.Tensor | NDArray[np.float64], ExpectedQuadraticTerms]:
        """Gradient ``dL/dpsi = 2Ax`` in the order of the tasks: all that a scorer's backward pass needs.

        :param psi: scores, shape (n_tasks,), array or tensor; arrays are computed in float64
        :return: weights of shape (n_tasks,), zero outside the window, of the same kind as ``psi`` (float64 array, or
            tensor of its dtype and device), and the terms, all without a graph
        :raises ValueError: as in the call
        """
        leaf = scores_leaf(psi)
        with torch.enable_grad():
            terms = self(leaf)
            (weight,) = torch.autograd.grad(terms.loss, leaf)
        without_graph = ExpectedQuadraticTerms(terms.loss.detach(), terms.mean_error.detach())
        return (weight if isinstance(psi, torch.Tensor) else weight.numpy()), without_graph
