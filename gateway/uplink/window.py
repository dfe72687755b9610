"""What of one connection is in flight: sent, and not acknowledged yet.

Owns: the flights and how much may fly. Promises: no more flies than the line carries in a few seconds (at least one
message), so that an alarm has little to wait for; grows back within a few messages. Never: knows a clock or a socket.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

MESSAGES = 20
LEAST_BYTES, MOST_BYTES = 32_000, 1 << 20
PROMPT_S, TARDY_S = 1.0, 4.0
"""An acknowledgement sooner than the one lets more fly, later than the other less: 32 kB take 4 s at 64 kbit/s."""


class Flight(Struct, frozen=True):
    """One message under way."""

    token: Any
    since_s: float
    size_bytes: int


class Window:
    """`messages` is the most the broker takes at a time (MQTT 5: Receive Maximum)."""

    def __init__(self, messages: int = MESSAGES) -> None:
        self.messages = messages
        self.flying: dict[int, Flight] = {}
        """By packet identifier."""
        self.flying_bytes = 0
        self.limit_bytes = 2 * LEAST_BYTES

    @property
    def room(self) -> int:
        """Messages that may go now."""
        return self.messages - len(self.flying) if self.flying_bytes < self.limit_bytes else 0

    def launch(self, mid: int, flight: Flight) -> None:
        """It is on its way; also beyond the room, when it must."""
        self.flying[mid] = flight
        self.flying_bytes += flight.size_bytes

    def land(self, mid: int, now_s: float) -> Flight | None:
        """It was answered. None for an answer to nothing of ours."""
        flight = self.flying.pop(mid, None)
        if flight is None:
            return None
        self.flying_bytes -= flight.size_bytes
        took_s = now_s - flight.since_s
        if took_s < PROMPT_S:
            self.limit_bytes = min(MOST_BYTES, self.limit_bytes + flight.size_bytes)
        elif took_s > TARDY_S:
            self.limit_bytes = max(LEAST_BYTES, self.limit_bytes * 3 // 4)
        return flight
