"""The direct estimate's whole gradient: how often a fatal action is taken, and how often its state is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agents.risk.base import Surrogate, psi_weight
from agents.risk.direct import DirectEstimator, DirectSurrogate, step_risk
from agents.risk.played import PlayedSteps, risk_to_come, without_own

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.task_memory import RiskLedger, RiskRows

__all__ = ["FlowEstimator"]


class FlowEstimator(DirectEstimator):
    """As :class:`DirectEstimator`, with the flow term: each played action is credited with the risk of the steps after
    it, ``sum_t d log pi(a_t | s_t) sum_{t' > t} sum_a pi(a | s_t') fatal(s_t', a)``.

    With two or more episodes a task, the mean of its other episodes at the same step is subtracted (control variate).
    Only tasks of the latest rollout have a flow term: a remembered task was played by another policy.
    """

    name = "flow"
    needs_actions = True

    def keeps(self, fatal: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        return np.ones(shape, dtype=np.bool_)

    def condense(self, rows: RiskRows) -> RiskRows:
        return super().condense(rows[np.flatnonzero(rows.fatal.any(axis=1))])

    def surrogate(self, policy: ActorCriticPolicy, ledger: RiskLedger, weight: NDArray[np.float64]) -> Surrogate:
        assert ledger.rows is not None
        assert ledger.fresh is not None
        fresh = ledger.fresh
        to_come, time = risk_to_come(fresh, step_risk(policy, fresh))
        # Tasks and steps as one number, since an episode that has ended by then has no more risk to come.
        place = fresh.owner * (1 + int(time.max(initial=0))) + time
        baseline = without_own(place, to_come, ledger.episodes[fresh.owner])
        played = PlayedSteps(fresh, to_come - baseline, weight, policy.device)
        return _FlowSurrogate(DirectSurrogate(policy, ledger.rows, weight), played)


class _FlowSurrogate(Surrogate):
    def __init__(self, direct: DirectSurrogate, played: PlayedSteps) -> None:
        self._direct, self._played = direct, played
        self.n_tasks, self.n_rows = direct.n_tasks, direct.n_rows + played.n_rows

    def loss(self, policy: ActorCriticPolicy) -> torch.Tensor:
        p = self._direct.probability(policy)
        return (psi_weight(self._direct.weight, p) * (p + self._played.per_task(policy))).sum()

    def kl(self, policy: ActorCriticPolicy) -> float:
        return self._direct.kl(policy)
