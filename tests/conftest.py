"""Property tests draw fresh examples on a developer's machine and the same ones in CI."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, print_blob=False)
if os.environ.get("CI"):
    settings.load_profile("ci")
