"""check_risk_env: what an environment still lacks to follow the risk contract, in plain words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, TASK_ID

__all__ = ["check_risk_env"]

_LAST = {TASK_ID: "int", FAILURE: "bool", "is_success": "bool", RISK: "float"}
# Standard errors by which realised failures may miss their probability: one false alarm in 16 000 sound environments.
_Z_LIMIT = 4.0
_STEPS_COMPARED = 50


@dataclass
class _Findings:
    """What was found, each sentence once, in the order of discovery."""

    errors: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    failures: int = 0
    surprise: float = 0.0  # sum over episodes of failure minus risk
    variance: float = 0.0  # of that sum, if the probabilities are right
    task_ids: set[int] = field(default_factory=set)

    def error(self, sentence: str) -> None:
        self.errors.setdefault(sentence)

    def note(self, sentence: str) -> None:
        self.notes.setdefault(sentence)


def check_risk_env(env: gymnasium.Env[Any, Any], n_episodes: int = 50, seed: int = 0, max_steps: int = 10_000) -> None:
    """Check that an environment follows the risk contract, by playing random episodes.

    Checked are the keys and their types; that ``fatal_probability`` is one probability per action and agrees with what
    happens (an action of probability 1 fails, 0 does not, and in total as often as announced); that ``risk`` is the sum
    over the executed actions; that a task id fixes the task and a seed everything. Gymnasium's and
    Stable-Baselines3's own ``check_env`` check the rest.

    :param env: a single environment, for example out of :class:`envs.RiskWrapper`
    :param n_episodes: random episodes to play
    :param seed: of the environment and of the random actions
    :param max_steps: longest episode waited for
    :raises ValueError: the contract is broken; one line for each finding
    :warns UserWarning: nothing is broken, but something could not be seen or looks unintended

    >>> check_risk_env(gymnasium.make("envs:RiskGrid/Recolor-v0"))
    >>> check_risk_env(gymnasium.make("CartPole-v1"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the environment breaks the risk contract:
    - 'fatal_probability' is missing from the info of a reset or step: give RiskWrapper fatal=f with ...
    """
    found = _Findings()
    env.action_space.seed(seed)
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        found.error(f"fatal_probability needs a Discrete action space, it is {env.action_space}.")
    else:
        for episode in range(n_episodes):
            if not _play(env, seed + episode, max_steps, found):
                break
        _judge_outcomes(n_episodes, found)
        if not found.errors:
            _check_tasks(env, seed, max_steps, found)
    if found.errors:
        raise ValueError("the environment breaks the risk contract:\n" + "\n".join(f"- {s}" for s in found.errors))
    for sentence in found.notes:
        warnings.warn(sentence, UserWarning, stacklevel=2)


def _play(env: gymnasium.Env[Any, Any], seed: int, max_steps: int, found: _Findings) -> bool:
    """One random episode; False where it makes no sense to go on."""
    observation, info = env.reset(seed=seed)
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Discrete)
    if observation not in env.observation_space:
        shape = getattr(observation, "shape", type(observation).__name__)
        found.error(f"the first observation (shape {shape}) is not in the observation space {env.observation_space}.")
    risk = variance = 0.0
    certain = False
    for _ in range(max_steps):
        if not _check_fatal(info, "step" if risk or variance else "reset or step", int(space.n), found):
            return False
        action = space.sample()
        fatal = float(info[FATAL_PROBABILITY][int(action) - int(space.start)])
        risk, variance, certain = risk + fatal, variance + fatal * (1 - fatal), certain or fatal == 1
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return _check_end(info, risk, variance, certain, found)
    found.error(f"an episode did not end within {max_steps} steps: tasks need an end, for example by TimeLimit.")
    return False


def _check_fatal(info: Mapping[str, Any], where: str, n_actions: int, found: _Findings) -> bool:
    if FATAL_PROBABILITY not in info:
        found.error(
            f"'{FATAL_PROBABILITY}' is missing from the info of a {where}: give RiskWrapper fatal=f with f(env) -> "
            f"{n_actions} probabilities, 'table' or 'lookahead'."
        )
        return False
    fatal = np.asarray(info[FATAL_PROBABILITY])
    if fatal.shape != (n_actions,):
        found.error(f"'{FATAL_PROBABILITY}' has shape {fatal.shape}, one entry per action is ({n_actions},).")
    elif not np.issubdtype(fatal.dtype, np.floating):
        found.error(f"'{FATAL_PROBABILITY}' has dtype {fatal.dtype}, it must be a float: it is a probability.")
    elif not ((fatal >= 0) & (fatal <= 1)).all():
        found.error(f"'{FATAL_PROBABILITY}' leaves [0, 1]: {fatal.tolist()}.")
    else:
        return True
    return False


def _check_end(info: Mapping[str, Any], risk: float, variance: float, certain: bool, found: _Findings) -> bool:
    missing = [key for key in _LAST if key not in info]
    for key in missing:
        found.error(f"'{key}' ({_LAST[key]}) is missing from the last info of an episode.")
    if missing:
        return False
    if isinstance(info[TASK_ID], bool) or not isinstance(info[TASK_ID], int | np.integer) or info[TASK_ID] < 0:
        found.error(f"'{TASK_ID}' must be a non-negative integer, it is {info[TASK_ID]!r}.")
        return False
    for key in (FAILURE, "is_success"):
        if not isinstance(info[key], bool | np.bool_):
            found.error(f"'{key}' must be a bool, it is {info[key]!r}.")
    failed = bool(info[FAILURE])
    if failed and info["is_success"]:
        found.note("An episode was a failure and a success at once.")
    if not np.isclose(info[RISK], risk, rtol=1e-4, atol=1e-6):
        found.error(f"'{RISK}' is {info[RISK]!r}, the executed actions' fatal probabilities sum to {risk:.6g}.")
    if certain and not failed:
        found.error("An action with fatal probability 1 was taken and the episode was no failure.")
    if risk == 0 and failed:
        found.error("An episode failed though all its actions had fatal probability 0.")
    found.failures += failed
    found.surprise += failed - risk
    found.variance += variance
    found.task_ids.add(int(info[TASK_ID]))
    return not found.errors  # one broken episode says enough


def _judge_outcomes(n_episodes: int, found: _Findings) -> None:
    if found.errors:
        return
    # Failure minus risk is a sum of martingale differences whose variance is that of the announced probabilities.
    if abs(found.surprise) > _Z_LIMIT * np.sqrt(found.variance) + 1e-4 * n_episodes:
        found.error(
            f"{found.failures} of {n_episodes} episodes failed, the fatal probabilities announced "
            f"{found.failures - found.surprise:.1f} +- {np.sqrt(found.variance):.1f}."
        )
    if found.failures == 0:
        found.note(
            f"No failure in {n_episodes} random episodes: whether fatal_probability is right could not be seen. "
            "Play more, or check the failure rule."
        )
    if len(found.task_ids) == 1 and n_episodes > 1:
        found.note(f"All {n_episodes} episodes played task {next(iter(found.task_ids))}: there is no tail of tasks.")


def _check_tasks(env: gymnasium.Env[Any, Any], seed: int, max_steps: int, found: _Findings) -> None:
    """Whether a task id can be chosen and fixes the task, and a seed everything."""
    tasks = sorted(found.task_ids)[:10]
    tracks = {}
    for task in tasks:
        chosen = {TASK_ID: task}
        first = _track(env, seed, chosen, max_steps)
        if first[-1] != task:
            found.note(
                f"reset(options={{'{TASK_ID}': {task}}}) played task {first[-1]}: without that option chosen tasks "
                "cannot be evaluated."
            )
            break
        again, other = _track(env, seed, chosen, max_steps), _track(env, seed + 1, chosen, max_steps)
        if not data_equivalence(first[0][0], other[0][0]):
            found.error(
                f"Task {task} began differently with another seed: its layout is not fixed by its id. Draw it in reset "
                "from the id alone (under RiskWrapper: from self.np_random after super().reset(seed=seed))."
            )
        elif not data_equivalence(first, again):
            found.error(
                f"Task {task} went differently with the same seed and actions: its noise does not come from "
                "self.np_random."
            )
        tracks[task] = first[0]
    same = list(tracks.values())
    if len(same) > 1 and all(data_equivalence(same[0], track) for track in same[1:]):
        found.note(
            f"{len(same)} tasks looked exactly alike under the same seed and actions: perhaps the id changes nothing."
        )


def _track(
    env: gymnasium.Env[Any, Any], seed: int, options: dict[str, Any], max_steps: int
) -> tuple[tuple[Any, ...], int]:
    """What an episode of fixed random actions shows in its first steps, and the task it played."""
    env.action_space.seed(seed=0)
    observation, info = env.reset(seed=seed, options=options)
    shown: list[Any] = [observation]
    for step in range(max_steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        if step < _STEPS_COMPARED:
            shown += [observation, float(reward), bool(terminated), np.asarray(info[FATAL_PROBABILITY])]
        if terminated or truncated:
            break
    return tuple(shown), int(info.get(TASK_ID, -1))
