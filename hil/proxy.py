"""A TCP proxy: the network that can be cut, slowed and stalled.

Owns: one listening port and the bytes between it and the target. Promises: `cut` is complete when it returns; `restore`
lets new connections through at once; what was taken in is passed on in order or not at all. Never: looks into the
bytes, buffers more than 64 kB a direction (whoever sends more has to wait, as on a real line).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Self

Mode = Literal["refuse", "blackhole", "drop"]
"""`refuse`: connections are reset and new ones refused. `blackhole`: they stay open, new ones too, and nothing comes
through. `drop`: nobody answers: what is open goes dead, and new connections time out."""
_CHUNK = 1 << 14
_HELD_BYTES = 1 << 16


class _Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        self.source, self.sink, self.up = source, sink, up
        self.held: deque[tuple[float, bytes]] = deque()
        """Bytes and when they may leave."""
        self.held_bytes = 0
        self.free_s = 0.0
        """When the line has carried what was put on it last."""
        self.ended = self.dead = False
        """The source is not read any more; nothing passes any more, and nobody is told."""
        self.end: Callable[[], None] = lambda: None
        """What happens when all that is held has left after `ended`."""


class Proxy:
    """Listens on `port` (0 picks a free one) and passes everything on to `target`."""

    def __init__(self, target: tuple[str, int], port: int = 0, host: str = "127.0.0.1") -> None:
        self.target, self.host = target, host
        self.bytes_up = self.bytes_down = 0
        self.accepted = 0
        """Clients that connected, whatever became of them."""
        self._ways: dict[socket.socket, _Way] = {}
        """By the socket that is read."""
        self._mode: Mode | None = None
        self._delay_s = 0.0
        self._rate_bytes: float | None = None
        self._last_words: tuple[bool, int, Literal["stall", "reset"]] | None = None
        self._crowd: list[socket.socket] = []
        self._asked: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._stop = False
        self._wake, self._woken = socket.socketpair()
        self._door = self._bind(port)
        self._door.listen(32)
        self.port: int = self._door.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def _bind(self, port: int) -> socket.socket:
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((self.host, port))
        return door

    @property
    def is_cut(self) -> bool:
        """Whether nothing comes through now."""
        return self._mode is not None

    def cut(self, mode: Mode = "refuse") -> None:
        """Cut the network."""
        def do() -> None:
            if mode != "blackhole" and self._mode != mode:
                if mode == "refuse":
                    self._drop_all(reset=True)
                self._shut(answering=False)
                if mode == "drop":
                    self._fill()
            self._mode = mode
        self._ask(do)

    def restore(self) -> None:
        """Let new connections through; those that stood in a black hole are reset, as their peers gave up long ago."""
        def do() -> None:
            self._drop_all(reset=True)
            if self._mode in ("refuse", "drop"):
                self._shut(answering=True)
            self._mode = None
        self._ask(do)

    def reset(self) -> None:
        """Reset all connections once, as a router that reboots does."""
        self._ask(lambda: self._drop_all(reset=True))

    def half_open(self) -> None:
        """Let what is open go dead, for good, without a word; new connections pass: a NAT that forgot."""
        def do() -> None:
            for way in self._ways.values():
                way.dead = True
        self._ask(do)

    def shape(self, delay_s: float = 0.0, bits_per_s: float | None = None) -> None:
        """Carry each byte `delay_s` later, and no more than `bits_per_s` each way; no arguments: as fast as it goes."""
        def do() -> None:
            self._delay_s, self._rate_bytes = delay_s, bits_per_s / 8 if bits_per_s else None
        self._ask(do)

    def break_after(self, size_bytes: int, how: Literal["stall", "reset"], up: bool = True) -> None:
        """Pass so many more bytes in one direction, then end that connection or let it go dead: within a packet."""
        def do() -> None:
            self._last_words = (up, size_bytes, how)
        self._ask(do)

    def clients(self) -> list[socket.socket]:
        """The sockets that clients are connected to, the oldest first: to look at, not to touch."""
        return [way.source for way in list(self._ways.values()) if way.up]

    def _shut(self, answering: bool) -> None:
        for sock in (self._door, *self._crowd):
            sock.close()
        self._crowd.clear()
        self._door = self._bind(self.port)  # bound and not listening: refused, and nobody takes the port
        if answering:
            self._door.listen(32)

    def _fill(self) -> None:
        # With its queue full and nobody accepting, the kernel drops further SYNs, as a dead line would.
        self._door.listen(0)
        for _ in range(2):
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect((self.host, self.port))
            self._crowd.append(sock)

    def _ask(self, do: Callable[[], None]) -> None:
        # Sockets are closed in the thread that selects on them: a close under its feet would not take effect.
        done = threading.Event()
        self._asked.append((do, done))
        self._wake.send(b"x")
        if not done.wait(10):
            raise RuntimeError("the proxy's thread does not answer: expected within 10 s")

    def close(self) -> None:
        """Stop for good; twice is once."""
        if self._stop:
            return
        self._stop = True
        self._wake.send(b"x")
        self._thread.join(10)
        self._drop_all(reset=False)
        for sock in (self._door, self._wake, self._woken, *self._crowd):
            sock.close()

    def __enter__(self) -> Self:
        """Running already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _drop_all(self, reset: bool) -> None:
        for way in list(self._ways.values()):
            self._drop(way, reset)

    def _drop(self, way: _Way, reset: bool = False) -> None:
        for sock in (way.source, way.sink):
            self._ways.pop(sock, None)
            with contextlib.suppress(OSError):
                if reset:  # linger 0: RST instead of FIN
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

    def _stall(self, way: _Way) -> None:
        for one in (way, self._ways[way.sink]):
            one.dead = True

    def _run(self) -> None:
        while not self._stop:
            now = time.monotonic()
            readers, writers, wait_s = [self._woken], [], 1.0
            if self._mode in (None, "blackhole"):
                readers.append(self._door)
            for way in self._ways.values() if self._mode is None else ():
                if way.dead:
                    continue
                if not way.ended and way.held_bytes < _HELD_BYTES:
                    readers.append(way.source)
                if way.held and way.held[0][0] <= now:
                    writers.append(way.sink)
                elif way.held:
                    wait_s = min(wait_s, way.held[0][0] - now)
            ready, free, _ = select.select(readers, writers, [], wait_s)
            for sock in ready:
                if sock is self._woken:
                    sock.recv(4096)
                elif sock is self._door:
                    self._accept()
                elif sock in self._ways:
                    self._take(self._ways[sock])
            for way in [way for way in self._ways.values() if way.sink in free]:
                if way.source in self._ways:
                    self._pass_on(way)
            while self._asked:
                do, done = self._asked.popleft()
                do()
                done.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._door.accept()
            self.accepted += 1
            try:
                server = socket.create_connection(self.target, timeout=2)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return
            for source, sink, up in ((client, server, True), (server, client, False)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                source.setblocking(False)
                self._ways[source] = _Way(source, sink, up)

    def _take(self, way: _Way) -> None:
        size = _CHUNK if self._rate_bytes is None else max(64, round(self._rate_bytes / 20))
        try:
            data = way.source.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self._drop(way)  # whichever side is gone, both go
            return
        if not data:
            way.ended, way.end = True, lambda: self._drop(way)
        elif self._last_words is not None and self._last_words[0] == way.up:
            up, left, how = self._last_words
            left -= len(data)
            self._last_words = (up, left, how) if left > 0 else None
            if left <= 0:
                data = data[:left or None]
                way.ended = True
                way.end = (lambda: self._stall(way)) if how == "stall" else lambda: self._drop(way, reset=True)
        way.free_s = max(way.free_s, time.monotonic()) + (len(data) / self._rate_bytes if self._rate_bytes else 0.0)
        way.held.append((way.free_s + self._delay_s, data))
        way.held_bytes += len(data)

    def _pass_on(self, way: _Way) -> None:
        due_s, data = way.held.popleft()
        try:
            sent = way.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(way)
            return
        way.held_bytes -= sent
        if way.up:
            self.bytes_up += sent
        else:
            self.bytes_down += sent
        if sent < len(data):
            way.held.appendleft((due_s, data[sent:]))
        elif way.ended and not way.held:
            way.end()
