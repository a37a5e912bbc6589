"""What a forecast needs to know of an evaluation, in a few kilobytes: counts, moments and the largest scores.

Summaries of shards merge in any order: counts and largest scores exactly, floating-point sums to rounding (1e-12).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_forecast.scores import is_tensor, log_survival_from_psi, psi_from_counts, psi_from_log_p, psi_from_p

SCHEMA = "rl-forecast/tail-summary/1"
_INTEGERS = ("count", "n_neg_inf", "n_pos_inf", "capacity", "n_unscored")
_FLOATS = ("mean_psi", "sum_squared_deviations", "sum_log_survival", "sum_log_survival_squared")


@dataclass(frozen=True)
class TailSummary:
    """Sufficient summary of a set of evaluation scores.

    :param count: number m of scores, those with ``psi = -inf`` and ``+inf`` included
    :param top: shape (min(K, m),), psi, the K largest scores in descending order, infinities included
    :param n_neg_inf: how many scores are ``-inf`` (``p = 0``)
    :param n_pos_inf: how many scores are ``+inf`` (``p = 1``)
    :param mean_psi: mean of the finite psi scores (0 where there is none)
    :param sum_squared_deviations: of the finite psi scores from their mean
    :param sum_log_survival: sum of ``log(1 - p)`` over all scores with ``p < 1``, for the aggregate risk
    :param sum_log_survival_squared: sum of the squares of the same terms
    :param capacity: number K of largest scores kept; a merge keeps the smaller one
    :param count_table: for scores estimated from J samples: ``{(J, f): how many queries failed f of J times}``
    :param n_unscored: queries without a score; they are in no other field

    >>> psi = np.random.default_rng(0).gumbel(size=10_000)
    >>> merged = TailSummary.from_scores(psi[:4_000]).merge(TailSummary.from_scores(psi[4_000:]))
    >>> merged.count, np.array_equal(merged.top, TailSummary.from_scores(psi).top)
    (10000, True)
    """

    count: int
    top: NDArray[np.float64]
    n_neg_inf: int
    n_pos_inf: int
    mean_psi: float
    sum_squared_deviations: float
    sum_log_survival: float
    sum_log_survival_squared: float
    capacity: int = 1000
    count_table: dict[tuple[int, int], int] = field(default_factory=dict)
    n_unscored: int = 0

    DEFAULT_CAPACITY = 1000

    @property
    def n_finite(self) -> int:
        """Number of scores with ``0 < p < 1``."""
        return self.count - self.n_neg_inf - self.n_pos_inf

    @classmethod
    def from_scores(cls, psi: ArrayLike, capacity: int = DEFAULT_CAPACITY, n_unscored: int = 0) -> TailSummary:
        """Summarise psi scores, shape (m,), in any order.

        :raises ValueError: empty, not one-dimensional, NaN, or a capacity below 2
        """
        psi = np.asarray(psi, dtype=np.float64)
        if psi.ndim != 1 or psi.size == 0:
            raise ValueError(f"psi must be a non-empty vector, its shape is {psi.shape}")
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, it is {capacity}")
        if np.isnan(psi).any():
            raise ValueError(f"{int(np.isnan(psi).sum())} of {psi.size} scores are NaN")
        return cls._weighted(psi, np.ones(psi.size), capacity, n_unscored, {})

    @classmethod
    def from_counts(
        cls, failures: ArrayLike, samples: ArrayLike, capacity: int = DEFAULT_CAPACITY, n_unscored: int = 0
    ) -> TailSummary:
        """Summarise queries whose failure probability is known only through repeated sampling.

        The scores are Jeffreys' (:func:`.psi_from_counts`); the counts stay beside them for ``binomial_tail``.

        :param failures: shape (m,), failures f of each query
        :param samples: shape (m,) or a scalar, samples J of each query
        :raises ValueError: negative or fractional counts, more failures than samples, no samples

        >>> TailSummary.from_counts(failures=[0, 0, 1, 3], samples=20).count_table  # (J, f) to the number of queries
        {(20, 0): 2, (20, 1): 1, (20, 3): 1}
        """
        f = np.asarray(failures, dtype=np.float64)
        if f.ndim != 1 or f.size == 0:
            raise ValueError(f"failures must be a non-empty vector, its shape is {f.shape}")
        psi_from_counts(f, samples)  # checks both
        j = np.broadcast_to(np.asarray(samples, dtype=np.float64), f.shape)
        pairs, repeats = np.unique(np.column_stack([f, j]), axis=0, return_counts=True)
        return cls.from_count_table(pairs[:, 0], pairs[:, 1], repeats, capacity, n_unscored)

    @classmethod
    def from_count_table(
        cls,
        failures: ArrayLike,
        samples: ArrayLike,
        repeats: ArrayLike,
        capacity: int = DEFAULT_CAPACITY,
        n_unscored: int = 0,
    ) -> TailSummary:
        """The same from distinct pairs of counts, shape (T,) each, and how many queries have each, shape (T,).

        :raises ValueError: as :meth:`from_counts`
        """
        psi = psi_from_counts(failures, samples)
        rows = zip(*(np.asarray(x).tolist() for x in (samples, failures, repeats)), strict=True)
        table = dict(sorted({(int(j), int(f)): int(c) for j, f, c in rows}.items()))
        return cls._weighted(psi, np.asarray(repeats, dtype=np.float64), capacity, n_unscored, table)

    @classmethod
    def _weighted(
        cls,
        psi: NDArray[np.float64],
        repeats: NDArray[np.float64],
        capacity: int,
        n_unscored: int,
        count_table: dict[tuple[int, int], int],
    ) -> TailSummary:
        """Summary of scores of which each occurs so many times."""
        largest = np.argpartition(psi, -capacity)[-capacity:] if psi.size > capacity else np.arange(psi.size)
        largest = largest[np.argsort(-psi[largest], kind="stable")]
        kept = np.diff(np.minimum(np.cumsum(np.append(0, repeats[largest])), capacity)).astype(np.int64)
        finite, uncertain = np.isfinite(psi), psi < np.inf
        c, x = repeats[finite], psi[finite]
        mean = float(c @ x / c.sum()) if x.size else 0.0
        log_survival, weight = log_survival_from_psi(psi[uncertain]), repeats[uncertain]
        return cls(
            count=int(repeats.sum()),
            top=np.repeat(psi[largest], kept),
            n_neg_inf=int(repeats[np.isneginf(psi)].sum()),
            n_pos_inf=int(repeats[~uncertain].sum()),
            mean_psi=mean,
            sum_squared_deviations=float(c @ np.square(x - mean)),
            sum_log_survival=float(weight @ log_survival),
            sum_log_survival_squared=float(weight @ np.square(log_survival)),
            capacity=capacity,
            count_table=count_table,
            n_unscored=n_unscored,
        )

    def merge(self, other: TailSummary) -> TailSummary:
        """Summary of both sets of scores together.

        :raises ValueError: one comes from counts and the other from scores: they estimate different things
        """
        if bool(self.count_table) != bool(other.count_table):
            raise ValueError("one summary was made from failure counts and the other from scores: they do not merge")
        capacity = min(self.capacity, other.capacity)
        a, b = self.n_finite, other.n_finite
        share = b / (a + b) if a + b else 0.0
        delta = other.mean_psi - self.mean_psi
        table = dict(self.count_table)
        for key, repeats in other.count_table.items():
            table[key] = table.get(key, 0) + repeats
        added = ("count", "n_neg_inf", "n_pos_inf", "sum_log_survival", "sum_log_survival_squared", "n_unscored")
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in added}
        return TailSummary(
            **sums,
            top=np.sort(np.concatenate([self.top, other.top]))[::-1][:capacity],
            # Chan, Golub & LeVeque's update: no cancellation, unlike a sum of squares
            mean_psi=self.mean_psi + share * delta,
            sum_squared_deviations=self.sum_squared_deviations
            + other.sum_squared_deviations
            + a * share * delta * delta,
            capacity=capacity,
            count_table=dict(sorted(table.items())),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; infinite scores become the strings ``"inf"`` and ``"-inf"``."""
        fields = asdict(self)
        fields["top"] = [x if math.isfinite(x) else str(x) for x in self.top.tolist()]
        fields["count_table"] = [[j, f, repeats] for (j, f), repeats in self.count_table.items()]
        return {"schema": SCHEMA, **fields}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TailSummary:
        """Inverse of :meth:`to_dict`.

        :raises ValueError: another schema, missing or malformed fields, or counts that contradict each other
        """
        if state.get("schema") != SCHEMA:
            raise ValueError(f"not a tail summary: its schema is {state.get('schema')!r}, expected {SCHEMA!r}")
        try:
            numbers: dict[str, Any] = {name: int(state[name]) for name in _INTEGERS}
            numbers |= {name: float(state[name]) for name in _FLOATS}
            summary = cls(
                top=np.array([float(x) for x in state["top"]], dtype=np.float64),
                count_table={(int(j), int(f)): int(repeats) for j, f, repeats in state["count_table"]},
                **numbers,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"malformed tail summary: {type(error).__name__}: {error}") from error
        summary._check()
        return summary

    def _check(self) -> None:
        """Contradictions that only a damaged or hand-written file can hold."""
        wrong = (
            self.count < 1
            or min(self.n_neg_inf, self.n_pos_inf, self.n_unscored, self.n_finite) < 0
            or self.capacity < 2
            or self.top.size != min(self.count, self.capacity)
            or bool(np.isnan(self.top).any())
            or bool((self.top[1:] > self.top[:-1]).any())
            or int(np.isposinf(self.top).sum()) != min(self.n_pos_inf, self.capacity)
            or not all(math.isfinite(getattr(self, name)) for name in _FLOATS)
            or (bool(self.count_table) and sum(self.count_table.values()) != self.count)
            or any(not 0 <= f <= j or repeats < 1 for (j, f), repeats in self.count_table.items())
        )
        if wrong:
            raise ValueError("malformed tail summary: its counts and its largest scores contradict each other")


def summarize_scores(
    p: Any = None,
    *,
    log_p: Any = None,
    psi: Any = None,
    failures: Any = None,
    samples: Any = None,
    capacity: int = TailSummary.DEFAULT_CAPACITY,
) -> TailSummary:
    """Summary of scores given in exactly one form; parameters as in :func:`.forecast`.

    :raises ValueError: no form or several, a scalar, NaN or values out of range
    """
    given = [name for name, x in (("p", p), ("log_p", log_p), ("psi", psi), ("failures", failures)) if x is not None]
    if len(given) != 1:
        what = f"got {' and '.join(given)}" if given else "got none"
        raise ValueError(f"give the scores in exactly one form, p, log_p, psi or failures with samples: {what}")
    if (failures is None) != (samples is None):
        raise ValueError("failures and samples belong together: give both")
    if failures is not None:
        j = samples if np.ndim(samples) == 0 else _vector(samples, "samples")
        return TailSummary.from_counts(_vector(failures, "failures"), j, capacity)
    if p is not None:
        psi = psi_from_p(_vector(p, "p"))
    elif log_p is not None:
        psi = psi_from_log_p(_vector(log_p, "log_p"))
    return TailSummary.from_scores(_vector(psi, "psi"), capacity)


def _vector(x: Any, name: str) -> NDArray[np.float64]:
    """Any array-like as a float64 vector."""
    if is_tensor(x):
        x = x.detach().cpu().double().numpy()
    elif hasattr(x, "to_numpy"):  # polars and pandas series
        x = x.to_numpy()
    try:
        vector = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, its shape is {vector.shape}")
    return vector
