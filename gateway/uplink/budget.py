"""How much a platform may cost.

Owns: what was spent today, and what may still be sent. Promises: alarms, events and present states are never held back.
Never: reads a clock, drops anything: what is not sent now stays unsent.
"""

from __future__ import annotations


class Budget:
    """No cap yet."""

    mode = "normal"

    def allows(self, kind: str, now_s: float) -> bool:
        """Whether this may be sent now."""
        return self.mode == "normal" or (kind, now_s) == ("alarm", now_s)


class Pace:
    """A bucket of messages and one of bytes."""

    def __init__(self, messages_per_s: float, bytes_per_s: float, now_s: float) -> None:
        self._rates = (messages_per_s, bytes_per_s)
        self._most = (max(1.0, messages_per_s / 4), max(65536.0, bytes_per_s / 4))
        self._left = [1.0, self._most[1]]
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next message may go."""
        for n in (0, 1):
            self._left[n] = min(self._most[n], self._left[n] + (now_s - self._at_s) * self._rates[n])
        self._at_s = now_s
        return max(0.0, (1.0 - self._left[0]) / self._rates[0], -self._left[1] / self._rates[1])

    def spend(self, size_bytes: int, now_s: float) -> None:
        """A message of that size went."""
        self._left[0] -= 1
        self._left[1] -= size_bytes
        self._at_s = now_s
