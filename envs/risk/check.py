"""check_risk_env: what an environment still lacks to follow the risk contract, in plain words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from numpy.typing import NDArray

from rl_forecast.tasks import FAILURE, FATAL_PROBABILITY, RISK, TASK_ID

_LAST = {TASK_ID: "int", FAILURE: "bool", "is_success": "bool", RISK: "float"}
# Standard errors by which realised failures may miss their probability: one false alarm in 16 000 sound environments.
_Z_LIMIT = 4.0
_STEPS_COMPARED = 50


def check_risk_env(env: gymnasium.Env[Any, Any], n_episodes: int = 50, seed: int = 0, max_steps: int = 10_000) -> None:
    """Check that an environment follows the risk contract, by playing random episodes.

    Checked are the keys and their types; that ``fatal_probability`` (the method, or the entry of ``info``) is one
    probability per action and agrees with what happens: an action of probability 1 fails, 0 does not, and in total as
    often as announced; that ``risk`` is the sum over the executed actions; that a task id fixes the task and a seed
    everything. Gymnasium's and Stable-Baselines3's own ``check_env`` check the rest.

    :param env: a single environment, for example out of :class:`envs.RiskWrapper`
    :param max_steps: longest episode waited for
    :raises ValueError: the contract is broken; one line for each finding
    :warns UserWarning: nothing is broken, but something could not be seen or looks unintended

    >>> check_risk_env(gymnasium.make("envs:RiskGrid/Recolor-v0"))
    >>> check_risk_env(gymnasium.make("CartPole-v1"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the environment breaks the risk contract:
    - 'fatal_probability' is missing: give RiskWrapper fatal=f with ...
    """
    check = _Check(env, max_steps)
    check.run(n_episodes, seed)
    if check.errors:
        raise ValueError("the environment breaks the risk contract:\n" + "\n".join(f"- {s}" for s in check.errors))
    for sentence in check.notes:
        warnings.warn(sentence, UserWarning, stacklevel=2)


class _Check:
    """Findings, each sentence once, in the order of discovery."""

    def __init__(self, env: gymnasium.Env[Any, Any], max_steps: int) -> None:
        self.env, self.max_steps = env, max_steps
        self.errors: dict[str, None] = {}
        self.notes: dict[str, None] = {}
        self.error, self.note = self.errors.setdefault, self.notes.setdefault
        self.task_ids: set[int] = set()
        self.failures = 0
        self.expected = self.variance = 0.0  # of their number, if the probabilities are right

    def run(self, n_episodes: int, seed: int) -> None:
        space = self.env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            self.error(f"fatal_probability needs a Discrete action space, it is {space}.")
            return
        space.seed(seed)
        for episode in range(n_episodes):
            self.play(space, seed + episode)
            if self.errors:  # one broken episode says enough
                return
        # Failures minus risk is a sum of martingale differences whose variance is that of the announced probabilities.
        if abs(self.failures - self.expected) > _Z_LIMIT * np.sqrt(self.variance) + 1e-4 * n_episodes:
            self.error(
                f"{self.failures} of {n_episodes} episodes failed, the fatal probabilities announced "
                f"{self.expected:.1f} +- {np.sqrt(self.variance):.1f}."
            )
            return
        if self.failures == 0:
            self.note(
                f"No failure in {n_episodes} random episodes: whether fatal_probability is right could not be seen. "
                "Play more, or check the failure rule."
            )
        if len(self.task_ids) == 1 and n_episodes > 1:
            self.note(f"All {n_episodes} episodes played task {next(iter(self.task_ids))}: there is no tail of tasks.")
        self.check_tasks(seed)

    def play(self, space: gymnasium.spaces.Discrete[Any], seed: int) -> None:
        """One random episode."""
        observation, info = self.env.reset(seed=seed)
        if observation not in self.env.observation_space:
            shape = getattr(observation, "shape", type(observation).__name__)
            self.error(f"the first observation (shape {shape}) is not in {self.env.observation_space}.")
        chosen: list[float] = []
        for _ in range(self.max_steps):
            fatal = self.fatal(info)
            if fatal is None:
                return
            action = space.sample()
            chosen.append(float(fatal[int(action) - int(space.start)]))
            _, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                return self.check_end(info, np.array(chosen))
        self.error(f"an episode did not end within {self.max_steps} steps: tasks need an end, as TimeLimit gives one.")

    def fatal(self, info: Mapping[str, Any]) -> NDArray[np.floating[Any]] | None:
        """The current state's probabilities; ``None`` where there are none."""
        n_actions = int(self.env.action_space.n)  # type: ignore[attr-defined]
        entry, method = info.get(FATAL_PROBABILITY), self.env.has_wrapper_attr(FATAL_PROBABILITY)
        if entry is None and not method:
            self.error(
                f"'{FATAL_PROBABILITY}' is missing: give RiskWrapper fatal=f with f(env) -> {n_actions} probabilities, "
                f"'table' or 'lookahead', or your environment a method {FATAL_PROBABILITY}()."
            )
            return None
        fatal = np.asarray(self.env.get_wrapper_attr(FATAL_PROBABILITY)() if entry is None else entry)
        if fatal.shape != (n_actions,):
            self.error(f"'{FATAL_PROBABILITY}' has shape {fatal.shape}, one entry per action is ({n_actions},).")
        elif not np.issubdtype(fatal.dtype, np.floating):
            self.error(f"'{FATAL_PROBABILITY}' has dtype {fatal.dtype}, it must be a float: it is a probability.")
        elif not ((fatal >= 0) & (fatal <= 1)).all():
            self.error(f"'{FATAL_PROBABILITY}' leaves [0, 1]: {fatal.tolist()}.")
        else:
            return fatal
        return None

    def check_end(self, info: Mapping[str, Any], chosen: NDArray[np.float64]) -> None:
        """The last info of an episode whose actions had these fatal probabilities, shape (n_steps,)."""
        for key in _LAST.keys() - info.keys():
            self.error(f"'{key}' ({_LAST[key]}) is missing from the last info of an episode.")
        if self.errors:
            return
        task, failed, risk = info[TASK_ID], bool(info[FAILURE]), chosen.sum()
        if isinstance(task, bool) or not isinstance(task, int | np.integer) or task < 0:
            self.error(f"'{TASK_ID}' must be a non-negative integer, it is {task!r}.")
            return
        for key in (FAILURE, "is_success"):
            if not isinstance(info[key], bool | np.bool_):
                self.error(f"'{key}' must be a bool, it is {info[key]!r}.")
        if failed and info["is_success"]:
            self.note("An episode was a failure and a success at once.")
        if not np.isclose(info[RISK], risk, rtol=1e-4, atol=1e-6):
            self.error(f"'{RISK}' is {info[RISK]!r}, the executed actions' fatal probabilities sum to {risk:.6g}.")
        if (chosen == 1).any() and not failed:
            self.error("An action with fatal probability 1 was taken and the episode was no failure.")
        if risk == 0 and failed:
            self.error("An episode failed though all its actions had fatal probability 0.")
        self.failures += failed
        self.expected += risk
        self.variance += (chosen * (1 - chosen)).sum()
        self.task_ids.add(int(task))

    def check_tasks(self, seed: int) -> None:
        """Whether a task id can be chosen and fixes the task, and a seed everything."""
        tracks = []
        for task in sorted(self.task_ids)[:10]:
            first, played = self.track(seed, task)
            if played != task:
                self.note(
                    f"reset(options={{'{TASK_ID}': {task}}}) played task {played}: without that option chosen tasks "
                    "cannot be evaluated."
                )
                break
            again, other = self.track(seed, task)[0], self.track(seed + 1, task)[0]
            if not data_equivalence(first[0], other[0]):
                self.error(
                    f"Task {task} began differently with another seed: its layout is not fixed by its id. Draw it in "
                    "reset from the id alone (under RiskWrapper: from self.np_random after super().reset(seed=seed))."
                )
            elif not data_equivalence(first, again):
                self.error(
                    f"Task {task} went differently with the same seed and actions: its noise does not come from "
                    "self.np_random."
                )
            tracks.append(first)
        if len(tracks) > 1 and all(data_equivalence(tracks[0], track) for track in tracks[1:]):
            self.note(
                f"{len(tracks)} tasks looked exactly alike under the same seed and actions: perhaps the id changes "
                "nothing."
            )

    def track(self, seed: int, task: int) -> tuple[tuple[Any, ...], int]:
        """What an episode of fixed random actions shows in its first steps, and the task it played."""
        self.env.action_space.seed(seed=0)
        observation, info = self.env.reset(seed=seed, options={TASK_ID: task})
        shown: list[Any] = [observation]
        for step in range(self.max_steps):
            observation, reward, terminated, truncated, info = self.env.step(self.env.action_space.sample())
            if step < _STEPS_COMPARED:
                shown += [observation, float(reward), bool(terminated), self.fatal(info)]
            if terminated or truncated:
                break
        return tuple(shown), int(info.get(TASK_ID, -1))
