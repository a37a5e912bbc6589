"""``python -m rl_forecast.train``: train agents on a risk gridworld and check their failure forecasts."""

from __future__ import annotations

import sys

from rl_forecast.experiments.command_line import parse_config
from rl_forecast.experiments.config import Config, check_config
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.usage import run_command

__all__ = ["main"]

_DESCRIPTION = """Train a base agent on a risk gridworld, fine-tune it with plain PPO, ForecastPPO and a top-risk
penalty with equal steps, and compare the forecast of each agent's worst failure with what held-out tasks show."""


def main(argv: list[str] | None = None) -> int:
    """Run the main job.

    :param argv: command-line arguments, those of the process if ``None``
    :return: exit code: 0, or 2 after bad input
    """
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        config = parse_config(Config, arguments, "python -m rl_forecast.train", _DESCRIPTION)
        check_config(config)
        folder = RunFolder.create(config, ["python", "-m", "rl_forecast.train", *arguments])
        # Imported last: the help and the run folder must not wait for torch.
        from rl_forecast.experiments.main_job import run_main_job

        run_main_job(config, folder)
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
