"""Many readings of one sensor: what moved, and how well it answers.

Owns: the running figures of a watch. Promises: a failed read counts as an error and never as a value.
Never: does I/O.
"""

from __future__ import annotations

import statistics

from msgspec import Struct, field

from gateway.installer.reading import Reading, Value


class Seen(Struct):
    """One point so far."""

    last: Value
    low: float | None = None
    high: float | None = None
    good: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    def add(self, value: Value) -> None:
        """Take one more."""
        self.last = value
        if value.value is not None:
            self.low = value.value if self.low is None else min(self.low, value.value)
            self.high = value.value if self.high is None else max(self.high, value.value)
        if value.good:
            self.good += 1
        elif value.note:
            self.notes[value.note] = self.notes.get(value.note, 0) + 1


class Watch:
    """All points of one device, over many readings."""

    def __init__(self) -> None:
        self.points: dict[str, Seen] = {}
        self.readings = self.asked = self.answered = 0
        self.failed: dict[str, int] = {}
        self._responses_ms: list[float] = []

    def add(self, reading: Reading) -> None:
        """Take one reading."""
        self.readings += 1
        self.asked += reading.asked
        self.answered += len(reading.responses_s)
        self._responses_ms += [1000 * seconds for seconds in reading.responses_s]
        for note, count in reading.failed.items():
            self.failed[note] = self.failed.get(note, 0) + count
        for value in reading.values:
            self.points.setdefault(value.point.id, Seen(value)).add(value)

    @property
    def response_ms(self) -> tuple[float, float] | None:
        """Median and longest response so far."""
        return (statistics.median(self._responses_ms), max(self._responses_ms)) if self._responses_ms else None
