"""Over which of several links a platform is reached.

Owns: the choice. Promises: the first link whenever it holds, the next one after two failures or ten seconds without a
connection, all in turn while none works; back to the first after it has answered two knocks, a minute apart, and after
more of them the more often it disappointed. Never: connects, knows a clock, opens a second connection beside the first
(one client_id, one connection).

An answer of the broker itself (a wrong password, a quota) is no failure of the link: another would bring the same one,
and might cost money.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

FAILURES = 2
FAIL_S = 10.0
KNOCK_S = 60.0
HELD = 2
HELD_MAX = 16
SETTLED_S = 600.0
"""A return that lasted so long was right."""


class Link(Protocol):
    """A way out of the box."""

    @property
    def interface(self) -> str:
        """Its network interface; empty: whichever the system takes."""

    @property
    def metered(self) -> bool:
        """Whether each byte costs money."""


class Default(Struct, frozen=True):
    """The system's own choice."""

    interface: str = ""
    metered: bool = False


class Route:
    """Told how attempts went; `link` is the one to use. Times are monotonic seconds."""

    def __init__(self, links: Sequence[Link], now_s: float) -> None:
        """`links`: the preferred one first; none: the system's own choice."""
        self._links = tuple(links) or (Default(),)
        self._at = self._failures = self._held = 0
        self._need = HELD
        self._since_s = self._knock_at_s = now_s
        self._returned_s = float("-inf")
        self._connected = False

    @property
    def link(self) -> Link:
        """The one to use now."""
        return self._links[self._at]

    def served(self, now_s: float) -> None:
        """The platform answered over this link."""
        self._failures, self._connected = 0, True
        if self._at:
            self._held, self._knock_at_s = 0, now_s + KNOCK_S

    def failed(self, now_s: float) -> bool:
        """An attempt failed, or the connection broke. Whether there is another link to try now."""
        if self._connected:
            self._connected, self._since_s = False, now_s
        self._failures += 1
        if len(self._links) == 1 or (self._failures < FAILURES and now_s - self._since_s < FAIL_S):
            return False
        if not self._at:
            self._need = min(HELD_MAX, 2 * self._need) if now_s - self._returned_s < SETTLED_S else HELD
        self._go((self._at + 1) % len(self._links), now_s)
        return True

    def knock(self, now_s: float) -> Link | None:
        """The link to knock at now while another one serves; the answer goes to `knocked`."""
        if not self._at or not self._connected or now_s < self._knock_at_s:
            return None
        self._knock_at_s = now_s + KNOCK_S
        return self._links[0]

    def knocked(self, answered: bool, now_s: float) -> bool:
        """What came of the knock. True: hang up, the first link is the one to use again."""
        if not self._at:
            return False
        self._held = self._held + 1 if answered else 0
        if self._held < self._need:
            return False
        self._go(0, now_s)
        self._returned_s = now_s
        return True

    def _go(self, at: int, now_s: float) -> None:
        self._at, self._failures, self._held, self._since_s, self._connected = at, 0, 0, now_s, False
