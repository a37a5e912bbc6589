"""Property tests draw fresh examples on a developer's machine and the same ones in CI; no example is timed."""

import multiprocessing
import os
import signal

from hypothesis import settings

from tests.forked import PRELOADED

settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

# A shell that runs the tests in the background has Ctrl-C ignored, in them and in every process they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One process forks those of all tests, whichever starts it: without this, each of its children would import torch.
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
