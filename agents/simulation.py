"""How risky a policy is on each of many tasks, by playing them: for any environment that follows the risk contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.risk.base import log_action_probability
from rl_forecast.scores import psi_from_log_p
from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, TASK_ID

# A sum of per-step probabilities can reach or pass 1; the score must stay finite.
_P_MAX = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class TaskOutcomes:
    """What playing the tasks showed.

    :param task_id: shape (n_tasks,)
    :param risk: shape (n_tasks,): mean over episodes of ``sum_s sum_a pi(a|s) fatal(s, a)``, an unbiased estimate of
        the failure probability that needs no failure to have happened; it may exceed 1
    :param failure: shape (n_tasks,), share of episodes that failed
    :param success: shape (n_tasks,), share of episodes that succeeded
    """

    task_id: NDArray[np.int64]
    risk: NDArray[np.float64]
    failure: NDArray[np.float64]
    success: NDArray[np.float64]

    @property
    def psi(self) -> NDArray[np.float64]:
        """Scores ``-log(-log p)`` of the tasks, shape (n_tasks,); ``-inf`` where no fatal action was ever met."""
        with np.errstate(divide="ignore"):
            score: NDArray[np.float64] = psi_from_log_p(np.log(np.minimum(self.risk, _P_MAX)))
        return score


def simulate_tasks(
    policy: ActorCriticPolicy,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    task_ids: NDArray[np.int64],
    episodes_per_task: int = 1,
    n_envs: int = 32,
    seed: int = 0,
) -> TaskOutcomes:
    """Play chosen tasks with a stochastic policy.

    Every episode is played to its end, so short ones are not favoured. Actions are drawn from a generator of their own.

    :param policy: an actor with discrete actions
    :param make_env: makes an environment that follows the risk contract and plays ``options={"task_id": i}``
    :param task_ids: shape (n_tasks,)
    :param episodes_per_task: episodes of each task
    :param n_envs: environments played side by side, so that the policy is asked in batches
    :param seed: of actions and noise
    :raises ValueError: no tasks, or an environment that plays another task than it was asked to

    >>> import gymnasium
    >>> from stable_baselines3 import PPO
    >>> make_env = lambda: gymnasium.make("envs:RiskGrid/Recolor-v0")
    >>> policy = PPO("MlpPolicy", make_env(), seed=0, device="cpu").policy
    >>> outcomes = simulate_tasks(policy, make_env, np.arange(50), episodes_per_task=4)
    >>> outcomes.psi.shape, bool(abs(outcomes.risk.mean() - outcomes.failure.mean()) < 0.2)  # both estimate the same
    ((50,), True)
    """
    if len(task_ids) == 0 or episodes_per_task < 1:
        raise ValueError(f"nothing to play: {len(task_ids)} tasks, episodes_per_task={episodes_per_task}")
    rng = np.random.default_rng(seed)
    waiting = np.repeat(np.arange(len(task_ids)), episodes_per_task).tolist()[::-1]
    envs = [make_env() for _ in range(min(n_envs, len(waiting)))]
    risk, failure, success = np.zeros((3, len(task_ids)))
    playing: list[int] = []
    observations: list[Any] = []
    fatal: list[NDArray[np.float32]] = []

    def fatal_of(env: gymnasium.Env[Any, Any], info: dict[str, Any]) -> Any:
        return info[FATAL_PROBABILITY] if FATAL_PROBABILITY in info else env.get_wrapper_attr(FATAL_PROBABILITY)()

    def begin(env: gymnasium.Env[Any, Any], env_seed: int | None) -> tuple[int, Any, Any]:
        place = waiting.pop()
        observation, info = env.reset(seed=env_seed, options={TASK_ID: int(task_ids[place])})
        return place, observation, fatal_of(env, info)

    for env in envs:
        place, observation, fatal_now = begin(env, int(rng.integers(2**31)))
        playing.append(place)
        observations.append(observation)
        fatal.append(fatal_now)
    policy.set_training_mode(False)
    while envs:
        with torch.no_grad():
            batch = torch.as_tensor(np.stack([np.asarray(o) for o in observations]))
            pi = log_action_probability(policy, batch).double().exp().cpu().numpy()
        at_risk = (pi * np.stack(fatal)).sum(axis=1)
        actions = (rng.random((len(envs), 1)) * pi.sum(axis=1, keepdims=True) >= pi.cumsum(axis=1)).sum(axis=1)
        for e in reversed(range(len(envs))):
            risk[playing[e]] += at_risk[e]
            start = getattr(envs[e].action_space, "start", 0)
            observations[e], _, terminated, truncated, info = envs[e].step(start + actions[e])
            fatal[e] = fatal_of(envs[e], info)
            if not (terminated or truncated):
                continue
            if info[TASK_ID] != task_ids[playing[e]]:
                raise ValueError(f"asked for task {task_ids[playing[e]]}, the environment played {info[TASK_ID]}")
            failure[playing[e]] += info[FAILURE]
            success[playing[e]] += info["is_success"]
            if waiting:
                playing[e], observations[e], fatal[e] = begin(envs[e], None)
            else:
                envs[e].close()
                for column in (envs, playing, observations, fatal):
                    del column[e]
    return TaskOutcomes(task_ids, *(total / episodes_per_task for total in (risk, failure, success)))
