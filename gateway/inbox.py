"""Where everything that happens to the box waits for the pipeline: Scans, and asks of any kind.

Owns: one bounded queue. Promises: putting never blocks; when Scans come faster than they can be judged the *oldest
Scans* go, counted for a gap; asks (commands, wires up and down, scores) are never dropped.
Never: judges, orders by anything but arrival.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from drivers import Scan

Ask = Callable[[float], None]
"""Something the pipeline's thread must do, called with the monotonic time at which it is taken."""


class Taken(NamedTuple):
    """What `take` hands over: asks first, because they are rare and somebody waits for them."""

    asks: list[Ask]
    scans: list[Scan]
    dropped: int
    """Scans lost to the bound since the last take."""


class Inbox:
    """A bounded meeting place of many threads with one."""

    def __init__(self, scans: int = 20_000) -> None:
        self._limit = scans
        self._some = threading.Condition(threading.Lock())
        self._scans: deque[Scan] = deque()
        self._asks: list[Ask] = []
        self._dropped = 0

    def put(self, scans: Iterable[Scan]) -> None:
        """Add Scans; the oldest go when there are more than the bound."""
        with self._some:
            self._scans.extend(scans)
            while len(self._scans) > self._limit:
                self._scans.popleft()
                self._dropped += 1
            self._some.notify()

    def ask(self, ask: Ask) -> None:
        """Have `ask` called by the pipeline's thread, before any waiting Scan."""
        with self._some:
            self._asks.append(ask)
            self._some.notify()

    def take(self, timeout_s: float, most: int = 256) -> Taken:
        """Wait up to `timeout_s` for anything, then take all asks and up to `most` Scans."""
        with self._some:
            if not self._scans and not self._asks and timeout_s > 0:
                self._some.wait(timeout_s)
            asks, self._asks = self._asks, []
            scans = [self._scans.popleft() for _ in range(min(most, len(self._scans)))]
            dropped, self._dropped = self._dropped, 0
        return Taken(asks, scans, dropped)

    def __len__(self) -> int:
        """Scans waiting."""
        return len(self._scans)
