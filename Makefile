# The commands of the README. Each makes the virtual environment and installs when needed.
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python

.PHONY: train test minigrid-suite sb3-suite sb3-term-suite lint types benchmarks clean

train: $(VENV)/installed
	$(RUN) -m rl_forecast.train $(ARGS)

# In as many processes as there are cores. Files stay together: a run that several tests read is made once. Those with
# the fewest tests take longest, so they keep their own order.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# MiniGrid's own environment tests on our ids; its sdist is fetched once, and the run skipped without a network.
minigrid-suite: $(VENV)/installed
	$(RUN) tests/foreign/run_suite.py minigrid $(ARGS)

# SB3's own tests that concern PPO, on ForecastPPO without settings; then those that can be run with the callback.
sb3-suite: $(VENV)/installed
	$(RUN) tests/foreign/run_suite.py stable-baselines3 $(ARGS)

sb3-term-suite: $(VENV)/installed
	$(RUN) tests/foreign/run_suite.py stable-baselines3-term $(ARGS)

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/installed
	$(RUN) -m mypy

benchmarks: $(VENV)/installed
	$(RUN) -m benchmarks.worlds
	$(RUN) -m benchmarks.loss
	$(RUN) -m benchmarks.forecast_ppo
	$(RUN) -m benchmarks.lm_scoring

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
