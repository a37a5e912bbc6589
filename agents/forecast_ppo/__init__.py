"""ForecastPPO: PPO with the forecastability loss, and the bookkeeping it needs."""

from agents.forecast_ppo.forecast_ppo import ForecastPPO

__all__ = ["ForecastPPO"]
