"""When readings are reported, when they are committed, and how many at a time: an hour or more of a quiet site.

Owns: the reporting and commit rules, played through in advance. Promises: the same thinning as `judgement.report` and
the same groups as `journal.writer`, for values that do not move and a network that works. Never: does I/O or reads a
clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

Array = np.ndarray[Any, np.dtype[Any]]

MOST_SCANS = 100_000
LONGEST_S = 86400.0
GROUP_READINGS = (1 << 20) // 21
"""A group is also written when its readings fill 1 MiB."""


class Stream(Struct, frozen=True):
    """Points of one read that are reported together."""

    start_s: float
    period_s: float
    points: tuple[int, ...]
    """Their indices in the inventory."""


class Commit(Struct, frozen=True):
    """One group brought to the disk; without readings it only remembers what was delivered."""

    at_s: float
    readings: int


class Timeline(Struct, frozen=True):
    """What happens in `seconds`."""

    seconds: float
    commits: tuple[Commit, ...]
    reports: Array
    """How often each point of the inventory is reported."""

    @property
    def data(self) -> tuple[Commit, ...]:
        """Commits that carry readings: each is told to every platform."""
        return tuple(commit for commit in self.commits if commit.readings)


def streams(poll_s: float, phase_s: float, points: Sequence[tuple[int, float]]) -> list[Stream]:
    """Thin one read.

    Args:
        poll_s: its period.
        phase_s: of its grid; the very first read comes at 0 and is reported.
        points: (index in the inventory, report.every_s) of what it carries.
    """
    together: dict[int, list[int]] = {}
    for index, every_s in points:
        # due at the first poll that is no more than half a period early
        together.setdefault(max(1, math.ceil(every_s / poll_s - 0.5)), []).append(index)
    return [Stream(phase_s + (max(0, math.ceil((n - 0.5) - phase_s / poll_s)) if n > 1 else 0) * poll_s, n * poll_s,
                   tuple(members)) for n, members in sorted(together.items())]


def play(found: Sequence[Stream], points: int, commit_s: float, delivered: bool) -> Timeline:
    """Play the streams through.

    Args:
        found: all streams of the box.
        points: how many the inventory has.
        commit_s: of the journal.
        delivered: whether a platform takes them: what it has taken is written down too.
    """
    rate = sum(1 / stream.period_s for stream in found)
    seconds = min(LONGEST_S, max(600.0, MOST_SCANS / rate)) if rate else LONGEST_S
    times = [np.arange(stream.start_s, seconds, stream.period_s) for stream in found]
    reports = np.zeros(points)
    for stream, when in zip(found, times, strict=True):
        reports[list(stream.points)] += len(when)
    at = np.concatenate(times) if times else np.zeros(0)
    counts = np.concatenate([np.full(len(when), len(stream.points)) for stream, when in zip(found, times, strict=True)]
                            ) if times else np.zeros(0, int)
    order = np.argsort(at, kind="stable")
    return Timeline(seconds, tuple(_commits(at[order], np.cumsum(counts[order]), commit_s, delivered)), reports)


def _commits(at: Array, total: Array, commit_s: float, delivered: bool) -> list[Commit]:
    """`total`: readings up to and with each scan."""
    commits: list[Commit] = []
    next_, taken, last_s, moved = 0, 0, 0.0, False
    while next_ < len(at):
        full = int(np.searchsorted(total, taken + GROUP_READINGS))
        due_s = float(at[next_]) + commit_s
        if full < len(at):
            due_s = min(due_s, float(at[full]))
        if moved and last_s + commit_s < due_s:
            last_s, moved = last_s + commit_s, False
            commits.append(Commit(last_s, 0))
            continue
        next_ = int(np.searchsorted(at, due_s, "right"))
        commits.append(Commit(due_s, int(total[next_ - 1]) - taken))
        taken, last_s, moved = int(total[next_ - 1]), due_s, delivered
    return commits
