"""The other side of a ``mock:`` port: drive a gateway's inputs, watch its outputs.

Owns: one connection to the gateway's pin socket and the history of what was seen there.
Promises: connects again whenever the gateway comes back, and drives again what was being driven; a level is forgotten
while nobody holds the pins; every edge carries the gateway's own monotonic time of the change.
Never: imports the gateway.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

Level = Literal["low", "high", "float"]
_RETRY_S = 0.02
log = logging.getLogger(__name__)


class Edge(NamedTuple):
    """One change of a pin: BCM number, level, function (input or output), monotonic seconds."""

    pin: int
    state: int
    function: str
    at_s: float


class Pins:
    """The pins behind the socket at `path`; the gateway may start later, stop and come back."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._changed = threading.Condition()
        self._driven: dict[int, Level] = {}
        self._now: dict[int, Edge] = {}
        self._last: dict[int, Edge] = {}
        self._edges: list[Edge] = []
        self._sock: socket.socket | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pins", daemon=True)
        self._thread.start()

    @property
    def edges(self) -> list[Edge]:
        """All changes seen so far, oldest first (a copy)."""
        with self._changed:
            return list(self._edges)

    @property
    def connected(self) -> bool:
        """Whether a gateway is at the other end now."""
        return self._sock is not None

    def now(self, pin: int) -> Edge | None:
        """How `pin` stands now; None when nobody holds it or nothing was heard."""
        with self._changed:
            return self._now.get(pin)

    def drive(self, pin: int, level: Level) -> None:
        """Hold an input at `level` from outside, also after a restart of the gateway; ``float`` lets go."""
        if level not in get_args(Level):
            raise ValueError(f"pin {pin}: level {level!r}: expected one of {', '.join(get_args(Level))}")
        with self._changed:
            self._driven[pin] = level
            self._send(pin, level)

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until a gateway is at the other end.

        Raises:
            TimeoutError: nobody came.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._sock is not None, timeout_s):
                raise TimeoutError(f"{self._path}: nobody serves these pins after {timeout_s} s")

    def wait_for(self, pin: int, state: int, timeout_s: float, function: str | None = None) -> Edge:
        """Wait until `pin` stands at `state` (0 or 1) and return the edge that brought it there.

        Raises:
            TimeoutError: it did not; the message tells how the pin stands.
        """
        def there() -> Edge | None:
            edge = self._now.get(pin)
            return edge if edge and edge.state == state and function in (None, edge.function) else None

        with self._changed:
            edge = self._changed.wait_for(there, timeout_s)
            if edge is None:
                raise TimeoutError(f"pin {pin}: expected {state} within {timeout_s} s, "
                                   f"it stands at {self._now.get(pin)}")
            return edge

    def close(self) -> None:
        """Hang up; twice is once."""
        self._closing.set()
        with self._changed:
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=2.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, pin: int, level: Level) -> None:
        """Tell the gateway; when it is away, `_run` tells it on its return. The condition is held."""
        if self._sock is not None:
            try:
                self._sock.sendall(json.dumps({"pin": pin, "drive": level}).encode() + b"\n")
            except OSError:
                self._sock = None

    def _run(self) -> None:
        while not self._closing.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                try:
                    sock.connect(self._path)
                except OSError:
                    self._closing.wait(_RETRY_S)
                    continue
                with self._changed:
                    self._sock = sock
                    for pin, level in self._driven.items():
                        self._send(pin, level)
                    self._changed.notify_all()
                    if self._closing.is_set():
                        return
                self._listen(sock)
                with self._changed:
                    self._sock = None
                    self._now.clear()
                    self._changed.notify_all()

    def _listen(self, sock: socket.socket) -> None:
        rest = b""
        while True:
            try:
                data = sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            with self._changed:
                for line in lines:
                    self._take(json.loads(line))
                self._changed.notify_all()

    def _take(self, line: dict[str, Any]) -> None:
        if "error" in line:
            log.error("the gateway refused a drive path=%s error=%s", self._path, line["error"])
            return
        edge = Edge(line["pin"], line["state"], line["function"], line["at_s"])
        self._now[edge.pin] = edge
        # After a broken connection the snapshot repeats what was seen before.
        if self._last.get(edge.pin) != edge:
            self._last[edge.pin] = edge
            self._edges.append(edge)

