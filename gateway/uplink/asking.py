"""The time by request and response over the broker: SIM cards of machines often reach nothing but their broker.

Owns: when to ask, which question an answer belongs to, and its bound. Promises: an answer is believed within half its
round trip, wherever in it the platform looked at its clock; a slow one, and one that no other confirms, is thrown away.
Never: does I/O, sets a clock.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

from gateway.uplink.profile import TimeAnswer

SLOWEST_S = 10.0
"""A round trip beyond this bounds nothing worth having."""
ROUND = 3
"""Questions in a row, a second apart; two answers must agree, and the tighter one counts."""
_EVERY_S = (15.0, 3600.0)
"""First and longest wait between two rounds."""
_OWN_MS = 1.0
"""What both ends round away."""


class Answer(NamedTuple):
    """UTC ms = monotonic ms + offset_ms, within error_ms."""

    offset_ms: int
    error_ms: float

    def agrees(self, other: Answer) -> bool:
        """Whether both can be true."""
        return abs(self.offset_ms - other.offset_ms) <= self.error_ms + other.error_ms


def heard(utc_ms: int, sent_s: float, received_s: float) -> Answer | None:
    """What an answer bounds, by the monotonic times of question and answer; None when it took too long."""
    trip_s = received_s - sent_s
    if not 0 <= trip_s <= SLOWEST_S:
        return None
    return Answer(utc_ms - round(500 * (sent_s + received_s)), 500 * trip_s + _OWN_MS)


class Asking:
    """The questions to one platform. One thread."""

    def __init__(self, offer: Callable[[int, float], object], needed: Callable[[], bool],
                 now: Callable[[], float]) -> None:
        """`offer` takes offset and error in ms; `needed`: whether nothing better than an answer is at hand."""
        self._offer, self._needed, self._now = offer, needed, now
        self._asked: dict[str, float] = {}
        self._answers: list[Answer] = []
        self._left, self._next_s, self._wait_s = 0, now(), _EVERY_S[0]

    def question(self) -> str | None:
        """The name of a question to put now, or None. Asked each second."""
        now = self._now()
        if now < self._next_s or not self._needed():
            return None
        if not self._left:
            self._left, self._answers, self._asked = ROUND, [], {}
        self._left -= 1
        if self._left:
            self._next_s = now + 1.0
        else:
            self._next_s, self._wait_s = now + self._wait_s, min(_EVERY_S[1], 2 * self._wait_s)
        name = secrets.token_hex(8)
        self._asked[name] = now
        return name

    def answered(self, answer: TimeAnswer) -> None:
        """Take an answer; one to no question of this round is none."""
        asked_s = self._asked.pop(answer.id, None)
        if asked_s is None or (said := heard(answer.utc_ms, asked_s, self._now())) is None:
            return
        confirmed = [one for one in self._answers if one.agrees(said)]
        self._answers.append(said)
        if confirmed:
            self._offer(*min((said, *confirmed), key=lambda one: one.error_ms))
