"""A TCP proxy: the network that can be cut.

Owns: one listening port and the bytes between it and the target. Promises: `cut` is complete when it returns; `restore`
lets new connections through at once. Never: looks into the bytes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, Self

Mode = Literal["refuse", "blackhole"]
"""`refuse`: connections are reset and new ones refused. `blackhole`: they stay open and nothing comes through."""
_CHUNK = 1 << 16


class Proxy:
    """Listens on `port` (0 picks a free one) and passes everything on to `target`."""

    def __init__(self, target: tuple[str, int], port: int = 0, host: str = "127.0.0.1") -> None:
        self.target, self.host = target, host
        self.bytes_up = self.bytes_down = 0
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._mode: Mode | None = None
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
            if mode == "refuse" and self._mode != "refuse":
                self._drop_all(reset=True)
                self._door.close()
                self._door = self._bind(self.port)  # bound and not listening: refused, and nobody takes the port
            self._mode = mode
        self._ask(do)

    def restore(self) -> None:
        """Let new connections through; those that stood in a black hole are reset, as their peers gave up long ago."""
        def do() -> None:
            self._drop_all(reset=True)
            if self._mode == "refuse":
                self._door.listen(32)
            self._mode = None
        self._ask(do)

    def reset(self) -> None:
        """Reset all connections once, as a router that reboots does."""
        self._ask(lambda: self._drop_all(reset=True))

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
        for sock in (self._door, self._wake, self._woken):
            sock.close()

    def __enter__(self) -> Self:
        """Running already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _drop_all(self, reset: bool) -> None:
        for sock in list(self._pairs):
            with contextlib.suppress(OSError):
                if reset:  # linger 0: RST instead of FIN
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        self._pairs.clear()
        self._clients.clear()

    def _drop(self, sock: socket.socket) -> None:
        other = self._pairs.pop(sock, None)
        for one in (sock, other):
            if one is not None:
                self._pairs.pop(one, None)
                self._clients.discard(one)
                with contextlib.suppress(OSError):
                    one.close()

    def _run(self) -> None:
        while not self._stop:
            readers = [self._woken]
            if self._mode is None:
                readers += self._pairs
            if self._mode != "refuse":
                readers.append(self._door)
            ready, _, _ = select.select(readers, [], [], 1.0)
            for sock in ready:
                if sock is self._woken:
                    sock.recv(4096)
                elif sock is self._door:
                    self._accept()
                elif sock in self._pairs:
                    self._pass_on(sock)
            while self._asked:
                do, done = self._asked.popleft()
                do()
                done.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._door.accept()
            try:
                server = socket.create_connection(self.target, timeout=2)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return
            for one, other in ((client, server), (server, client)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.settimeout(5)
                self._pairs[one] = other
            self._clients.add(client)

    def _pass_on(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_CHUNK)
            if sock in self._clients:
                self.bytes_up += len(data)
            else:
                self.bytes_down += len(data)
            if data:
                self._pairs[sock].sendall(data)
                return
        except OSError:
            pass  # whichever side is gone, both go
        self._drop(sock)
