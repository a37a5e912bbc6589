"""``python -m rl_forecast``."""

import sys

from rl_forecast.cli import main

if __name__ == "__main__":
    sys.exit(main())
