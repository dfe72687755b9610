"""One process a folder: whoever holds the lock of a folder is the one that writes there.

Owns: taking that lock, and looking whether it is taken. Promises: the lock ends with the process, whatever ends it.
Never: knows what lies in the folder.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def claim(folder: Path) -> int:
    """Lock `folder`; closing the descriptor that is returned lets go.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be opened.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def claimed(folder: Path) -> bool:
    """Whether somebody holds `folder`. A gateway that starts just now finds nobody in its way."""
    stat = folder.stat()
    # "1: FLOCK  ADVISORY  WRITE 4711 fd:01:131073 0 EOF" (proc(5)); the device in hexadecimal
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any("FLOCK" in line and place in line.split() for line in locks)
