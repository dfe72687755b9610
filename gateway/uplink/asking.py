"""The time by request and response over the broker: SIM cards of machines often reach nothing but their broker.

Owns: when to ask, which question an answer belongs to, and its bound. Promises: an answer is believed within half its
round trip, wherever in it the platform looked at its clock; a slow one is thrown away. Never: does I/O, sets a clock.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from gateway.uplink.profile import TimeAnswer

SLOWEST_S = 10.0
"""A round trip beyond this bounds nothing worth having."""
_EVERY_S = (2.0, 3600.0)
"""First and longest wait between two questions."""
_OWN_MS = 1.0
"""What both ends round away."""


class Asking:
    """The questions to one platform. One thread."""

    def __init__(self, offer: Callable[[int, float], object], needed: Callable[[], bool],
                 now: Callable[[], float]) -> None:
        """`offer` takes offset and error in ms; `needed`: whether nothing better than an answer is at hand."""
        self._offer, self._needed, self._now = offer, needed, now
        self._asked: dict[str, float] = {}
        self._next_s, self._wait_s = now(), _EVERY_S[0]

    def question(self) -> str | None:
        """The name of a question to put now, or None."""
        now = self._now()
        if now < self._next_s or not self._needed():
            return None
        self._next_s, self._wait_s = now + self._wait_s, min(_EVERY_S[1], 2 * self._wait_s)
        name = secrets.token_hex(8)
        self._asked = {n: at for n, at in self._asked.items() if now - at <= SLOWEST_S} | {name: now}
        return name

    def answered(self, answer: TimeAnswer) -> None:
        """Take an answer; one to no question of ours, or too late, is none."""
        now, asked_s = self._now(), self._asked.pop(answer.id, None)
        if asked_s is None or now - asked_s > SLOWEST_S:
            return
        self._offer(answer.utc_ms - round(500 * (asked_s + now)), 500 * (now - asked_s) + _OWN_MS)
