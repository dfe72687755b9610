"""How this process asks the machine for memory.

Owns: the settings of glibc's allocator and of Python's garbage collector. Promises: what a thread has freed can be
used by all of them, and large blocks go back to the machine; a collection never walks what lives as long as the box,
so it holds up no siren. Never: needed for anything to work: where an allocator knows no such settings, they stay.
"""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8   # malloc.h
_LARGE_BYTES = 128 * 1024
"""glibc's own first value of both thresholds; once set it is not raised by what was freed before."""


def share() -> None:
    """One heap for all threads. Python's lock serialises most of them anyway; call before the first thread."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)   # glibc only
    if mallopt is not None:
        for setting, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE_BYTES), (_TRIM_THRESHOLD, _LARGE_BYTES)):
            mallopt(setting, value)


def settle() -> None:
    """What exists now lives as long as the process: collect once, then leave it alone. Call when all is built."""
    gc.collect()
    gc.freeze()
