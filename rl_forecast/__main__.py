"""``python -m rl_forecast``."""

from rl_forecast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
