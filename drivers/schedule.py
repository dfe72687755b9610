"""When to read what: due times of the block reads of one line.

Owns: the due time of every block read, and who goes first. Promises: polls on a fixed grid (next = previous +
period); a missed poll is skipped and counted, never made up for; what was asked for goes before every poll, a siren's
write before all; a failing device is asked by one cheap probe only, so it cannot take the line from the others.
Never: does I/O or reads a clock: time is an argument.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

from drivers import Note
from drivers.exchange import Ask, Request
from drivers.reader import Notes, Reader, Values
from drivers.sensor import Point
from drivers.station import BACK_OFF_S, Station

log = logging.getLogger(__name__)


class Turn(Protocol):
    """One exchange to be made."""

    station: Station

    @property
    def ask(self) -> Request:
        """What to send."""
        ...


class Task:
    """One block read, again and again."""

    def __init__(self, station: Station, ask: Ask, reader: Reader, period_s: float,
                 members: Sequence[Point] = ()) -> None:
        self.station = station
        self.ask = ask
        self.reader = reader
        self.own_s = period_s
        self.period_s = period_s
        self.until_s = math.inf
        """When a borrowed pace ends."""
        self.due_s = math.inf
        """Next poll; never, until the schedule starts. A read asked for once stays so."""
        self.fails = 0
        """Failures of this read in a row, whatever the device's other reads do."""
        self.retry_s = -math.inf
        self.silences = 0
        """Times its device was silent to this read, and to this read alone, since it answered it last."""
        self.members = tuple(members)
        """The points it was planned for."""
        self.points = reader.points
        self.nothing: Values = (None,) * len(self.points)
        self.failed: dict[str, Notes] = {note: (note,) * len(self.points) for note in Note}

    def answered(self) -> None:
        """Book a usable answer."""
        self.fails, self.retry_s, self.silences = 0, -math.inf, 0

    def failure(self, at_s: float) -> None:
        """Book a failure: a block its device will not answer must not take the time of those it does."""
        self.fails += 1
        self.retry_s = at_s + BACK_OFF_S[min(self.fails, len(BACK_OFF_S)) - 1]


class Urgent(Protocol):
    """Something asked for: it waits in front of the polls, the lowest rank first."""

    rank: int
    deadline_s: float

    @property
    def turn(self) -> Turn:
        """The exchange it needs next."""
        ...

    def dropped(self, late_s: float) -> None:
        """Its deadline has passed before its turn came."""
        ...


class Schedule:
    """All the block reads of a line, and what was asked of it beside them."""

    def __init__(self, tasks: Sequence[Task], grid_s: float = 0.0) -> None:
        """Take the reads.

        Args:
            tasks: in the order in which they go when all are due at once.
            grid_s: 0 spreads polls evenly over their period, so that a slow line is never asked for two things at
                once; above 0 they begin together on multiples of it: answers of a network then come in company, and
                one awakening serves them all.
        """
        self.tasks = list(tasks)
        self._grid_s = grid_s
        self.urgent: list[Urgent] = []
        self.probes: dict[Station, Task] = {}
        """What is asked of a failing device instead of its polls."""

    def start(self, now: float) -> None:
        """Read everything once as soon as may be, then on the grid."""
        groups: dict[float, list[Task]] = {}
        for task in self.tasks:
            groups.setdefault(task.period_s, []).append(task)
        for period, members in groups.items():
            for k, task in enumerate(members, 1):
                # The first read counts as an early one: the grid begins a part of a period later.
                task.due_s = now + period * (k / len(members) - 1)
                if self._grid_s:
                    step = min(self._grid_s, period)
                    task.due_s = math.floor(task.due_s / step) * step

    def replace(self, task: Task, parts: Sequence[Task]) -> None:
        """Put several smaller reads in the place of one; they are due when it was."""
        at = self.tasks.index(task)
        for part in parts:
            part.due_s, part.period_s, part.own_s, part.until_s = task.due_s, task.period_s, task.own_s, task.until_s
        self.tasks[at:at + 1] = parts

    def put(self, urgent: Urgent) -> None:
        """Let something go before the polls, behind what has its rank already."""
        at = next((n for n, other in enumerate(self.urgent) if other.rank > urgent.rank), len(self.urgent))
        self.urgent.insert(at, urgent)

    def pace(self, tasks: Sequence[Task], period_s: float, until_s: float, now: float) -> None:
        """Poll these every `period_s` until `until_s`, then as before."""
        for task in tasks:
            task.period_s, task.until_s = period_s, until_s
            task.due_s = min(task.due_s, now)

    def next(self, now: float) -> tuple[Urgent | Task | None, float]:
        """Return (what to do now, now), or (None, when something may be done)."""
        wake = math.inf
        if self.urgent:
            for late in [u for u in self.urgent if u.deadline_s < now]:
                self.urgent.remove(late)
                late.dropped(now - late.deadline_s)
            for n, urgent in enumerate(self.urgent):
                free_s = urgent.turn.station.free_s
                if free_s <= now:
                    return self.urgent.pop(n), now
                wake = min(wake, free_s)
        chosen, best = None, math.inf
        for task in self.tasks:
            if task.until_s <= now:
                # After a slower pace the next poll of the own one may lie far back: it was not missed.
                task.due_s = max(task.due_s + task.own_s - task.period_s, min(task.due_s, now))
                task.period_s, task.until_s = task.own_s, math.inf
            station = task.station
            ready = task.due_s
            if station.free_s > ready:
                ready = station.free_s
            if station.fails and station.retry_s > ready:
                ready = station.retry_s
            if task.fails and task.retry_s > ready and not station.fails:
                ready = task.retry_s
            if ready > now:
                if ready < wake:
                    wake = ready
            elif task.due_s + task.period_s < best:
                # Earliest deadline first: a fast point goes before a slow one due at the same moment.
                chosen, best = task, task.due_s + task.period_s
        if chosen is None:
            return None, wake
        # Of a device that failed twice one cheap read is tried, standing for all.
        return (self.probes.get(chosen.station, chosen) if chosen.station.fails > 1 else chosen), now

    @staticmethod
    def done(task: Task, started_s: float) -> None:
        """Set the next due time of a task whose exchange began at `started_s`."""
        if task.due_s > started_s:
            return   # an extra read between two polls moves nothing
        task.station.begun(started_s - task.due_s)
        task.due_s += task.period_s
        missed = math.floor((started_s - task.due_s) / task.period_s)
        if missed > 0:
            task.due_s += missed * task.period_s
            task.station.missed += missed
