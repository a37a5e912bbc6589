"""Forecastability training for Stable-Baselines3: a callback that adds one more gradient at the optimiser's steps."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.risk import RiskGradient, RiskSource, make_source
from agents.task_memory import RolloutRecord, TaskMemory, part_of
from agents.update_log import UpdateLog
from rl_forecast.loss.objectives import Objective, objective_of
from rl_forecast.loss.settings import ForecastSettings

# Any constant, so that the partitions never share random numbers with anything else.
_STREAM = 0xF0CA57


class Forecastability(BaseCallback):
    """Trains the policy so that its worst failures can be forecast (Schwarzer & Niekum 2026, arXiv 2605.15134; our
    reading), in any on-policy algorithm of Stable-Baselines3 and sb3-contrib but TRPO.

    1. While a rollout is played, the states in which some action can cause a failure are remembered, task by task.
    2. At its end the scores psi of the remembered tasks under the current policy give the gradient of the objective
       (:mod:`rl_forecast.loss.objectives`) by each score.
    3. At every ``interval``-th step of the policy's optimiser these scores are evaluated again, and their weighted
       gradient, limited in norm, is added to the algorithm's own, after its clipping.

    The environment follows the risk contract of :mod:`rl_forecast.tasks` as far as the source of risk needs it. The
    gradient reaches every parameter that the action distribution depends on, a shared features extractor included.

    :param settings: the recommended setting by default; ``ForecastSettings.paper()`` is the papers' loss. May be
        assigned between updates
    :param objective: what is asked of the scores, in place of the settings' own loss, mean risk and anchor
    :param risk: source of failure probabilities, in place of the one that the settings name
    :param anchor: policy whose scores should not be exceeded, copied now. By default the policy as it is when a trained
        agent begins to learn; one that was never trained has nothing worth staying close to, so the anchor is left out

    >>> from stable_baselines3 import A2C
    >>> from envs import GridVecEnv, RecolorWorld
    >>> model = A2C("MlpPolicy", GridVecEnv(RecolorWorld(), np.arange(4_000), 64), n_steps=32, seed=0, device="cpu")
    >>> callback = Forecastability(ForecastSettings(n_eval=40, n_deploy=60, anchor_coef=0.0))
    >>> model.learn(4_096, callback=callback).num_timesteps, len(callback.memory.task_id) > 0
    (4096, True)
    """

    def __init__(
        self,
        settings: ForecastSettings | None = None,
        *,
        objective: Objective | None = None,
        risk: RiskSource | None = None,
        anchor: ActorCriticPolicy | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or ForecastSettings()
        self.objective = objective
        self.source = risk or make_source(self.settings.risk)
        self.memory = TaskMemory(self.settings.episodes_per_task, self.settings.n_known_tasks, self.source.compress)
        self.record = RolloutRecord(self.source.needs_fatal, self.source.needs_failure)
        self.gradient: RiskGradient | None = None  # of the update under way
        self.update = UpdateLog()
        self.anchor: ActorCriticPolicy | None = None
        if anchor is not None:
            self.set_anchor(anchor)
        self._rng: np.random.Generator | None = None
        self._hook: Any = None
        # Where the run stood after the latest rollout and its update: only there do episodes under way continue.
        self._n_timesteps = self._n_updates = -1

    def set_anchor(self, policy: ActorCriticPolicy) -> None:
        """Copy a policy as the anchor."""
        # Without the optimiser, whose hook would bring this callback along, and without the latest distribution, whose
        # tensors belong to a graph.
        left_out = (policy.optimizer, getattr(policy.action_dist, "distribution", None))
        self.anchor = copy.deepcopy(policy, {id(part): None for part in left_out})
        self.anchor.requires_grad_(False)
        self.anchor.set_training_mode(False)

    @property
    def _wanted(self) -> Objective:
        return objective_of(self.settings) if self.objective is None else self.objective

    def _leave_out_anchor(self) -> None:
        self.settings = replace(self.settings, anchor_coef=0.0)
        self.objective = None if self.objective is None else self.objective.split_anchor()[0]

    def check(self, model: Any) -> None:
        """Refuse an algorithm, action space or combination of settings that cannot work.

        :raises ValueError: says what would
        """
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(f"{type(model).__name__} is no on-policy algorithm: take PPO, A2C, MaskablePPO, ...")
        if any(ancestor.__name__ == "TRPO" for ancestor in type(model).__mro__):
            # Its critic takes ten steps with the same optimiser: a hook would move the actor outside the trust region.
            raise ValueError("TRPO is not supported yet: take PPO")
        if self._wanted.needs_anchor and not self.source.can_rescore:
            raise ValueError(f"the anchor needs a risk that risk={self.source.name!r} cannot tell: set anchor_coef=0")
        self.source.check_actions(model.action_space)

    def _on_training_start(self) -> None:
        model: Any = self.model
        self._remove_hook()
        self.check(model)
        self.source.check_env(self.training_env)
        if self._rng is None:
            self._rng = np.random.default_rng(None if model.seed is None else [model.seed, _STREAM])
        if self.anchor is None and self._wanted.needs_anchor:
            if model._n_updates > 0:
                self.set_anchor(model.policy)
            else:
                logging.getLogger(__name__).warning("an untrained policy is no anchor: training without one")
                self._leave_out_anchor()
        # Steps alone do not tell: a learn without this callback may have counted them from 0 again.
        continues = (model.num_timesteps, model._n_updates) == (self._n_timesteps, self._n_updates)
        self.memory.resume_episodes(model._last_episode_starts.astype(bool), continues)
        self.record.begin(self.training_env, continues and not model._last_episode_starts.all())
        self._hook = model.policy.optimizer.register_step_pre_hook(lambda *_: self._add_gradient())

    def _on_training_end(self) -> None:
        self._n_updates = self.model._n_updates
        self._close_update()
        self._remove_hook()

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _on_rollout_start(self) -> None:
        self._close_update()
        self.record.clear(self.model.n_steps)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        self.record.step(self.locals["dones"], self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        """Score the remembered tasks and differentiate the objective; the algorithm updates right after this."""
        started = time.perf_counter()
        model: Any = self.model
        policy: ActorCriticPolicy = model.policy
        policy.set_training_mode(False)
        self._n_timesteps = model.num_timesteps
        record, memory, source = self.record, self.memory, self.source
        selected = source.select_steps(record.fatal, record.done.shape)
        n_new = memory.ingest(record.columns(model.rollout_buffer, source.needs_actions), selected, record)
        self.update.begin(memory, record.success)
        self.gradient = None
        if len(memory.task_id):
            psi = source.psi(policy, memory)
            self.update.see_scores(psi)
            if n_new:
                self.logger.record("rollout/ep_risk_mean", float((-(-psi[-n_new:]).exp()).exp().mean()))
            if bool(psi.isfinite().any()):
                self._differentiate(policy, psi)
        self.update.seconds += time.perf_counter() - started

    def _differentiate(self, policy: ActorCriticPolicy, psi: torch.Tensor) -> None:
        assert self._rng is not None
        anchor_psi = None if self.anchor is None else self.source.psi(self.anchor, self.memory)
        leaf = psi.clone().requires_grad_()
        result = self._wanted(leaf, anchor_psi, self._rng)
        if result is None:
            self.update.no_effect = f"{len(psi)} tasks are too few for the loss: see n_eval, n_deploy and tail_k"
            return
        value, logs = result
        self.update.logs |= logs
        weight = torch.autograd.grad(value, leaf)[0] if value.requires_grad else torch.zeros_like(psi)
        if bool(weight.any()):
            gradient = self.source.score_gradient(policy, self.memory, weight)
            self.gradient = gradient if gradient.n_rows else None

    def _add_gradient(self) -> None:
        self.update.n_steps += 1
        if self.gradient is None or self.update.n_steps % self.settings.interval:
            return
        started = time.perf_counter()
        policy: Any = self.model.policy
        parameters = [p for p in policy.parameters() if p.requires_grad]
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.gradient.loss(policy), parameters, allow_unused=True)
        pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        norm = torch.nn.utils.get_total_norm([g for _, g in pairs])
        limit = self.settings.max_grad_norm
        if self.settings.max_grad_ratio is not None:
            own = [p.grad for p, _ in pairs if p.grad is not None]
            limit = min(limit, self.settings.max_grad_ratio * float(torch.nn.utils.get_total_norm(own)))
        factor = (limit / (norm + 1e-12)).clamp(max=1.0)
        self.update.see_gradient(float(norm), float(factor))
        if torch.isfinite(norm):  # scaled by its norm it would otherwise be NaN and end the run; the log shows it
            for parameter, gradient in pairs:
                scaled = gradient * factor
                parameter.grad = scaled if parameter.grad is None else parameter.grad.add_(scaled)
        self.update.seconds += time.perf_counter() - started

    def _close_update(self) -> None:
        """Log the latest update beside the algorithm's own values of it: both stand in the logger's next dump."""
        self.update.close(self.logger, self.gradient, self.model.policy, self.memory)  # type: ignore[arg-type]
        self.gradient = None

    @property
    def _parts(self) -> dict[str, Any]:
        return {"memory": self.memory, "record": self.record, "update": self.update, "objective": self._wanted}

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered between rollouts, flat: arrays and tensors, and what JSON can hold."""
        parts = self._parts | ({} if self.anchor is None else {"anchor": self.anchor})
        state = {f"{part}.{name}": value for part, of in parts.items() for name, value in of.state_dict().items()}
        rng = None if self._rng is None else self._rng.bit_generator.state
        n_updates = self._n_updates if self._hook is None else self.model._n_updates
        return state | {"n_timesteps": self._n_timesteps, "n_updates": n_updates, "rng": rng}

    def load_state_dict(self, state: dict[str, Any], policy: ActorCriticPolicy) -> None:
        """Take over what :meth:`state_dict` gave; ``policy`` is one of the anchor's architecture.

        :raises ValueError: only one of the two trainings has an anchor
        """
        anchor = part_of(state, "anchor")
        if bool(anchor) != self._wanted.needs_anchor and (anchor or self.anchor is not None):
            raise ValueError("the state is of a training with another anchor_coef: only one of them is 0")
        if anchor:
            self.set_anchor(policy)
            assert self.anchor is not None
            self.anchor.load_state_dict({name: torch.as_tensor(value) for name, value in anchor.items()})
        elif self._wanted.needs_anchor:
            self._leave_out_anchor()
        for name, part in self._parts.items():
            part.load_state_dict(part_of(state, name))
        self._n_timesteps, self._n_updates = state["n_timesteps"], state["n_updates"]
        if state["rng"] is not None:
            self._rng = np.random.default_rng()
            self._rng.bit_generator.state = state["rng"]
