"""Sirens, strobes and the fault lamp follow the demand.

Owns: what every output pin shows: patterns, bursts, silence, the fault lamp, and what happens to a relay that fails.
Promises: `follow` reaches the pin at once, whatever else the box is doing; the same demand twice is the same once; a
relay that fails harms only itself, is reported, and is tried again; `close` leaves everything off, the siren last.
Never: decides whether people must be warned, knows a pin library, waits for a disk or a network.

Who wins when several objects share an output: on a siren, demands under a silence are set aside first, then the
highest colour sounds: silencing one object must not mute another. Strobes show the highest colour, silenced or not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from gateway.config import Burst, Output
from gateway.model import LEVELS, Colour, Demand

log = logging.getLogger(__name__)

NEVER_MS = 1 << 62
"""Later than any clock."""
_RETRY_MS = 1000


class Switch(Protocol):
    """What an output needs of a relay; `off` and `close` leave it in its safe state."""

    def on(self) -> None: ...  # noqa: D102
    def off(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class BurstMs(Struct, frozen=True):
    """A `gateway.config.Burst` in milliseconds."""

    max: int
    sound: int
    every: int


def level_at(pattern: tuple[int, ...], burst: BurstMs | None, elapsed: int) -> tuple[bool, int]:
    """Where a pattern stands.

    Args:
        pattern: milliseconds on, off, on, off …, repeated; one number = on without a break; empty = off.
        burst: continuous up to `max`, then pauses that end with `sound` in every `every`; each burst begins the pattern
            anew. None = no limit.
        elapsed: milliseconds since the demand began.

    Returns:
        On or off, and the elapsed time of the next moment that may differ (`NEVER_MS`: none).
    """
    if not pattern:
        return False, NEVER_MS
    ends = NEVER_MS
    begun = 0
    if burst is not None:
        ends = burst.max
        if elapsed >= burst.max:
            cycle, into = divmod(elapsed - burst.max, burst.every)
            pause = max(0, burst.every - burst.sound)
            begun = burst.max + cycle * burst.every + pause
            if into < pause:
                return False, begun
            ends = burst.max + (cycle + 1) * burst.every
    if len(pattern) == 1:
        return True, ends
    into = (elapsed - begun) % sum(pattern)
    edge = elapsed - into
    for i, length in enumerate(pattern):
        edge += length
        if edge > elapsed:
            return i % 2 == 0, min(edge, ends)
    raise AssertionError(f"pattern {pattern} has no place for {elapsed}")


class _Player:
    """One output: what it should do, what it does, and how its relay is."""

    def __init__(self, output: Output, relay: Switch | None) -> None:
        self.output = output
        self.relay = relay
        self.patterns: dict[Colour, tuple[int, ...]] = {}
        milder: tuple[int, ...] = ()
        for colour in LEVELS[1:]:  # a colour without a pattern does as the milder one: worse must not be quieter
            milder = tuple(max(1, round(s * 1000)) for s in getattr(output, colour.value)) or milder
            self.patterns[colour] = milder
        burst = output.burst
        self.burst = None if output.kind != "siren" else BurstMs(*(max(1, round(s * 1000)) for s in _seconds(burst)))
        self.is_on: bool | None = None
        """What the relay was last told with success; None = not known."""
        self.fault = "" if relay is not None else "not opened"
        self.retry_ms = 0
        self.tried: bool | None = None
        self.shown: dict[str, Any] = {}

    def wants(self, demands: Sequence[tuple[Demand, int]], fault: bool, now_ms: int) -> tuple[bool, int, Demand | None]:
        """Return (on, monotonic ms of the next look, the demand that won)."""
        if self.output.kind == "fault_lamp":
            return fault, NEVER_MS, None
        look_ms = NEVER_MS
        best: tuple[int, int, Demand] | None = None
        for demand, begun_ms in demands:
            if demand.output != self.output.id or demand.colour not in self.patterns:
                continue
            if self.output.kind == "siren" and demand.silenced_until_ms > now_ms:
                look_ms = min(look_ms, demand.silenced_until_ms)
                continue
            rank = (LEVELS.index(demand.colour), begun_ms, demand)
            if best is None or rank[:2] > best[:2]:
                best = rank
        if best is None:
            return False, look_ms, None
        _, begun_ms, demand = best
        on, change = level_at(self.patterns[demand.colour], self.burst, now_ms - begun_ms)
        return on, min(look_ms, begun_ms + change), demand


def _seconds(burst: Burst) -> tuple[float, float, float]:
    return burst.max_s, burst.sound_s, burst.every_s


class Outputs:
    """All outputs of the box. `step` is the body of the outputs thread; the rest may be called from any thread.

    `relays` maps output ids to opened switches; one that is missing counts as failed and is asked of `reopen(id)`,
    which returns a switch or raises. `now` is monotonic seconds, the clock of `Demand.since_ms`.
    """

    def __init__(self, outputs: Sequence[Output], relays: Mapping[str, Switch], now: Callable[[], float],
                 reopen: Callable[[str], Switch] | None = None) -> None:
        self.failures = 0
        """Times a relay refused, since start."""
        self._now = now
        self._reopen = reopen
        # Sirens first: the rest may wait a few microseconds.
        self._players = [_Player(output, relays.get(output.id))
                         for output in sorted(outputs, key=lambda output: output.kind != "siren")]
        self._demand: tuple[Demand, ...] = ()
        self._begun: tuple[tuple[Demand, int], ...] = ()
        self._fault = False
        self._wake = threading.Event()
        self._turn = threading.Lock()
        self._closed = False
        self._present: dict[str, dict[str, Any]] = {}
        for player in self._players:
            if player.relay is None:
                log.error("output failed output=%s error=%s", player.output.id, player.fault)
        self._look(self._now_ms())

    def follow(self, demand: tuple[Demand, ...]) -> None:
        """Take the demand as it is now, whole; replaces the one before. One caller at a time (the pipeline)."""
        if demand == self._demand:
            return
        now_ms = self._now_ms()
        known = {(d.output, d.alarm, d.colour, d.since_ms): begun for d, begun in self._begun}
        # A since_ms in the future (left over from another boot) must not stretch the first burst for ever.
        self._begun = tuple(
            (d, known.get((d.output, d.alarm, d.colour, d.since_ms), min(d.since_ms, now_ms))) for d in demand)
        self._demand = demand
        self._wake.set()

    def fault(self, on: bool) -> None:
        """Light or clear the fault lamps. A fault never uses a siren."""
        if on != self._fault:
            self._fault = on
            self._wake.set()

    def step(self, timeout_s: float) -> None:
        """Bring all pins to where they belong, then wait for the next edge, a new demand, or the timeout."""
        end_s = self._now() + timeout_s
        self._wake.clear()
        look_ms = self._look(self._now_ms())
        wait_s = min(end_s, look_ms / 1000) - self._now()
        if wait_s > 0:
            self._wake.wait(wait_s)
        # At once, not at the next call: between two calls the thread's owner may beat, log, be descheduled.
        self._look(self._now_ms())

    def present(self) -> dict[str, dict[str, Any]]:
        """What each output does now: id → on, colour, since_ms, alarm, silenced, fault (text, empty when well)."""
        return self._present

    def faults(self) -> dict[str, str]:
        """Outputs whose relay does not obey: id → what it said."""
        return {id_: shown["fault"] for id_, shown in self._present.items() if shown["fault"]}

    def close(self) -> None:
        """Everything off and let go, the sirens last; twice is once."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            for player in reversed(self._players):
                if player.relay is None:
                    continue
                for act in (player.relay.off, player.relay.close):
                    try:
                        act()
                    except Exception as error:  # the others must still be let go
                        self.failures += 1
                        log.error("output not let go output=%s error=%s", player.output.id, error)
        self._wake.set()

    def _now_ms(self) -> int:
        # A hair more, so that a float just short of the edge it stands for does not cost another millisecond.
        return int(self._now() * 1000 + 1e-3)

    def _look(self, now_ms: int) -> int:
        """Set every pin that stands wrong; return when to look again (monotonic ms)."""
        with self._turn:
            if self._closed:
                return NEVER_MS
            look_ms = NEVER_MS
            changed = False
            demands, fault = self._begun, self._fault
            for player in self._players:
                on, again_ms, demand = player.wants(demands, fault, now_ms)
                if player.fault or on != player.is_on:
                    self._set(player, on, now_ms)
                    if player.fault:
                        again_ms = min(again_ms, player.retry_ms)
                look_ms = min(look_ms, again_ms)
                changed |= self._show(player, demands, demand, now_ms)
            if changed:
                self._present = {player.output.id: player.shown for player in self._players}
            return look_ms

    def _set(self, player: _Player, on: bool, now_ms: int) -> None:
        if player.fault and on == player.tried and now_ms < player.retry_ms:
            return
        player.tried = on
        try:
            if player.fault and self._reopen is not None:
                stale, player.relay = player.relay, None
                if stale is not None:
                    _let_go(stale, player.output.id)
                player.relay = self._reopen(player.output.id)
            if player.relay is None:
                raise OSError("not opened, and nothing here can open it")
            (player.relay.on if on else player.relay.off)()
        except Exception as error:  # whatever a relay throws, the other outputs go on
            self.failures += 1
            player.is_on = None
            player.retry_ms = now_ms + _RETRY_MS
            if not player.fault:
                log.error("output failed output=%s wanted=%s error=%s", player.output.id, "on" if on else "off", error)
            player.fault = str(error) or type(error).__name__
        else:
            if player.fault:
                log.warning("output works again output=%s", player.output.id)
                player.fault = ""
            player.is_on = on

    @staticmethod
    def _show(player: _Player, demands: Sequence[tuple[Demand, int]], demand: Demand | None, now_ms: int) -> bool:
        silenced = player.output.kind == "siren" and any(
            d.output == player.output.id and d.silenced_until_ms > now_ms for d, _ in demands)
        shown = {"on": bool(player.is_on), "colour": demand.colour if demand else Colour.NONE,
                 "since_ms": demand.since_ms if demand else 0, "alarm": demand.alarm if demand else "",
                 "silenced": silenced, "fault": player.fault}
        changed = shown != player.shown
        player.shown = shown
        return changed


def _let_go(relay: Switch, output: str) -> None:
    try:
        relay.close()
    except Exception as error:
        log.debug("stale relay not closed output=%s error=%s", output, error)
