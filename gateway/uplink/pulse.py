"""Whether a connection still lives: a slow one does, a half-open one does not.

Owns: when something last moved, arrived, was answered. Promises: a connection on which something is owed is given up
`patience_s` after the last of it arrived at the other host, or after the line stopped moving; an idle one that leaves
its ping unanswered, as long after its keepalive; one that carries bytes to the other host, however slowly, never.
Never: knows a clock or a socket.

paho alone takes two keepalives for a ping, and has no eye on acknowledgements.
"""

from __future__ import annotations

PATIENCE_S = 10.0
ANSWER_MAX_S = 120.0
"""An acknowledgement takes no longer than this, whatever else moves."""


class Pulse:
    """Times are monotonic seconds."""

    def __init__(self, patience_s: float, now_s: float) -> None:
        self._patience_s = patience_s
        self._moved_bytes = -1
        self._delivered = False
        """All that was owed at a moment since the last answer has arrived: from there on it is the other side's turn,
        and what else we send is no sign of its life."""
        self._moved_s = self._received_s = self._answered_s = now_s

    def received(self, now_s: float) -> None:
        """Something arrived from the other side."""
        self._received_s = self._moved_s = now_s
        self._delivered = False

    def answered(self, now_s: float) -> None:
        """A publish was acknowledged."""
        self._answered_s = now_s

    def beats(self, now_s: float, *, flying: bool, owed: bool, queued: bool, moved_bytes: int,
              keepalive_s: float) -> bool:
        """Whether it still lives.

        `flying`: publishes wait for an answer; `owed`: these or anything else does, or waits to be sent; `queued`: some
        of it has not arrived at the other host; `moved_bytes` grows with what arrived there and here (a constant where
        the kernel does not tell); `keepalive_s` 0: no pings.
        """
        if not owed:
            self._moved_s, self._delivered = now_s, False
        elif not self._delivered:
            self._delivered = not queued
            if self._delivered or moved_bytes != self._moved_bytes:
                self._moved_s = now_s
        self._moved_bytes = moved_bytes
        if not flying:
            self._answered_s = now_s
        stuck = owed and now_s - self._moved_s > self._patience_s
        unanswered = now_s - self._answered_s > max(ANSWER_MAX_S, self._patience_s)
        deaf = not owed and 0 < keepalive_s < now_s - self._received_s - self._patience_s
        return not (stuck or unanswered or deaf)
