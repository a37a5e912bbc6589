"""Agents whose training shapes the tail of their failures. Names are resolved on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_forecast.lazy import lazy_exports

if TYPE_CHECKING:
    from agents.callbacks import DegeneracyCallback as DegeneracyCallback
    from agents.callbacks import ForecastEvalCallback as ForecastEvalCallback
    from agents.callbacks import TrainingStateCallback as TrainingStateCallback
    from agents.forecastability import Forecastability as Forecastability
    from agents.language_model import ContinuationScorer as ContinuationScorer
    from agents.language_model import ForecastObjective as ForecastObjective
    from agents.language_model import ForecastTrainer as ForecastTrainer
    from agents.language_model import PromptTask as PromptTask
    from agents.ppo import ForecastPPO as ForecastPPO
    from agents.simulation import simulate_tasks as simulate_tasks
    from rl_forecast.loss.settings import ForecastSettings as ForecastSettings


__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
