"""Counted, not claimed: what the simulators put on the wire against what the county has.

Owns: the comparison. Promises: every answer is matched with at most one reading and the other way round, by point,
value and time; what is left over on either side is named. Never: asks the gateway anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Answer(NamedTuple):
    """One value of one answer, as the simulator sent it. `at_s`: UTC seconds of its last byte on the wire."""

    point: str
    at_s: float
    value: float


class Reading(NamedTuple):
    """One value in the county's database; `at_s` in UTC seconds."""

    point: str
    at_s: float
    value: float


class Audit(NamedTuple):
    """`lost`: on the wire, never at the county. `invented`: at the county, never on the wire."""

    matched: int
    lost: list[Answer]
    invented: list[Reading]
    by_point: Mapping[str, int]


def compare(answers: Iterable[Answer], readings: Iterable[Reading], tolerance_s: float = 0.25) -> Audit:
    """Match answers with readings one to one.

    Both sides are walked in time order a point; an answer takes the earliest free reading of equal value whose
    time is within `tolerance_s` (scheduling of two processes on one machine, not clock error).
    """
    sent: dict[str, list[Answer]] = defaultdict(list)
    kept: dict[str, list[Reading]] = defaultdict(list)
    for answer in answers:
        sent[answer.point].append(answer)
    for reading in readings:
        kept[reading.point].append(reading)
    matched: dict[str, int] = {}
    lost: list[Answer] = []
    invented: list[Reading] = []
    for point in sorted(sent.keys() | kept.keys()):
        free = sorted(kept[point], key=lambda r: r.at_s)
        matched[point] = 0
        for answer in sorted(sent[point], key=lambda a: a.at_s):
            for n, reading in enumerate(free):
                if reading.at_s > answer.at_s + tolerance_s:
                    lost.append(answer)
                    break
                if reading.at_s >= answer.at_s - tolerance_s and abs(reading.value - answer.value) < 1e-9:
                    del free[n]
                    matched[point] += 1
                    break
            else:
                lost.append(answer)
        invented += free
    return Audit(sum(matched.values()), lost, invented, matched)
