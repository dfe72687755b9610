"""How much a counter grew between two readings.

Owns: telling growth from a number that begins again. Promises: never less than nothing, and never more than what must
have been counted when it is unsure. Never: keeps state.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Resets = Literal["power_loss", "command", "never"]
_NEAR = 0.25
"""A counter passes its end from the last quarter of its way into the first; anything else that falls was reset."""


class Growth(NamedTuple):
    """What was counted between two readings, and what the counter did."""

    delta: float
    how: Literal["", "wrapped", "reset"]


def grew(before: float, after: float, wrap: float | None = None, resets: Resets = "power_loss",
         most: float | None = None) -> Growth:
    """Return how much a counter grew from `before` to `after`.

    Args:
        before: the earlier reading, at least 0.
        after: the later one, in the same unit.
        wrap: where it begins again at 0 by itself, None when that is not known.
        resets: what else makes it begin again; ``never``: only its wrap does.
        most: the most it can have grown in that time: a wrap that would mean more is a reset.

    Returns:
        The growth. After a reset at least `after` was counted since, and what came before it is not known: the delta
        is `after`.
    """
    if after >= before:
        return Growth(after - before, "")
    if wrap is None or not before <= wrap:
        return Growth(after, "reset")
    through = wrap - before + after
    if resets == "never":
        return Growth(through, "wrapped")
    likely = through <= most if most is not None else through <= _NEAR * wrap
    return Growth(through, "wrapped") if likely else Growth(after, "reset")
