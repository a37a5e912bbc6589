"""What native code writes to the standard error, held back while files are read."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import IO

__all__ = ["NativeStderr", "native_stderr"]


class NativeStderr:
    """Holds back what native code writes to the standard error while files are read.

    On a damaged parquet file polars can panic: Rust prints a stack trace to file descriptor 2 before Python sees an
    exception. Readers run in several threads, so holds nest, and the last release decides: the text is dropped after a
    panic and passed on otherwise.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holds = 0
        self._panicked = False
        self._real = -1
        self._kept: IO[bytes] | None = None

    def hold(self) -> None:
        """Begin to hold back."""
        with self._lock:
            self._holds += 1
            if self._holds > 1:
                return
            self._panicked = False
            try:
                self._real = os.dup(2)
            except OSError:  # no standard error at all
                return
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the last release
            os.dup2(self._kept.fileno(), 2)

    def release(self, panicked: bool) -> None:
        """End a hold.

        :param panicked: whether native code panicked meanwhile: what it wrote is then dropped
        """
        with self._lock:
            self._holds -= 1
            self._panicked |= panicked
            if self._holds or self._kept is None:
                return
            os.dup2(self._real, 2)
            self._kept.seek(0)
            text = self._kept.read()
            if text and not self._panicked:
                os.write(self._real, text)
            os.close(self._real)
            self._kept.close()
            self._kept = None


native_stderr = NativeStderr()
"""The one of this process: file descriptor 2 is shared by all its threads."""
