"""Property tests draw fresh examples on a developer's machine and the same ones in CI; no example is timed."""

import os

from hypothesis import settings

settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
