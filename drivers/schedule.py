"""When to read what: due times, back-off, and how each device is doing.

Owns: the due time of every block read of one wire, and the standing of every device. Promises: polls on a fixed grid
(next = previous + period); a missed poll is skipped and counted, never made up for; a failing device is asked more
and more seldom, so it cannot take the wire from the others. Never: does I/O or reads a clock: time is an argument.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence

from drivers import Health, Note
from drivers.exchange import Ask
from drivers.reader import Notes, Reader, Values
from drivers.sensor import Serial

log = logging.getLogger(__name__)

BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Wait after the 1st, 2nd … failure in a row, before the next poll."""
QUARANTINED = 3
"""Failures in a row from which a device counts as lost."""
_WIRE = frozenset({Note.NO_ANSWER, Note.BAD_CRC, Note.FOREIGN})
"""Failures that cost bus time or cast doubt on it. A refusal is an answer: it costs nothing, so it earns no wait."""
_LISTEN_OUT = {Note.NO_ANSWER: 2.0, Note.FOREIGN: 2.0, Note.BAD_CRC: 1.0}
"""Answer timeouts the device is let be after a failure: its answer may still come, and asked again sooner it would
pass for the new one."""
_LATE_S = 1.0
"""The least a silent device is let be on a serial line. An answer later than that, and it may be taken for that of an
equal question about other registers; with a short answer timeout twice the timeout would be no protection."""
_KEPT = 31


class Station:
    """One device on the wire and how it is doing."""

    def __init__(self, device: str, settings: Serial | None, min_gap_s: float, patience_s: float) -> None:
        self.device = device
        self.settings = settings
        self.min_gap_s = min_gap_s
        self.patience_s = patience_s
        """The answer timeout; 0 where a late answer cannot pass for a fresh one."""
        self.free_s = -math.inf
        """Not to be asked before this, by anyone."""
        self.retry_s = -math.inf
        """Not to be polled before this."""
        self.fails = 0
        self.asked = 0
        self.answered = 0
        self.missed = 0
        self.errors: dict[str, int] = {}
        self._responses = [0.0] * _KEPT

    def answer(self, at_s: float, response_s: float) -> None:
        """Book a usable answer."""
        self._responses[self.answered % _KEPT] = response_s
        self.asked += 1
        self.answered += 1
        self.free_s = at_s + self.min_gap_s
        if self.fails:
            if self.fails >= QUARANTINED:
                log.info("device_back device=%s after_failures=%d", self.device, self.fails)
            self.fails, self.retry_s = 0, -math.inf

    def failure(self, at_s: float, note: Note) -> None:
        """Book a failed exchange."""
        self.asked += 1
        self.errors[note] = self.errors.get(note, 0) + 1
        listen_s = _LISTEN_OUT.get(note, 0.0) * self.patience_s
        if listen_s and note is not Note.BAD_CRC:
            listen_s = max(listen_s, _LATE_S)
        self.free_s = at_s + max(self.min_gap_s, listen_s)
        self.fails += 1
        if note in _WIRE:
            self.retry_s = at_s + BACK_OFF_S[min(self.fails, len(BACK_OFF_S)) - 1]
        if self.fails == QUARANTINED:
            log.warning("device_lost device=%s note=%s failures=%d", self.device, note, self.fails)

    def health(self) -> Health:
        """Return the standing; may be called from any thread."""
        count, responses, errors = self.answered, self._responses[:], self.errors.copy()
        if self.missed:
            errors["missed_poll"] = self.missed
        kept = responses[:min(count, _KEPT)]
        state = "unknown" if not self.asked else "ok" if not self.fails \
            else "quarantined" if self.fails >= QUARANTINED else "failing"
        return Health(self.device, state, self.asked, count, errors,   # type: ignore[arg-type]
                      round(1000 * statistics.median(kept), 3) if kept else None)


class Task:
    """One block read, again and again."""

    def __init__(self, station: Station, ask: Ask, reader: Reader, period_s: float) -> None:
        self.station = station
        self.ask = ask
        self.reader = reader
        self.own_s = period_s
        self.period_s = period_s
        self.until_s = math.inf
        """When a borrowed pace ends."""
        self.due_s = math.inf
        """Next poll; never, until the schedule starts. A read asked for once stays so."""
        self.points = reader.points
        self.nothing: Values = (None,) * len(self.points)
        self.failed: dict[Note, Notes] = {note: (note,) * len(self.points) for note in Note}


class Schedule:
    """All the block reads of a wire."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self._urgent: deque[tuple[float, Task]] = deque()

    def start(self, now: float) -> None:
        """Begin: everything once at once, then spread evenly over each period."""
        groups: dict[float, list[Task]] = {}
        for task in self.tasks:
            groups.setdefault(task.own_s, []).append(task)
        for period, members in groups.items():
            for k, task in enumerate(members, 1):
                # The first read counts as an early one: the grid begins a part of a period later.
                task.due_s = now + period * (k / len(members) - 1)

    def ask_now(self, tasks: Sequence[Task], deadline_s: float) -> None:
        """Read these before any poll, unless `deadline_s` comes first; a back-off does not hold them."""
        for task in tasks:
            for n, (until_s, waiting) in enumerate(self._urgent):
                if waiting.ask.frame == task.ask.frame and waiting.points == task.points:
                    # One read answers all who ask; a second would only keep the polls waiting.
                    self._urgent[n] = (max(until_s, deadline_s), waiting)
                    break
            else:
                self._urgent.append((deadline_s, task))

    def pace(self, tasks: Sequence[Task], period_s: float, until_s: float, now: float) -> None:
        """Poll these every `period_s` until `until_s`, then as before."""
        for task in tasks:
            task.period_s, task.until_s = period_s, until_s
            task.due_s = min(task.due_s, now)

    def next(self, now: float) -> tuple[Task | None, float]:
        """Return (what to read now, now), or (None, when something may be read)."""
        wake = math.inf
        for late, task in [waiting for waiting in self._urgent if waiting[0] < now]:
            self._urgent.remove((late, task))
            log.warning("read_now_dropped device=%s late_s=%.3f", task.station.device, now - late)
        for n, (_, task) in enumerate(self._urgent):
            if task.station.free_s <= now:
                del self._urgent[n]
                return task, now
            wake = min(wake, task.station.free_s)
        chosen, best = None, math.inf
        for task in self.tasks:
            if task.until_s <= now:
                # After a slower pace the next poll of the own one may lie far back: it was not missed.
                task.due_s = max(task.due_s + task.own_s - task.period_s, min(task.due_s, now))
                task.period_s, task.until_s = task.own_s, math.inf
            station = task.station
            ready = max(task.due_s, station.free_s, station.retry_s)
            if ready > now:
                wake = min(wake, ready)
            elif task.due_s + task.period_s < best:
                # Earliest deadline first: a fast point goes before a slow one due at the same moment.
                chosen, best = task, task.due_s + task.period_s
        return chosen, now if chosen else wake

    @staticmethod
    def done(task: Task, started_s: float) -> None:
        """Set the next due time of a task whose exchange began at `started_s`."""
        if task.due_s > started_s:
            return   # an extra read between two polls moves nothing
        task.due_s += task.period_s
        missed = math.floor((started_s - task.due_s) / task.period_s)
        if missed > 0:
            task.due_s += missed * task.period_s
            task.station.missed += missed
