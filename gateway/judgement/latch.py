"""What must survive a restart: alarms, votes, service states, silences, answers and losses, as bytes.

Owns: the form of the latch and how its times are carried over.
Promises: an alarm that stood before a cut stands after it, with its id; a latch of an older configuration gives
what still fits; delays on their way start anew. Times are absolute monotonic seconds beside the moment of writing, so
a reader that knows the outage can re-base them; without it ages are unknown and remaining times count from now.
Never: decides what sounds (that is `Pipeline.restore`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gateway.judgement.alarms import Alarm, Ask, Watch
from gateway.judgement.limits import Limits
from gateway.model import LEVELS, Service, Status

Level = Annotated[int, Meta(ge=0, lt=len(LEVELS))]
Warned = Annotated[int, Meta(ge=1, lt=len(LEVELS))]


class AskLatch(Struct, frozen=True):
    """One question to an officer."""

    level: Warned
    at_s: float
    answer: str


class AlarmLatch(Struct, frozen=True, kw_only=True):
    """One alarm."""

    id: str
    level: Warned
    latched: Level
    since_s: float
    status: Status
    acknowledged: bool
    who: str
    silenced_until_s: float | None
    silenced_level: Level
    asks: tuple[AskLatch, ...]
    waiting: bool


class WatchLatch(Struct, frozen=True, kw_only=True):
    """One object."""

    id: str
    configured: Service
    service: Service
    back: Service
    until_s: float | None
    votes: tuple[tuple[str, int], ...]
    """(rule id, level) of every limit that is on."""
    lost: tuple[str, ...]
    """Points whose loss was told."""
    alarm: AlarmLatch | None


class Latch(Struct, frozen=True, kw_only=True):
    """The whole."""

    version: int
    saved_s: float
    watches: tuple[WatchLatch, ...]


VERSION = 1


def encode(watches: Sequence[Watch], lost: Sequence[int], saved_s: float) -> bytes:
    """Write the latch; `lost`: indices of the points whose loss was told."""
    return msgspec.msgpack.encode(Latch(version=VERSION, saved_s=saved_s,
                                        watches=tuple(_watch(w, lost) for w in watches)))


def _watch(w: Watch, lost: Sequence[int]) -> WatchLatch:
    a = w.alarm
    alarm = None if a is None else AlarmLatch(
        id=a.id, level=a.level, latched=a.latched, since_s=a.since_s, status=a.status, acknowledged=a.acknowledged,
        who=a.who, silenced_until_s=a.silenced_until_s, silenced_level=a.silenced_level,
        asks=tuple(AskLatch(level, k.at_s, k.answer) for level, k in a.asks.items()), waiting=a.waiting)
    return WatchLatch(id=w.config.id, configured=w.config.service, service=w.service, back=w.back, until_s=w.until_s,
                      votes=tuple((x.rule.id, x.level) for x in w.limits if x.on),
                      lost=tuple(w.point_id(i) for i in lost if i in w.points), alarm=alarm)


def decode(blob: bytes) -> Latch:
    """Read a latch.

    Raises:
        ValueError: damaged, or written by a version that this one does not know.
    """
    try:
        latch = msgspec.msgpack.decode(blob, type=Latch)
    except msgspec.DecodeError as error:
        raise ValueError(f"the latch cannot be read: {error}") from error
    if latch.version != VERSION:
        raise ValueError(f"the latch has version {latch.version}, expected {VERSION}")
    if not all(map(math.isfinite, _times(latch))):
        raise ValueError("the latch holds a time that is no number")
    return latch


def _times(latch: Latch) -> Iterator[float]:
    yield latch.saved_s
    for w in latch.watches:
        yield w.until_s or 0.0
        if w.alarm is not None:
            yield w.alarm.since_s
            yield w.alarm.silenced_until_s or 0.0
            yield from (ask.at_s for ask in w.alarm.asks)


def apply(latch: Latch, watches: Sequence[Watch], limits: Limits, now_s: float, *, shift_s: float,
          aged: bool) -> list[int]:
    """Put the kept state back into `watches` and `limits`.

    Args:
        latch: what was kept.
        watches: the objects of this configuration.
        limits: their limits.
        now_s: monotonic seconds of this boot.
        shift_s: what to add to a kept time.
        aged: the shift is known, so alarms keep their age; otherwise it counts from now.

    Returns:
        Indices of the points whose loss was told before.
    """
    kept = {w.id: w for w in latch.watches}
    lost: list[int] = []
    for watch in watches:
        old = kept.get(watch.config.id)
        if old is None:
            continue
        lost += [i for i in watch.points if watch.point_id(i) in old.lost]
        if old.configured == watch.config.service:  # otherwise the installer has decided anew since
            watch.service, watch.back = old.service, old.back
            watch.until_s = None if old.until_s is None else old.until_s + shift_s
        votes = set(old.votes)
        limits.put([x for x in watch.limits if (x.rule.id, x.level) in votes], on=True)
        watch.vote = max((x.level for x in watch.limits if x.on), default=0)
        if old.alarm is not None:
            watch.alarm = _alarm(old.alarm, shift_s, None if aged else now_s)
    return lost


def _alarm(a: AlarmLatch, shift_s: float, since_s: float | None) -> Alarm:
    until_s = None if a.silenced_until_s is None else a.silenced_until_s + shift_s
    return Alarm(a.id, a.level, a.since_s + shift_s if since_s is None else since_s, a.status, latched=a.latched,
                 acknowledged=a.acknowledged, who=a.who, silenced_until_s=until_s, silenced_level=a.silenced_level,
                 asks={k.level: Ask(k.at_s + shift_s, k.answer) for k in a.asks}, waiting=a.waiting)
