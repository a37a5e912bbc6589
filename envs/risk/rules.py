"""What counts as a failure in any Gymnasium environment, and which actions lead to one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

#: ``failure(env, observation, reward, terminated, truncated, info) -> bool``: whether this step was a failure.
FailureRule = Callable[[gymnasium.Env[Any, Any], Any, Any, bool, bool, dict[str, Any]], bool]


def has_lava(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether this is a MiniGrid environment with lava in its present grid."""
    if not any(base.__module__.startswith("minigrid.") for base in type(env.unwrapped).__mro__):
        return False
    return any(tile is not None and tile.type == "lava" for tile in env.unwrapped.grid.grid)  # type: ignore[attr-defined]


def minigrid_lava_failure(
    env: gymnasium.Env[Any, Any], observation: Any, reward: Any, terminated: bool, truncated: bool, info: dict[str, Any]
) -> bool:
    """Failure in MiniGrid: the agent stands on lava."""
    del observation, reward, terminated, truncated, info
    grid: Any = env.unwrapped
    under = grid.grid.get(*grid.agent_pos)
    return under is not None and under.type == "lava"


def minigrid_fatal(env: gymnasium.Env[Any, Any]) -> NDArray[np.float32]:
    """P(lava at the next step | state, action) in MiniGrid, shape (n_actions,): 1 for forward with lava ahead.

    A wrapper that renumbers MiniGrid's actions needs another rule.
    """
    grid: Any = env.unwrapped
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    fatal = np.zeros(int(env.action_space.n), dtype=np.float32)
    ahead = grid.grid.get(*grid.front_pos)
    fatal[grid.actions.forward] = ahead is not None and ahead.type == "lava"
    return fatal


def own_fatal(env: gymnasium.Env[Any, Any]) -> NDArray[np.float32]:
    """What the environment's own method ``fatal_probability()`` says, shape (n_actions,)."""
    return env.get_wrapper_attr("fatal_probability")()  # type: ignore[no-any-return]


def table_fatal(env: gymnasium.Env[Any, Any], failure: FailureRule) -> NDArray[np.float32]:
    """P(failure at the next step | state, action), shape (n_actions,), from a transition table ``P[state][action]`` as
    Gymnasium's toy-text environments have one; exact, their noise included. The rule is asked about every entry, with
    the next state as observation and an empty ``info``.
    """
    toy: Any = env.unwrapped
    row = toy.P[int(toy.s)]
    return np.array(
        [
            min(1.0, sum(p for p, state, reward, end in row[action] if failure(env, state, reward, end, False, {})))
            for action in sorted(row)
        ],
        dtype=np.float32,
    )


def lookahead_fatal(env: gymnasium.Env[Any, Any], failure: FailureRule) -> NDArray[np.float32]:
    """Which actions fail at the next step, shape (n_actions,), 0 or 1: each is tried on a deep copy.

    Exact in a deterministic environment. In a stochastic one it is a single sample of the noise (the copy draws what
    the environment itself will draw): unbiased given state and action, but it must not be shown to the policy.

    :raises ValueError: the environment cannot be copied, as with an open window
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Discrete)
    fatal = np.zeros(int(space.n), dtype=np.float32)
    # Copying spaces and specs would take most of the time: the copies share them.
    shared: dict[int, Any] = {}
    layer: Any = env
    while layer is not None:
        held = (vars(layer).get(name) for name in ("spec", "observation_space", "action_space"))
        shared |= {id(value): value for value in held if value is not None}
        layer = vars(layer).get("env")
    for index in range(int(space.n)):
        try:
            trial = copy.deepcopy(env, dict(shared))
        except TypeError as error:
            raise ValueError(
                f"fatal='lookahead' cannot copy {env.unwrapped} ({error}): do not render it, or give fatal a function"
            ) from error
        fatal[index] = failure(trial, *trial.step(space.dtype.type(space.start + index)))
    return fatal
