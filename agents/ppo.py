"""PPO whose failures become forecastable: the forecastability loss as an extra gradient at PPO's optimiser steps."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.forecast_ppo.objective import TaskObjective, risk_penalty
from agents.forecastability import GradientLimit, RiskTerm
from agents.risk import make_estimator
from rl_forecast.errors import unknown_name
from rl_forecast.loss.forecastability import ForecastabilityLoss

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedIOBase
    from pathlib import Path

    from numpy.typing import NDArray
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

    from agents.forecast_ppo.health import TermHealth

__all__ = ["ForecastPPO"]

SelfForecastPPO = TypeVar("SelfForecastPPO", bound="ForecastPPO")

# The forecast generator's stream: any constant, so that the term never shares draws with anything else.
_STREAM = 0xF0CA57
_PLAIN_PPO = "ForecastPPO with forecast_coef=0, risk_coef=0 and anchor_coef=0 is plain PPO"


class ForecastPPO(PPO):
    """Proximal Policy Optimization with the forecastability loss (Schwarzer & Niekum 2026, arXiv 2605.15134; our
    reading).

    The only change to PPO: before an optimiser step of the actor, the gradient of the forecastability loss over
    recently played tasks is added to PPO's. Three things happen per rollout:

    1. what the environment says of risk is recorded beside the rollout buffer (``RiskTape``), kept task by task
       (``RiskLedger``) and turned into failure probabilities (:mod:`agents.risk`);
    2. the scores of all known tasks under the current policy give ``dL / d psi`` of the loss
       (:class:`rl_forecast.loss.forecastability.ForecastabilityLoss`);
    3. at every ``forecast_interval``-th minibatch the scores of the weighted tasks are evaluated again and their
       gradient, limited in norm, is added after PPO's own clipping, in a step pre-hook of the optimiser.

    With ``forecast_coef = 0`` the weights are bit-identical to PPO's and the environment needs no risk contract. The
    gradient reaches every parameter that the action distribution depends on; a features extractor shared with the
    critic is among them, as it is for PPO's policy loss.

    :param policy: policy model, as for PPO
    :param env: environment, as for PPO; with ``forecast_coef > 0`` it follows the risk contract of
        :mod:`rl_forecast.tasks`, as far as ``risk_estimator`` needs it
    :param learning_rate: as for PPO, and likewise every argument down to ``stats_window_size``
    :param forecast_coef: weight of the forecastability loss; while the norm limit is active (log
        ``train/forecast_clip_factor`` below 1) larger values change nothing
    :param tail_k: number of largest scores the forecast inside the loss is fitted to
    :param n_partitions: random evaluation/deployment partitions per update, or ``auto``
    :param n_eval: tasks in the evaluation part of a partition
    :param n_deploy: tasks in its deployment part; while fewer tasks are known both parts shrink alike
    :param n_known_tasks: number of most recent tasks whose scores enter the loss
    :param episodes_per_task: episodes after which a task's score is used; the environment must play a task that often
        (more tasks beat more episodes)
    :param risk_estimator: where failure probabilities come from. ``direct``: probabilities of fatal actions in visited
        states. ``flow``: the same, and how actions lead to those states. ``failures``: failures that happened, for any
        action space and without ``fatal_probability``; with few episodes a task it carries a penalty, hardly a
        forecast. ``exact``: computed by the environment, where it can
    :param error_space: space of the forecast error: ``psi``, ``log10_p`` or ``log_odds``. The latter two have raised
        common failures to meet rare ones (docs/forecast_ppo.md): watch ``rollout/ep_risk_mean``
    :param penalty: ``squared`` or ``huber``
    :param forecast_gradient: ``full``, or ``stop_realised`` for the gradient through the forecast only
    :param psi_cap: scores above are capped in the loss, their gradient passes: 3 is p = 0.95. A few saturated tasks
        would dominate the loss otherwise. ``None`` for no cap
    :param forecast_interval: add the gradient at every that many minibatches; at every single one the term outweighs
        PPO's own gradient and has collapsed policies
    :param forecast_max_grad_norm: norm limit of the added gradient, of its own because the hook runs after PPO's
    :param forecast_max_grad_ratio: further limit of that norm, as a multiple of the norm of PPO's own gradient on the
        same parameters at that step; ``None`` for none. The absolute limit belongs to one environment, this one carries
        over: without it the term has silenced PPO's objective altogether (docs/any_environment.md, docs/rl_study.md)
    :param risk_coef: weight of a supervised penalty on the same tasks' risk, in place of the forecastability loss
        (``forecast_coef=0``) or beside it
    :param risk_penalty: ``mean_risk``, ``cvar`` or ``top_log_risk``, see
        :func:`agents.forecast_ppo.objective.risk_penalty`
    :param risk_fraction: share of the riskiest tasks that ``cvar`` and ``top_log_risk`` look at
    :param anchor_coef: weight of a penalty on scores above those of the anchor, a frozen copy of the policy as it was
        when ``learn`` was first called (:meth:`set_anchor` takes it at another time). It stops ordinary failures from
        being raised to meet a rare mode, which every error space but psi does without it

    >>> from envs import GridVecEnv, RecolorWorld
    >>> env = GridVecEnv(RecolorWorld(), np.arange(4_000), num_envs=32)
    >>> settings = dict(n_steps=32, batch_size=256, n_epochs=1, seed=0, device="cpu")
    >>> model = ForecastPPO("MlpPolicy", env, n_eval=40, n_deploy=60, **settings).learn(1_024)
    >>> model.num_timesteps, len(model.known_task_ids) > 0
    (1024, True)

    Without the term it is PPO to the bit:

    >>> def weights(cls, **more):
    ...     env = GridVecEnv(RecolorWorld(), np.arange(4_000), num_envs=32)
    ...     return cls("MlpPolicy", env, **settings, **more).learn(1_024).policy.state_dict()
    >>> ours, ppos = weights(ForecastPPO, forecast_coef=0.0), weights(PPO)
    >>> all(torch.equal(ours[name], ppos[name]) for name in ppos)
    True
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        forecast_coef: float = 1.0,
        tail_k: int = 10,
        n_partitions: int | Literal["auto"] = 64,
        n_eval: int = 200,
        n_deploy: int = 800,
        n_known_tasks: int = 4000,
        episodes_per_task: int = 1,
        risk_estimator: str = "direct",
        error_space: str = "psi",
        penalty: str = "squared",
        forecast_gradient: str = "full",
        psi_cap: float | None = 3.0,
        forecast_interval: int = 4,
        forecast_max_grad_norm: float = 0.25,
        forecast_max_grad_ratio: float | None = 0.3,
        risk_coef: float = 0.0,
        risk_penalty: str = "mean_risk",
        risk_fraction: float = 0.01,
        anchor_coef: float = 0.0,
    ) -> None:
        # Plain attributes under the arguments' own names: SB3 saves and loads them as such.
        self.forecast_coef = forecast_coef
        self.tail_k = tail_k
        self.n_partitions = n_partitions
        self.n_eval = n_eval
        self.n_deploy = n_deploy
        self.n_known_tasks = n_known_tasks
        self.episodes_per_task = episodes_per_task
        self.risk_estimator = risk_estimator
        self.error_space = error_space
        self.penalty = penalty
        self.forecast_gradient = forecast_gradient
        self.psi_cap = psi_cap
        self.forecast_interval = forecast_interval
        self.forecast_max_grad_norm = forecast_max_grad_norm
        self.forecast_max_grad_ratio = forecast_max_grad_ratio
        self.risk_coef = risk_coef
        self.risk_penalty = risk_penalty
        self.risk_fraction = risk_fraction
        self.anchor_coef = anchor_coef
        self.anchored = False
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    @property
    def term_is_on(self) -> bool:
        """Whether anything is added to PPO's gradient, so that the environment must follow the risk contract."""
        return self.forecast_coef > 0 or self.risk_coef > 0 or self.anchor_coef > 0

    @property
    def _what_is_on(self) -> str:
        """The first setting that turns the term on, for messages."""
        coefs = {name: getattr(self, name) for name in ("forecast_coef", "risk_coef", "anchor_coef")}
        return next((f"{name}={value}" for name, value in coefs.items() if value > 0), type(self).__name__)

    @property
    def known_task_ids(self) -> NDArray[np.int64]:
        """Tasks whose scores enter the loss, oldest first, shape (n_tasks,)."""
        return self._term.ledger.task_id

    @property
    def health(self) -> TermHealth | None:
        """Side effects of the latest update, ``None`` before the first one."""
        return self._term.health

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        # Here rather than in __init__: ``load`` writes attributes first and then calls this.
        self._check_settings()
        self._term = RiskTerm(
            make_estimator(self.risk_estimator),
            self._limit(),
            self.episodes_per_task,
            self.n_known_tasks,
            np.random.default_rng(None if self.seed is None else [self.seed, _STREAM]),
        )
        # Copied before the hook is registered: the copy must not bring this agent along.
        self.anchor: ActorCriticPolicy | None = self._frozen_copy() if self.anchor_coef > 0 else None
        # Registering changes no number; the hook returns at once while there is no surrogate.
        self.policy.optimizer.register_step_pre_hook(lambda *_: self._term.add_gradient(self.policy))

    def _check_settings(self) -> None:
        for name in ("forecast_coef", "risk_coef", "anchor_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        for name in ("n_known_tasks", "episodes_per_task", "forecast_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, it is {getattr(self, name)}")
        if self.forecast_max_grad_norm <= 0:
            raise ValueError(f"forecast_max_grad_norm must be positive, it is {self.forecast_max_grad_norm}")
        if self.forecast_max_grad_ratio is not None and self.forecast_max_grad_ratio <= 0:
            raise ValueError(f"forecast_max_grad_ratio must be positive or None, it is {self.forecast_max_grad_ratio}")
        if not 0.0 < self.risk_fraction <= 1.0:
            raise ValueError(f"risk_fraction must lie in (0, 1], it is {self.risk_fraction}")
        risk_penalty(np.zeros(1), self.risk_penalty)  # its own check of the name
        self._objective()  # its own checks
        estimator = make_estimator(self.risk_estimator)  # its own check of the name
        if not self.term_is_on:
            return
        if self.anchor_coef > 0 and not estimator.rescores:
            raise ValueError(
                f"anchor_coef={self.anchor_coef} needs the risk under the anchor, which risk_estimator="
                f"{self.risk_estimator!r} cannot tell from episodes of this policy: take another estimator, or 0"
            )
        self._say_what_is_on(lambda: estimator.check_actions(self.action_space))

    def _say_what_is_on(self, check: Callable[[], None]) -> None:
        """Run a check whose error must say why it is made at all."""
        try:
            check()
        except ValueError as error:
            raise ValueError(f"{self._what_is_on}: {error}; {_PLAIN_PPO}") from None

    def _limit(self) -> GradientLimit:
        return GradientLimit(self.forecast_interval, self.forecast_max_grad_norm, self.forecast_max_grad_ratio)

    def _frozen_copy(self) -> ActorCriticPolicy:
        frozen = copy.deepcopy(self.policy)
        del frozen.optimizer
        frozen.requires_grad_(False)
        frozen.set_training_mode(False)
        return frozen

    def set_anchor(self, policy: ActorCriticPolicy) -> None:
        """Take another policy's weights as the anchor.

        :param policy: a policy of the same architecture
        :raises ValueError: the agent was made with ``anchor_coef=0``
        """
        if self.anchor is None:
            raise ValueError("there is no anchor with anchor_coef=0")
        self.anchor.load_state_dict(policy.state_dict())
        self.anchored = True

    def _objective(self) -> TaskObjective:
        """What the term asks of the scores: the one thing a different method overrides."""
        loss = ForecastabilityLoss(
            n_eval=self.n_eval,
            n_deploy=self.n_deploy,
            tail_k=self.tail_k,
            n_partitions=self.n_partitions,
            error_space=self.error_space,  # type: ignore[arg-type]
            penalty=self.penalty,  # type: ignore[arg-type]
            gradient=self.forecast_gradient,  # type: ignore[arg-type]
            psi_cap=self.psi_cap,
        )
        return TaskObjective(
            loss=loss,
            forecast_coef=self.forecast_coef,
            risk_penalty=self.risk_penalty,
            risk_coef=self.risk_coef,
            risk_fraction=self.risk_fraction,
            anchor_coef=self.anchor_coef,
        )

    _unsaved: ClassVar[list[str]] = ["_term", "anchor"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self._unsaved]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        return [*names, *(["anchor"] if self.anchor is not None else [])], tensors

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """As PPO's; parameters saved without an anchor, such as a plain PPO's, become the anchor too."""
        given = load_path_or_dict
        if self.anchor is not None and isinstance(given, dict) and "anchor" not in given and "policy" in given:
            given = given | {"anchor": given["policy"]}
        super().set_parameters(given, exact_match, device)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.term_is_on and self._term.tape.is_cut_short:
            # What a callback stopped halfway was never taken in: episodes that began there would be scored without
            # their beginning, so they are not gone on with.
            self._last_obs = None
        env_is_reset = reset_num_timesteps or self._last_obs is None
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if self.anchor is not None and not self.anchored:
            self.set_anchor(self.policy)
        if self.term_is_on:
            env = self.env
            assert env is not None
            self._say_what_is_on(lambda: self._term.estimator.attach(env))
            if env_is_reset:
                self._term.forget_running_episodes()
        return result

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if self.term_is_on:
            own: list[Any] = [self._term.tape]
            if callback is not None:
                own += callback if isinstance(callback, list) else [_as_callback(callback)]
            callback = own
        return super()._init_callback(callback, progress_bar)

    def learn(
        self: SelfForecastPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ForecastPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfForecastPPO:
        """As PPO's, and the last update is logged too (PPO writes its logs before an update)."""
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        # Writing empties the logger, and after PPO's learn the last update's values can be read there.
        kept: list[dict[str, Any]] = [
            self.logger.name_to_value,
            self.logger.name_to_count,
            self.logger.name_to_excluded,
        ]
        contents = [dict(content) for content in kept]
        self.logger.dump(step=self.num_timesteps)
        for content, before in zip(kept, contents, strict=True):
            content.update(before)
        return self

    @classmethod
    def load(
        cls: type[SelfForecastPPO],
        path: str | Path | BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfForecastPPO:
        """As PPO's, which would take any name: one that the constructor does not know is refused.

        :param kwargs: constructor arguments that replace the saved ones
        :raises TypeError: a name that is no argument of the constructor
        """
        names = _constructor_arguments(cls)
        for name in kwargs:
            if name not in names:
                # The nearest name first: it is the one that was meant.
                raise TypeError(f"{cls.__name__}.load: {unknown_name('argument', name, names)}")
        if "stats_window_size" in kwargs:
            # The one argument that PPO keeps under another name.
            kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    # -- state of a run -----------------------------------------------------------------------------------------

    #: plain attributes that change while learning, beyond PPO's own
    _changing: ClassVar[tuple[str, ...]] = ("anchored",)

    def term_state(self) -> dict[str, Any]:
        """What the term remembers between rollouts (see :mod:`agents.training_state`)."""
        state: dict[str, Any] = {name: getattr(self, name) for name in self._changing} | self._term.state_dict()
        if self.anchor is not None:
            state |= {f"anchor.{name}": value for name, value in self.anchor.state_dict().items()}
        return state

    def restore_term_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`term_state` gave.

        :raises ValueError: one of the two has an anchor and the other has not
        """
        anchor = {key.removeprefix("anchor."): value for key, value in state.items() if key.startswith("anchor.")}
        if bool(anchor) != (self.anchor is not None):
            raise ValueError("the state is of an agent with another anchor_coef: only one of them is 0")
        for name in self._changing:
            setattr(self, name, state[name])
        self._term.load_state_dict(state)
        if self.anchor is not None:
            self.anchor.load_state_dict({name: torch.as_tensor(value) for name, value in anchor.items()})

    # -- the term -------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy from the rollout buffer, with the term's gradient added to PPO's."""
        if self.term_is_on:
            # Settings may be changed between updates, as SB3's may.
            self._term.limit = self._limit()
            psi = self._term.ingest(self.rollout_buffer, self.policy, self.logger)
            if psi is not None:
                self._term.weight(self.policy, self.anchor, psi, self._objective_for(psi), self.logger)
        super().train()
        if self.term_is_on:
            self._term.finish(self.policy, self.logger)

    def _objective_for(self, psi: NDArray[np.float64]) -> TaskObjective:
        """The objective of this update.

        :param psi: shape (n_tasks,), scores of the known tasks
        """
        return self._objective()


def _constructor_arguments(algorithm: type) -> list[str]:
    """Names of an algorithm's constructor arguments, down to the first ancestor that passes nothing on."""
    names: dict[str, None] = {}
    for ancestor in algorithm.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        parameters = list(inspect.signature(vars(ancestor)["__init__"]).parameters.values())[1:]
        passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names |= dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not passes_on:
            break
    return [name for name in names if not name.startswith("_")]


def _as_callback(callback: Any) -> BaseCallback:
    """A bare function as a callback, as SB3 accepts it."""
    return callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)
