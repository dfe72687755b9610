"""What the journal writes to the card in a day.

Owns: the price of a commit. Promises: bytes as the kernel counts them (`write_bytes` of /proc/PID/io: whole pages),
within a third of what was measured, for a journal that has reached its quota and deletes as much as it adds; the
body's size comes from the journal's own encoder. Never: does I/O.

Write-ahead frames are a little longer than a page, so n of them touch n + 1 pages. A commit of readings changes the
page of the small state and the last page of the rows; a page that fills also costs its parent, the header and, later,
its copy to the database; deleting costs the oldest page and the list of free ones.
"""

from __future__ import annotations

import math

from gateway.journal.intake import MOST, ROW_BYTES, SLACK_BYTES, SURE, WORST_BYTES
from gateway.journal.rows import encode
from gateway.model import Samples
from gateway.plan.timeline import Timeline

PAGE = 4096
_ROOM = 4000
"""Of a page, for rows."""
_COLUMNS = 110
"""Bytes of a row beside its body."""
DAY_S = 86400.0


class Rows:
    """How readings become rows: sizes by the journal's own encoder."""

    def __init__(self, samples: Samples) -> None:
        """`samples`: a typical stretch, at least 1024 readings."""
        self._samples = samples
        self._known: dict[int, int] = {}
        # As the journal does it: what is left of a page after the first look takes readings of any kind.
        self.most = min(MOST, SURE + (ROW_BYTES - SLACK_BYTES - self.body(SURE)) // WORST_BYTES)
        """Readings a row takes."""

    def body(self, readings: int) -> int:
        """Bytes of a body with so many readings."""
        if readings not in self._known:
            self._known[readings] = len(encode(self._samples[:readings].tobytes(), "data"))
        return self._known[readings]

    def split(self, readings: int) -> list[int]:
        """Readings of each row of a commit."""
        return [self.most] * (readings // self.most) + [readings % self.most] * (readings % self.most > 0)


def commit_bytes(rows: Rows, readings: int) -> float:
    """Bytes written for one commit, its share of later copying included."""
    if not readings:
        return 2.05 * PAGE
    filled = sum(1 / max(1, _ROOM // (rows.body(count) + _COLUMNS)) for count in rows.split(readings))
    grown = 3 + 2 * filled + 2 * min(1.0, filled)
    deleted = min(1.0, 3 * filled) + 1.5 * filled
    return PAGE * (grown + deleted)


def day_bytes(timeline: Timeline, rows: Rows) -> float:
    """Bytes written in a day."""
    prices: dict[int, float] = {}
    for commit in timeline.commits:
        if commit.readings not in prices:
            prices[commit.readings] = commit_bytes(rows, commit.readings)
    return math.fsum(prices[commit.readings] for commit in timeline.commits) * DAY_S / timeline.seconds
