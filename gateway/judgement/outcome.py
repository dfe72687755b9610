"""What one call of the judgement hands back, and the tray it is collected on.

Owns: Outcome, and how an Event gets its id, time, status and words.
Promises: nothing collected is dropped when a later step of the same call fails.
Never: decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import drivers
from gateway.judgement import words
from gateway.model import LEVELS, Colour, Demand, Event, Lane, Samples, Status


class Feed(NamedTuple):
    """Good readings for the detector: indices in the inventory (int array), arrival (s), values (float array)."""

    indices: Any
    t_s: float
    values: Any


class Outcome(NamedTuple):
    """What follows from one Scan, Command, tick or score. Do `demand` first: the siren waits for nothing."""

    demand: tuple[Demand, ...] | None = None
    """What every output should be doing; None = unchanged."""
    ask: tuple[drivers.Command, ...] = ()
    """Confirming reads, for the wires."""
    latch: bytes | None = None
    """State to stage in the same step as the events; None = unchanged."""
    events: tuple[tuple[Lane, Event], ...] = ()
    samples: Samples | None = None
    """Readings to report, in the order they were judged; None = nothing to report."""
    feed: Feed | None = None


NOTHING = Outcome()


def colour_facts(level: int, was: int = 0) -> dict[str, object]:
    """Return the colour words of two levels, as the texts name them."""
    return {"colour_zh": words.COLOURS_ZH[level], "colour_en": words.COLOURS_EN[level],
            "was_zh": words.COLOURS_ZH[was], "was_en": words.COLOURS_EN[was]}


class Tray:
    """Collects events and asks of the running call, and what else has to be worked out at its end."""

    __slots__ = ("ask", "demand_moved", "events", "latch_moved", "new_id", "samples")

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.new_id = new_id
        self.events: list[tuple[Lane, Event]] = []
        self.ask: list[drivers.Command] = []
        self.samples: list[Samples] = []
        self.demand_moved = True
        self.latch_moved = False

    def tell(self, kind: str, t_s: float, facts: Mapping[str, object], *, object: str = "", point: str = "",  # noqa: A002
             alarm: str = "", level: int | None = None, was: int | None = None, status: Status = "Actual",
             who: str = "", why: dict[str, Any] | None = None) -> None:
        """Write an event of `kind` at monotonic `t_s`; alarm.* go in lane alarm, the others in lane event."""
        zh, en = words.event(kind, facts)
        colour: Colour | None = None if level is None else LEVELS[level]
        self.events.append(("alarm" if kind.startswith("alarm.") else "event", Event(
            id=self.new_id(), kind=kind, t_ms=milliseconds(t_s), object=object, point=point, alarm=alarm,
            colour=colour, was=None if was is None else LEVELS[was], status=status, who=who,
            text_zh=zh, text_en=en, why=why or {})))


def milliseconds(t_s: float) -> int:
    """Monotonic seconds as the integer milliseconds of rows and events."""
    return round(t_s * 1000)
