"""Commands of ``rl-forecast``, one to a module: ``main(argv)`` gives the exit code."""
