"""One process a folder: whoever holds the lock of a folder is the one that writes there.

Owns: taking that lock. Promises: the lock ends with the process, whatever ends it.
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
