"""A process beside the one being measured: asked by a line on its standard input, answers a line of JSON.

Owns: the other processes of a measurement, and what the kernel says of any process. Promises: `close` leaves none of
them behind. Never: shares a process with what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


class Child:
    """``python -m MODULE ARGUMENTS…``; a context manager. Its first line is in `hello`."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=ENVIRONMENT, text=True)
        self.hello = self._heard()

    def ask(self, word: str) -> dict[str, Any]:
        """Send a line and return the answer.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}; it says why above")
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of all threads of a process that still runs.

    The same sum as utime + stime of ``/proc/PID/stat``, in ns instead of 10 ms (clock_getcpuclockid(3)).
    """
    return time.clock_gettime(~pid << 3 | 2)


def peak_mib(pid: int) -> float:
    """Highest resident memory of a process, MiB (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmHWM: it has ended")


def until(condition: Callable[[], Any], timeout_s: float, every_s: float = 0.05) -> bool:
    """Wait until `condition` is true; False when it was not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(every_s)
    return True
