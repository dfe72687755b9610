"""The switched supply of a sensor: on in time for the next poll, off when it pays.

Owns: one relay and what the sensor behind it needs after power-on. Promises: a switched sensor is asked only when its
warm-up is over, its first answers are thrown away as its model says, and it is left off in between. Never: decides
when to poll.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from drivers import LinkError
from drivers.pins import Relay, open_relay
from drivers.station import Station

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Between two answers that are thrown away: asked faster, a sensor repeats itself instead of settling."""


class Supply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The relay that feeds a sensor."""

    port: Annotated[str, Meta(min_length=1, max_length=200, description="lgpio, as a wire of pins")] = "lgpio"
    pin: Annotated[int, Meta(ge=0, le=27, description="BCM number")]
    active: Literal["high", "low"]


class Power:
    """One switched supply."""

    def __init__(self, supply: Supply, warm_up_s: float, settle_reads: int) -> None:
        self._open: Callable[[], Relay] = lambda: open_relay(supply.port, supply.pin, supply.active)
        self._relay: Relay | None = None
        self._warm_up_s, self._reads = warm_up_s, settle_reads
        self._left = 0
        self.on = False

    def step(self, due_s: float, station: Station, now: float) -> float:
        """Switch for a poll that is due at `due_s`; return when to look again (while it is on, no need to)."""
        start_s = due_s - self._warm_up_s
        if not self.on and start_s <= now:
            self._switch(on=True)
            self._left = self._reads
            station.free_s = max(station.free_s, now + self._warm_up_s)
        elif self.on and start_s > now + SETTLE_S:
            self._switch(on=False)
        return math.inf if self.on else start_s

    def settling(self, station: Station, now: float) -> bool:
        """Whether the answer that came now is one of those to throw away."""
        if self._left <= 0:
            return False
        self._left -= 1
        station.free_s = max(station.free_s, now + SETTLE_S)
        return True

    def close(self) -> None:
        """Switch off and let go of the pin; twice is once."""
        relay, self._relay, self.on = self._relay, None, False
        if relay is not None:
            relay.close()

    def _switch(self, *, on: bool) -> None:
        self.on = on
        try:
            if self._relay is None:
                self._relay = self._open()
            if on:
                self._relay.on()
            else:
                self._relay.off()
        except LinkError as error:   # the sensor then says itself that it has no supply
            log.error("supply_not_switched on=%s error=%s", on, error)
