"""The commands of ``rl-forecast`` that work on score files, one to a module."""
