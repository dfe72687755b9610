"""What a platform said to us and nobody has taken yet.

Owns: the messages that wait, at most 100 of 64 kB. Promises: whoever takes them has had them once before the broker is
told so; what does not fit is counted, and the broker is not left waiting for it. Never: reads one.
"""

from __future__ import annotations

from collections import deque

WAITING = 100
PAYLOAD_BYTES = 1 << 16

Receipt = tuple[int, int]
"""Packet identifier and QoS: what an acknowledgement needs."""


class Heard:
    """Of one connection: an identifier means nothing to the next."""

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[tuple[str, bytes, Receipt]] = deque()
        self._handed: list[Receipt] = []

    def add(self, topic: str | None, payload: bytes, receipt: Receipt, whole: bool = True) -> None:
        """One arrived; not `whole`: longer than anybody reads. `topic` None: not UTF-8."""
        if topic is None or not whole or len(payload) > PAYLOAD_BYTES or len(self._waiting) >= WAITING:
            self.dropped += 1
            self._handed.append(receipt)
        else:
            self._waiting.append((topic, payload, receipt))

    def take(self) -> list[tuple[str, bytes]]:
        """All of it, oldest first; counts as dealt with when somebody asks for more."""
        taken = [(topic, payload) for topic, payload, _ in self._waiting]
        self._handed.extend(receipt for _, _, receipt in self._waiting)
        self._waiting.clear()
        return taken

    def receipts(self) -> list[Receipt]:
        """What the broker can be told now; each once."""
        handed, self._handed = self._handed, []
        return handed
