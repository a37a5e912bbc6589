"""Records the risk contract alongside Stable-Baselines3's rollout buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, TASK_ID, BatchedRiskEnv

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RiskTape", "first_that_is", "has_risk_contract"]


def first_that_is(kind: Any, env: VecEnv) -> Any:
    """The first environment of a kind, from the outermost wrapper inwards; the innermost of all if there is none.

    :param kind: a class or runtime-checkable protocol
    :param env: an environment, perhaps wrapped
    """
    while not isinstance(env, kind) and isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def has_risk_contract(env: VecEnv) -> bool:
    """Whether an environment that has been reset says how risky its actions are."""
    # A wrapper has reset_infos of its own, which stay empty; those of the wrapped environment are the real ones.
    source = first_that_is(BatchedRiskEnv, env)
    if isinstance(source, BatchedRiskEnv):
        return True
    # A VecEnv that does not call its base class's constructor has no reset_infos.
    infos = getattr(source, "reset_infos", [])
    return bool(infos) and all(FATAL_PROBABILITY in info for info in infos)


class RiskTape(BaseCallback):
    """One rollout of fatal probabilities, episode ends and tasks, aligned with the rollout buffer.

    The fatal probability belongs to the observation *before* a step, the end of an episode and its task to the step
    itself. A batched environment is asked for arrays, any other environment's ``infos`` are read.

    :param with_fatal: whether to record fatal probabilities; without, the environment needs to give none
    :param with_failure: whether every episode must say if it failed

    Attributes, valid at the end of a rollout:

    * ``fatal``: shape (n_steps, n_envs, n_actions), probability; ``None`` without
    * ``done``: shape (n_steps, n_envs), whether the step ended an episode
    * ``task_id``: shape (n_steps, n_envs), the episode's task where ``done``, else -1
    * ``failure``: shape (n_steps, n_envs), 1 or 0 where ``done``: whether the episode ended in failure; NaN where the
      environment does not say
    * ``current``: shape (n_envs, n_actions), probability, in the states that the next rollout begins with; ``None``
      where the environments are to be reset first
    * ``success``: one bool per episode that ended and says so by ``is_success``
    """

    fatal: NDArray[np.float32] | None
    done: NDArray[np.bool_]
    task_id: NDArray[np.int64]
    failure: NDArray[np.float64]
    success: list[bool]
    current: NDArray[np.float32] | None

    def __init__(self, with_fatal: bool = True, with_failure: bool = False) -> None:
        super().__init__()
        self._with_fatal = with_fatal
        self._asked = (TASK_ID, FAILURE) if with_failure else (TASK_ID,)
        self.success = []
        self.current = None
        self._position = 0
        self._source: Any = None
        self._batched = False

    @property
    def is_cut_short(self) -> bool:
        """Whether the latest rollout ended before it was full."""
        return 0 < self._position < len(self.done)

    def forget(self) -> None:
        """Drop the state before the next step: the environments have been reset."""
        self.current = None
        self._position = 0

    def _on_rollout_start(self) -> None:
        # Looked up once a rollout: checking a protocol at every step would cost as much as stepping.
        self._source = first_that_is(BatchedRiskEnv, self.training_env)
        self._batched = isinstance(self._source, BatchedRiskEnv)
        shape = (self.model.n_steps, self.training_env.num_envs)  # type: ignore[attr-defined]
        self.fatal = None
        if self._with_fatal:
            if self.current is None:
                self.current = self._read(None, None)
            self.fatal = np.zeros((*shape, self.current.shape[1]), dtype=np.float32)
        self.failure = np.full(shape, np.nan)
        self.done = np.zeros(shape, dtype=np.bool_)
        self.task_id = np.full(shape, -1, dtype=np.int64)
        self.success = []
        self._position = 0

    def _on_step(self) -> bool:
        t = self._position
        dones: NDArray[np.bool_] = self.locals["dones"]
        infos: list[dict[str, Any]] = self.locals["infos"]
        if self.fatal is not None:
            assert self.current is not None
            self.fatal[t] = self.current
            self.current = self._read(dones, infos)
        self.done[t] = dones
        for i in np.flatnonzero(dones).tolist():
            for key in self._asked:
                if key not in infos[i]:
                    raise ValueError(f"the last info of an episode must carry {key!r}, it has {sorted(infos[i])}")
            self.task_id[t, i] = infos[i][TASK_ID]
            self.failure[t, i] = float(infos[i].get(FAILURE, np.nan))
            if "is_success" in infos[i]:
                self.success.append(bool(infos[i]["is_success"]))
        self._position += 1
        return True

    def _read(self, dones: NDArray[np.bool_] | None, infos: list[dict[str, Any]] | None) -> NDArray[np.float32]:
        """Fatal probabilities of the current states, shape (n_envs, n_actions); right after a reset without infos."""
        if self._batched:
            fatal: NDArray[np.float32] = self._source.fatal_probability()
            return fatal
        current = self._source.reset_infos
        if infos is not None and dones is not None:
            # After an automatic reset the current state is the new episode's first, described by the reset's info.
            current = [reset if done else info for done, info, reset in zip(dones, infos, current, strict=True)]
        return np.stack([np.asarray(info[FATAL_PROBABILITY], dtype=np.float32) for info in current])
