"""The main thread: starts every worker, watches them, feeds systemd's watchdog, stops them in data order.

Owns: signals, the notify socket, the order of start and stop, the decision to end the process.
Promises: READY once everything has been tried; the watchdog is fed only while this thread and every gating worker
are well; a stop ends within `STOP_S` whatever hangs; nothing here waits for a disk or a network.
Never: runs a part's code, restarts the box for a fault that is not the siren's.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from gateway.worker import Worker

log = logging.getLogger(__name__)

START = ("outputs", "pipeline", "detector", "writer", "uplink", "control", "wire")
"""The siren first: after a cut it resumes before anything else is awake."""
STOP = ("wire", "detector", "pipeline", "writer", "uplink", "control", "outputs")
"""The way of the data, so that each room is empty when its door closes; the siren last."""
SHARE_S: Mapping[str, float] = {"wire": 2.5, "detector": 1.5, "pipeline": 2.0, "writer": 5.0, "uplink": 3.0,
                                "control": 1.0, "outputs": 2.0}
"""How long each room may take to stop."""
STOP_S = sum(SHARE_S.values())
"""17 s; the unit's TimeoutStopSec is above it."""
HURRY = 0.15
"""A second signal, or a broken siren path, leaves each room this part of its share."""

READY_S = 3.0
"""READY does not wait longer for workers that do not gate (a tty that hangs in open, a name server)."""
TICK_S = 1.0
LATE_S = 1.0
"""When this thread itself wakes this much too late, the process stood still and nobody is accused."""
SWITCH_S = 0.0005
"""A busy thread delays another's wake-up by up to one switch interval; the default 5 ms is too much for a siren."""

CLEAN, BROKEN, UNFINISHED = 0, 1, 2
"""Exit codes: stopped in order · a gating worker is beyond help · something did not stop in time."""


class Notifier:
    """sd_notify(3): tells the service manager, or nobody when it did not ask."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        self._failed = False
        if self._socket is not None:
            self._socket.setblocking(False)  # a stuck manager must not hold up this thread

    def __call__(self, *fields: str) -> None:
        """Send ``KEY=value`` fields in one datagram; a failure is logged once."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(fields).encode(), self._address)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("service manager not reached socket=%r error=%s", self._address, error)
            self._failed = True

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Read the watchdog time systemd set for this process (sd_watchdog_enabled(3)), seconds; None when there is none.

    Raises:
        ValueError: WATCHDOG_USEC or WATCHDOG_PID is not a number.
    """
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec or int(environ.get("WATCHDOG_PID") or pid) != pid:
        return None
    return int(usec) / 1e6


class Supervisor:
    """Runs workers by room until a signal, `stop`, or a gating worker beyond help.

    `rooms` maps the names in `START` to their workers; a room may be missing or empty.
    """

    def __init__(self, rooms: Mapping[str, Sequence[Worker]], *, environ: Mapping[str, str] = os.environ,
                 now: Callable[[], float] = time.monotonic, stop_s: float = STOP_S) -> None:
        if strange := set(rooms) - set(START):
            raise ValueError(f"no room called {sorted(strange)}: expected some of {', '.join(START)}")
        self._rooms = {room: list(rooms.get(room, ())) for room in START}
        self.workers = [worker for room in START for worker in self._rooms[room]]
        self._gating = [worker for worker in self.workers if worker.gates]
        self._notify = Notifier(environ)
        self._watchdog_s = watchdog_s(environ, os.getpid())
        self._tick_s = min(TICK_S, self._watchdog_s / 4) if self._watchdog_s else TICK_S
        self._now = now
        self._stop_s = stop_s
        self._stops = 0
        self._hangups = 0
        self._status = ""
        self._ready_read, self._ready_write = socket.socketpair()
        for end in (self._ready_read, self._ready_write):
            end.setblocking(False)

    def stop(self) -> None:
        """Ask for an ordered stop, from any thread; asking twice makes it hurry."""
        self._stops += 1
        self._wake()

    def run(self) -> int:
        """Start everything, watch until it is time to stop, stop in order. Returns the exit code.

        In the main thread it takes SIGTERM, SIGINT and SIGHUP for its own and gives them back at the end.
        """
        faulthandler.enable(file=sys.__stderr__ or 2, all_threads=True)  # the watchdog's SIGABRT shows who hung
        sys.setswitchinterval(SWITCH_S)
        with self._signals():
            self._start()
            imported = set(sys.modules)
            broken = self._watch()
            late = sorted(set(sys.modules) - imported)
            if late:  # an import reads the disk under a lock that every thread may need
                log.warning("imported after READY modules=%s", ",".join(late))
            unfinished = self._stop_in_order(hurry=broken)
        self._notify.close()
        self._ready_read.close()
        self._ready_write.close()
        return BROKEN if broken else UNFINISHED if unfinished else CLEAN

    # start

    def _start(self) -> None:
        for worker in self.workers:
            worker.start()
        began_s = self._now()
        for worker in self._gating:  # systemd's TimeoutStartSec is the bound here: without a siren path, no READY
            while not worker.tried.wait(0.05) and not self._stops:
                worker.watch()
        for worker in self.workers:
            while not (tried := worker.tried.wait(0.05)) and not self._stops and self._now() - began_s < READY_S:
                pass
            if not tried and not self._stops:
                log.warning("READY does not wait any longer worker=%s", worker.name)
        if not self._stops:
            self._status = self._summary()
            self._notify("READY=1", f"STATUS={self._status}", *self._ping())
            log.info("ready workers=%d after_s=%.3f", len(self.workers), self._now() - began_s)

    # watch

    def _watch(self) -> bool:
        """Return when it is time to stop; True when a gating worker is beyond help."""
        last_s = self._now()
        while not self._stops:
            self._sleep(self._tick_s)
            now_s = self._now()
            late_s = max(0.0, now_s - last_s - self._tick_s)
            last_s = now_s
            if late_s < LATE_S:
                late_s = 0.0
            else:
                log.warning("the whole process stood still late_s=%.1f", late_s)
            if fell := [worker.name for worker in self.workers if worker.watch(late_s)]:
                log.error("threads fell silent, all stacks follow on stderr workers=%s", ",".join(fell))
                faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)  # the best clue there is
            if gone := [w for w in self._gating if w.state == "given_up"]:
                log.critical("siren path is broken, ending the process worker=%s error=%s",
                             ",".join(w.name for w in gone), gone[0].last_error)
                return True
            if (text := self._summary()) != self._status:
                self._status = text
                self._notify(f"STATUS={text}")
            if ping := self._ping():
                self._notify(*ping)
        return False

    def _ping(self) -> tuple[str, ...]:
        return ("WATCHDOG=1",) if self._watchdog_s and all(w.alive for w in self._gating) else ()

    def _summary(self) -> str:
        well = sum(w.state == "running" or w.state == "starting" for w in self.workers)
        rest = [f"{w.name} {w.state}" for w in self.workers if w.state not in ("running", "starting")]
        return f"{well} of {len(self.workers)} workers well" + (f"; {', '.join(rest)}" if rest else "")

    # stop

    def _stop_in_order(self, *, hurry: bool) -> list[str]:
        """Stop room by room; return the names of workers that did not end in time."""
        self._notify("STOPPING=1", "STATUS=stopping")
        log.info("stopping")
        scale = min(1.0, self._stop_s / STOP_S)
        left: list[str] = []
        fed_s = self._now()
        for room in STOP:
            workers = self._rooms[room]
            for worker in workers:
                worker.stop()
            began_s = self._now()
            for worker in workers:
                while not worker.join(0.05):
                    now_s = self._now()
                    if now_s - began_s > SHARE_S[room] * scale * (HURRY if hurry or self._stops > 1 else 1.0):
                        left.append(worker.name)
                        log.error("did not stop in time worker=%s room=%s state=%s", worker.name, room, worker.state)
                        break
                    if self._watchdog_s and now_s - fed_s >= self._tick_s:
                        self._notify("WATCHDOG=1")  # the shares bound this already
                        fed_s = now_s
        log.info("stopped unfinished=%s", ",".join(left) or "none")
        return left

    # signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take the signals; handlers only count, because they may interrupt any lock this thread holds."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        wake = signal.set_wakeup_fd(self._ready_write.fileno(), warn_on_full_buffer=False)
        try:
            signal.signal(signal.SIGTERM, self._on_stop)
            signal.signal(signal.SIGINT, self._on_stop)
            signal.signal(signal.SIGHUP, self._on_hangup)
            yield
        finally:
            signal.set_wakeup_fd(wake)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self._hangups += 1

    def _wake(self) -> None:
        try:
            self._ready_write.send(b"\0")
        except OSError:
            return  # full (then it wakes anyway) or closed (then it has ended)

    def _sleep(self, seconds: float) -> None:
        """Wait for a signal, a `stop`, or the time to pass."""
        end_s = self._now() + seconds
        while not self._stops and (rest_s := end_s - self._now()) > 0:
            if select.select([self._ready_read], [], [], rest_s)[0]:
                self._ready_read.recv(4096)
            if self._hangups:
                self._hangups = 0
                log.warning("SIGHUP ignored: a changed configuration takes effect after `systemctl restart mingluo`")
