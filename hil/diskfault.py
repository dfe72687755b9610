"""A disk that is slow, stalled, full, read-only or failing, for one folder of one process.

Owns: building `diskfault.c`, its environment, its control file. Promises: faults begin and end at run time, from
outside, without the process knowing; files outside the folder are untouched. Never: touches a real disk's settings.

Limits: only calls through libc are seen (SQLite's are); memory-mapped writes are not.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("diskfault.c")


class DiskFault:
    """Faults for everything below `folder` in processes started with `environment()`."""

    def __init__(self, folder: Path, workshop: Path) -> None:
        """Build the shim in `workshop`, which must not lie below `folder`.

        Raises:
            RuntimeError: the compiler refused; the message is its own.
            FileNotFoundError: there is no gcc.
        """
        self.folder = folder.resolve()
        self._library = workshop / "diskfault.so"
        self._control = workshop / "diskfault.control"
        built = subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(self._library),
                                str(SOURCE), "-ldl"], capture_output=True, text=True, check=False)
        if built.returncode:
            raise RuntimeError(f"gcc could not build {SOURCE.name}: {built.stderr}")
        self.ok()

    def environment(self) -> dict[str, str]:
        """The caller's environment with the shim in it."""
        return {**os.environ, "LD_PRELOAD": str(self._library), "DISKFAULT_PREFIX": str(self.folder),
                "DISKFAULT_CONTROL": str(self._control)}

    def _say(self, word: str) -> None:
        # Renamed into place: the shim never reads half a word.
        new = self._control.with_suffix(".new")
        new.write_text(f"{word}\n")
        new.replace(self._control)

    def ok(self) -> None:
        """An ordinary disk."""
        self._say("ok")

    def slow_sync(self, delay_s: float) -> None:
        """Every fsync and fdatasync takes `delay_s` longer."""
        self._say(f"delay {delay_s:g}")

    def stall(self) -> None:
        """Writes and syncs do not return until another mode is set."""
        self._say("stall")

    def full(self) -> None:
        """Writes fail with ENOSPC."""
        self._say("full")

    def error(self) -> None:
        """Writes and syncs fail with EIO."""
        self._say("error")

    def read_only(self) -> None:
        """Writes, syncs, removals and opening for writing fail with EROFS, also of files that are open."""
        self._say("readonly")
