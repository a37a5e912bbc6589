"""Run another project's own tests, out of the sdist of its installed release, on what this project offers.

``python tests/foreign/run_suite.py minigrid`` fetches the sdist from PyPI into a cache folder (once), changes nothing
in it, and runs its tests with a plugin of this folder that puts our environments in place of its own. Without a network
and without a cached copy it says so and ends with 0. Further arguments go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rl-forecast" / "sdists"


# Package on PyPI, pytest plugin in this folder that points its tests at our own classes, and arguments of pytest.
# SB3's are imported under names that its SubprocVecEnv tests can find again in their worker processes.
_SB3 = ("tests", "--import-mode=prepend", "-rs")
SUITES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "minigrid": ("minigrid", "minigrid_plugin", ("tests/test_envs.py",)),
    "stable-baselines3": ("stable-baselines3", "sb3_plugin", _SB3),
    "stable-baselines3-term": ("stable-baselines3", "sb3_term_plugin", _SB3),
}


def fetch(package: str) -> Path | None:
    """Root folder of the unpacked sdist of the installed release; ``None`` where PyPI cannot be reached."""
    folder = _CACHE / f"{package}-{version(package)}"
    if not list(folder.glob("*.tar.gz")):
        folder.mkdir(parents=True, exist_ok=True)
        # pip rather than a URL: it knows the configured index and checks hashes.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version(package)}"]
        if subprocess.run(command, check=False).returncode:
            return None
    archive = next(folder.glob("*.tar.gz"))
    root = folder / archive.name.removesuffix(".tar.gz")
    if not root.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return root


def main(arguments: list[str]) -> int:
    """Run one suite: pytest's exit code; 0 where the sdist cannot be had, 2 for an unknown suite."""
    if not arguments or arguments[0] not in SUITES:
        print(f"usage: run_suite.py {{{','.join(SUITES)}}} [pytest arguments]", file=sys.stderr)
        return 2
    package, plugin, own = SUITES[arguments[0]]
    root = fetch(package)
    if root is None:
        print(f"SKIPPED: the sdist of {package} {version(package)} is not cached and PyPI was not reached")
        return 0
    # -P: the sdist's own package must not be imported, the installed release is what is tested.
    path = os.pathsep.join([str(_HERE), str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "-o", "filterwarnings=default", *own, *arguments[1:]]
    return subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
