"""Many hosts in one thread: whoever is ready is served, a dead one costs the others nothing.

Owns: the waiting for sockets, and connections and their coming back. Promises: one exchange in flight per host; no
call that could block (the hosts of a group are given by address, so no name is looked up); a host that is gone is
tried again after 0.5 → 10 s; what has arrived together is returned together. Never: judges an answer (`tcp`), decides
what to ask (`rounds`).
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
import os
import select
from collections.abc import Callable, Iterable

from drivers import LinkError, Scan
from drivers.line import Heard
from drivers.rounds import Rounds
from drivers.schedule import Turn, Urgent
from drivers.tcp import Host

log = logging.getLogger(__name__)

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Wait before a lost host is tried for the 1st, 2nd … time."""


class Member:
    """One host of the group, what is asked of it, and what it is doing now."""

    def __init__(self, n: int, host: Host, rounds: Rounds) -> None:
        self.n, self.host, self.rounds = n, host, rounds
        self.turn: Turn | None = None
        self.urgent: Urgent | None = None
        self.started_s = 0.0
        self.wake_s = -math.inf
        """When it needs a look though nothing arrives."""
        self.tries = 0
        """Connections without an answer, in a row."""
        self.lent_until_s = -math.inf


class Network:
    """The hosts of one wire."""

    def __init__(self, members: Iterable[tuple[Host, Rounds]], now: Callable[[], float]) -> None:
        self.members = [Member(n, host, rounds) for n, (host, rounds) in enumerate(members)]
        self._now = now
        self._epoll: select.epoll | None = None
        self._bell = -1
        self._of: dict[int, Member] = {}
        self._wakes: list[tuple[float, int]] = []
        self._scans: list[Scan] = []
        self._asks = True

    def open(self) -> None:
        """Begin to connect to all; of an only host the end is waited for.

        Raises:
            LinkError: the only host cannot be reached.
        """
        self.close()
        self._epoll, self._bell = select.epoll(), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asks = True
        self._epoll.register(self._bell, select.EPOLLIN)
        now = self._now()
        for member in self.members:
            member.tries = 0
            self._look_at(member, now)
        only = self.members[0]
        try:
            while len(self.members) == 1 and not only.host.up and only.lent_until_s <= now:
                self._serve(only.host.deadline_s if only.host.connecting else now)
        except LinkError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all; twice is once."""
        for member in self.members:
            self._let_go(member)
            member.rounds.drop()
        epoll, self._epoll, bell, self._bell = self._epoll, None, self._bell, -1
        if epoll is not None:
            epoll.close()
            os.close(bell)
        self._of.clear()
        self._wakes.clear()

    def read(self, until_s: float) -> list[Scan]:
        """Serve whoever is ready once; return what came of it; nothing came until `until_s` at the latest.

        Raises:
            LinkError: the only host is gone, or nothing was opened.
        """
        self._serve(until_s)
        scans, self._scans = self._scans, []
        return scans

    def finish(self, until_s: float) -> list[Scan]:
        """Ask nothing more; return what was asked already and is answered until `until_s`."""
        self._asks = False
        with contextlib.suppress(LinkError):   # the only host is gone, and with it what it owed
            while any(member.turn is not None for member in self.members) and self._now() < until_s:
                self._serve(until_s)
        scans, self._scans = self._scans, []
        return scans

    def ring(self) -> None:
        """From any thread: end the waiting of `read`."""
        bell = self._bell
        if bell >= 0:
            with contextlib.suppress(OSError):   # closed this very moment
                os.eventfd_write(bell, 1)

    def look_at(self, rounds: Rounds) -> None:
        """Look at a host at once: something was asked of it. One that is lost has no answer before its time is over."""
        for member in self.members:
            if member.rounds is rounds and member.tries and not member.host.up:
                rounds.drop()
            elif member.rounds is rounds and member.host.up and not member.host.busy:
                self._look_at(member, self._now())

    def lend(self, rounds: Rounds, until_s: float) -> None:
        """Let go of a host until `until_s`, for another program to use it."""
        for member in self.members:
            if member.rounds is rounds:
                self._let_go(member)
                member.lent_until_s = until_s
                self._look_at(member, self._now())

    # --- one round

    def _serve(self, until_s: float) -> None:
        if self._epoll is None:
            raise LinkError(f"{self.members[0].host.name} is not connected")
        wakes = self._wakes
        while wakes and self.members[wakes[0][1]].wake_s != wakes[0][0]:
            heapq.heappop(wakes)   # overtaken: what it waited for has happened
        wait_s = max(0.0, min(until_s, wakes[0][0] if wakes else math.inf) - self._now())
        for fd, _ in self._epoll.poll(wait_s):
            if fd == self._bell:
                os.eventfd_read(fd)
            elif fd in self._of:
                self._guarded(self._of[fd], self._ready)
        now = self._now()
        while wakes and wakes[0][0] <= now:
            wake_s, n = heapq.heappop(wakes)
            if self.members[n].wake_s == wake_s:
                self._guarded(self.members[n], self._awake)

    def _guarded(self, member: Member, step: Callable[[Member, float], None]) -> None:
        now = self._now()
        try:
            step(member, now)
        except LinkError as error:
            self._lost(member, error, now)

    def _ready(self, member: Member, now: float) -> None:
        """Something arrived, or a connection was made or refused."""
        if member.host.connecting:
            member.host.connected()
            assert self._epoll is not None
            self._epoll.modify(member.host.fileno(), select.EPOLLIN)
            self._go_on(member, now)
        elif (heard := member.host.take(now)) is not None:
            self._settle(member, heard)
            self._go_on(member, now)

    def _awake(self, member: Member, now: float) -> None:
        """Something is due, or took too long."""
        host = member.host
        if now < member.lent_until_s:
            scans, due_s = member.rounds.borrowed(now)
            self._scans += scans
            self._look_at(member, min(member.lent_until_s, due_s))
            return
        if host.connecting:
            raise host.timed_out()
        if host.busy:
            self._settle(member, host.expire(now))
            if host.worn:
                self._let_go(member)
        if host.up:
            self._go_on(member, now)
        else:
            self._connect(member, now)

    def _settle(self, member: Member, heard: Heard) -> None:
        turn = member.turn
        assert turn is not None
        self._scans += member.rounds.settle(turn, member.urgent, heard, member.started_s)
        member.turn = member.urgent = None
        if member.tries and (heard.note is None or heard.code):
            # Only an answer proves it: a host that takes connections and breaks them is not back.
            log.info("host_back host=%s tries=%d", member.host.name, member.tries)
            member.tries = 0

    def _go_on(self, member: Member, now: float) -> None:
        """Ask the host what is due, or come back when something will be."""
        if not self._asks:
            return
        turn, urgent, wake_s = member.rounds.next(now)
        if turn is not None:
            member.turn, member.urgent, member.started_s = turn, urgent, now
            member.host.begin(turn.ask, now, turn.station.timeout_s)
            wake_s = member.host.deadline_s
        self._look_at(member, wake_s)

    def _connect(self, member: Member, now: float) -> None:
        assert self._epoll is not None
        member.host.connect(now)
        fd = member.host.fileno()
        self._of[fd] = member
        self._epoll.register(fd, select.EPOLLOUT)
        self._look_at(member, member.host.deadline_s)

    def _lost(self, member: Member, error: LinkError, now: float) -> None:
        """Tell the loss once, and try again after a while."""
        self._let_go(member)
        if len(self.members) == 1:
            raise error
        if not member.tries:
            log.warning("host_lost host=%s error=%s", member.host.name, error)
            self._scans += member.rounds.gone(now)
        member.rounds.close()
        member.tries += 1
        self._look_at(member, now + BACK_OFF_S[min(member.tries, len(BACK_OFF_S)) - 1])

    def _let_go(self, member: Member) -> None:
        fd = member.host.fileno()
        if fd >= 0 and self._epoll is not None:
            with contextlib.suppress(OSError):   # the kernel has forgotten a closed socket by itself
                self._epoll.unregister(fd)
        self._of = {at: other for at, other in self._of.items() if other is not member}
        member.host.close()
        if (urgent := member.urgent) is not None:
            urgent.dropped(0.0)
        member.turn = member.urgent = None

    def _look_at(self, member: Member, at_s: float) -> None:
        member.wake_s = at_s
        if at_s < math.inf:
            heapq.heappush(self._wakes, (at_s, member.n))
