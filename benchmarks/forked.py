"""Processes that are forked from one that has imported everything, so that their time is spent in what they do."""

__all__ = ["PRELOADED"]

#: What the process that forks them imports. It does so once, at the first of them: name it before.
PRELOADED = (
    "rl_forecast.experiments.gridworld.gridworld_experiment",
    "rl_forecast.experiments.language_model.language_experiment",
    "accelerate",
    "benchmarks.kill_and_resume",
    "jsonargparse",
    "matplotlib.pyplot",
    "peft",
    "torch._dynamo",
)
