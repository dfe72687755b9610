"""Flags and how several tests' flags become one.

Owns: the order of precedence. Promises: pure; shapes in, shapes out. Never: a reason.

Source: QARTOD primary level flags (UNESCO/IOC 2013, Manuals and Guides 54 vol. 3): 1 good, 2 not evaluated, 3 suspect,
4 fail, 9 missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gateway.model import Flag

Array = np.ndarray[Any, np.dtype[Any]]

GOOD, UNTESTED, SUSPECT, FAIL, MISSING = (
    int(Flag.GOOD), int(Flag.NOT_EVALUATED), int(Flag.SUSPECT), int(Flag.FAIL), int(Flag.MISSING))
RANK = np.zeros(10, np.uint8)
"""Flag → how much it weighs: missing, not evaluated, good, suspect, fail."""
RANK[[MISSING, UNTESTED, GOOD, SUSPECT, FAIL]] = range(5)


def aggregate(vectors: Sequence[Array]) -> Array:
    """Return the flag of each reading from those of several tests: the worst that any test could say.

    Missing only where all are missing, not evaluated only where no test could say more.

    Args:
        vectors: flags (uint8), all of one shape; at least one.

    Raises:
        ValueError: none, or not all of one shape.
    """
    if not vectors or len({v.shape for v in vectors}) > 1:
        raise ValueError("expected the flags of at least one test, all of one shape")
    stack = np.stack([np.asarray(v, np.uint8) for v in vectors])
    worst = np.argmax(RANK[stack], axis=0)
    found: Array = np.take_along_axis(stack, worst[None], axis=0)[0]
    return found


def fresh(v: Array, flag: int = GOOD) -> Array:
    """Return flags for the readings `v`: `flag`, and missing where there is no value."""
    return np.where(np.isnan(v), np.uint8(MISSING), np.uint8(flag))
