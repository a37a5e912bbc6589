"""PPO that brings the forecastability callback along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from agents.forecastability import Forecastability
from agents.risk import RiskSource
from rl_forecast.loss.objectives import Objective
from rl_forecast.loss.settings import ForecastSettings

SelfForecastPPO = TypeVar("SelfForecastPPO", bound="ForecastPPO")

_RECOMMENDED = ForecastSettings()


class ForecastPPO(PPO):
    """Proximal Policy Optimization with the forecastability loss (Schwarzer & Niekum 2026, arXiv 2605.15134; our
    reading).

    The only change to PPO: ``learn`` runs the callback :class:`agents.Forecastability`, which is the attribute
    ``forecastability``, first. ``save`` keeps settings and anchor; what was remembered of the tasks starts anew.

    :param policy: as for PPO, and likewise every argument that is not named here
    :param env: as for PPO; it follows the risk contract of :mod:`rl_forecast.tasks`
    :param settings: the recommended setting by default; ``None`` is plain PPO, to the bit and in any environment
    :param objective: as for the callback
    :param risk: as for the callback
    :param anchor: as for the callback
    :param forecast_coef: replaces ``settings.coef``; 0 without ``settings`` and ``objective`` is plain PPO

    >>> import numpy as np, torch
    >>> from envs import GridVecEnv, RecolorWorld
    >>> def train(cls, **more):
    ...     env = GridVecEnv(RecolorWorld(), np.arange(4_000), num_envs=32)
    ...     more |= dict(n_steps=32, batch_size=256, n_epochs=1, seed=0, device="cpu")
    ...     return cls("MlpPolicy", env, **more).learn(1_024)
    >>> model = train(ForecastPPO, settings=ForecastSettings(n_eval=40, n_deploy=60, anchor_coef=0.0))
    >>> model.num_timesteps, len(model.forecastability.memory.task_id) > 0
    (1024, True)
    >>> ours, ppos = train(ForecastPPO, settings=None).policy.state_dict(), train(PPO).policy.state_dict()
    >>> all(torch.equal(ours[name], ppos[name]) for name in ppos)
    True
    """

    forecastability: Forecastability | None

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        *args: Any,
        settings: ForecastSettings | None = _RECOMMENDED,
        objective: Objective | None = None,
        risk: RiskSource | None = None,
        anchor: ActorCriticPolicy | None = None,
        forecast_coef: float | None = None,
        **kwargs: Any,
    ) -> None:
        if settings is None and any(given is not None for given in (objective, risk, anchor)):
            raise ValueError("settings=None is plain PPO, which takes no objective, risk or anchor: leave them out")
        self.settings = settings
        self.objective = objective
        self.risk = risk
        self.anchor = anchor
        self.forecast_coef = forecast_coef
        super().__init__(policy, env, *args, **kwargs)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        super()._setup_model()
        # Here rather than in __init__: ``load`` writes what it is given as attributes and then calls this. Two of them
        # are used up: the callback has the anchor, and the settings the weight.
        anchor, coef = self.__dict__.pop("anchor"), self.__dict__.pop("forecast_coef")
        if coef and self.settings is None:
            raise ValueError(f"forecast_coef={coef:g} has no settings to go into: give settings=ForecastSettings()")
        if coef is not None and self.settings is not None:
            is_plain = coef == 0 and self.settings is _RECOMMENDED and self.objective is None
            self.settings = None if is_plain else replace(self.settings, coef=coef)
        self.forecastability = None
        if self.settings is not None:
            self.forecastability = Forecastability(
                self.settings, objective=self.objective, risk=self.risk, anchor=anchor
            )
            try:
                self.forecastability.check(self)
            except ValueError as error:
                raise ValueError(f"{error}; ForecastPPO with settings=None is plain PPO") from None

    def learn(
        self: SelfForecastPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        *args: Any,
        **kwargs: Any,
    ) -> SelfForecastPPO:
        """As PPO's, with the forecastability callback before the given ones."""
        if self.forecastability is not None:
            given = callback if isinstance(callback, list) else [] if callback is None else [callback]
            callback = [
                self.forecastability,
                *(c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given),
            ]
        if len(args) < 2:  # log_interval, tb_log_name
            kwargs = {"tb_log_name": type(self).__name__} | kwargs
        return super().learn(total_timesteps, callback, *args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As PPO's."""
        if self.forecastability is not None:  # which leaves out the anchor of an untrained policy
            self.settings, self.objective = self.forecastability.settings, self.forecastability.objective
        super().save(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "forecastability"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        has_anchor = self.forecastability is not None and self.forecastability.anchor is not None
        return [*names, *(["forecastability.anchor"] if has_anchor else [])], tensors

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """As PPO's; the anchor may be among the parameters or not."""
        given = load_path_or_dict
        if isinstance(given, dict) and self.forecastability is not None:
            if "forecastability.anchor" in given:
                self.forecastability.set_anchor(self.policy)
            elif self.forecastability.anchor is not None:
                given = given | {"forecastability.anchor": self.forecastability.anchor.state_dict()}
        super().set_parameters(given, exact_match, device)
