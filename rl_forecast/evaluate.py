"""``python -m rl_forecast.evaluate``: repeat the held-out evaluation of a run with other sizes or forecasters."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import Any

from rl_forecast.experiments.command_line import Parser, load_config, parse_fields
from rl_forecast.experiments.config import Config, EvaluationConfig
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.usage import UsageError, run_command
