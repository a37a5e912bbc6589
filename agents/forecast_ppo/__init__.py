"""ForecastPPO: PPO with the forecastability loss, and the bookkeeping it needs."""

from agents.ppo import ForecastPPO

__all__ = ["ForecastPPO"]
