"""Mock pins, seen and driven through a local socket.

Owns: the socket of a ``mock:`` port (mode 0600) and the small thread that serves it.
Promises: every connected peer gets one JSON line per change, in order, after a snapshot of all pins; a slow or dead
peer never holds up a pin change, it is cut off (and gets a fresh snapshot when it comes back).
Never: knows gpiozero, decides a level.

Lines out: ``{"pin": 17, "state": 1, "function": "output", "at_s": 12.345678}`` (`at_s`: monotonic seconds).
Lines in: ``{"pin": 23, "drive": "low" | "high" | "float"}``. A line that cannot be understood is answered with
``{"error": "..."}``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivers import LinkError

log = logging.getLogger(__name__)

PATH_MAX_BYTES = 107
"""sun_path holds 108 bytes with its closing zero (unix(7))."""
_BACKLOG_MAX_BYTES = 1 << 20
_LINE_MAX_BYTES = 4096
_LEVELS = {"low": False, "high": True, "float": None}

Change = tuple[int, bool, str, float]
"""pin (BCM), level, function (input or output), monotonic seconds."""


class _Peer:
    __slots__ = ("inbox", "outbox", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = bytearray()
        self.outbox = bytearray()


class Mirror:
    """Shows pin changes to every peer on the socket at `path` and hands their drives to `drive(pin, level)`.

    A level of ``None`` lets the pin float back to its pull. `drive` is called in the mirror's thread.

    Raises:
        LinkError: another process serves this path, or the socket cannot be made there.
    """

    def __init__(self, path: Path, drive: Callable[[int, bool | None], None]) -> None:
        self._path = path
        self._drive = drive
        self._lock = threading.Lock()
        self._pins: dict[int, Change] = {}
        self._fresh: deque[Change] = deque()
        self._stopping = False
        self._peers: dict[int, _Peer] = {}
        self._server = _listen(path)
        self._inode = path.stat().st_ino
        self._wake_out, self._wake_in = socket.socketpair()
        for sock in (self._wake_out, self._wake_in):
            sock.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"mirror {path.name}", daemon=True)
        self._thread.start()

    def report(self, pin: int, state: bool, function: str, at_s: float) -> None:
        """Queue one change for all peers; any thread, never blocks."""
        with self._lock:
            change = (pin, state, function, at_s)
            self._pins[pin] = change
            self._fresh.append(change)
        self._wake()

    def close(self) -> None:
        """Stop serving and remove the socket; twice is once."""
        if self._stopping:
            return
        self._stopping = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)

    def _wake(self) -> None:
        # A full pipe already means "wake up"; a closed one means there is nobody left to tell.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, events in self._selector.select():
                    if key.fileobj is self._wake_out:
                        self._wake_out.recv(4096)
                    elif key.fileobj is self._server:
                        self._accept()
                    else:
                        self._serve(key.data, events)
                with self._lock:
                    self._deal_out()
                self._send_all()
            self._send_all()
        finally:
            self._tear_down()

    def _deal_out(self) -> None:
        """Move fresh changes to every peer's outbox. The lock is held."""
        while self._fresh:
            line = _line(self._fresh.popleft())
            for peer in self._peers.values():
                peer.outbox += line

    def _accept(self) -> None:
        try:
            sock, _ = self._server.accept()
        except OSError:  # the peer has already gone
            return
        sock.setblocking(False)
        peer = _Peer(sock)
        with self._lock:
            # Older changes first go to those who were there: a snapshot followed by the past would show false edges.
            self._deal_out()
            for pin in sorted(self._pins):
                peer.outbox += _line(self._pins[pin])
            self._peers[sock.fileno()] = peer
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _serve(self, peer: _Peer, events: int) -> None:
        if not events & selectors.EVENT_READ:
            return  # writable again: _send_all follows
        try:
            data = peer.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        peer.inbox += data
        while (end := peer.inbox.find(b"\n")) >= 0:
            line = bytes(peer.inbox[:end])
            del peer.inbox[:end + 1]
            if line.strip():
                self._obey(peer, line)
        if len(peer.inbox) > _LINE_MAX_BYTES:
            self._drop(peer)

    def _obey(self, peer: _Peer, line: bytes) -> None:
        try:
            ask: Any = json.loads(line)
            pin, level = ask["pin"], _LEVELS[ask["drive"]]
            if type(pin) is not int:
                raise TypeError("pin is not a whole number")
            self._drive(pin, level)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = f'expected {{"pin": 0..27, "drive": "low"|"high"|"float"}}, got {line[:80]!r} ({error})'
            peer.outbox += json.dumps({"error": text}).encode() + b"\n"

    def _send_all(self) -> None:
        for peer in list(self._peers.values()):
            try:
                if peer.outbox:
                    del peer.outbox[:peer.sock.send(peer.outbox)]
            except BlockingIOError:
                pass
            except OSError:
                self._drop(peer)
                continue
            if len(peer.outbox) > _BACKLOG_MAX_BYTES:
                log.warning("mock pins: peer too slow, cut off port=mock:%s", self._path)
                self._drop(peer)
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outbox else 0)
            self._selector.modify(peer.sock, events, peer)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.sock.fileno(), None) is not None:
            self._selector.unregister(peer.sock)
            peer.sock.close()

    def _tear_down(self) -> None:
        # Only our own socket is removed: another process may already have taken the path over.
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._selector.close()
        for sock in (self._server, self._wake_out, self._wake_in):
            sock.close()


def _line(change: Change) -> bytes:
    pin, state, function, at_s = change
    return b'{"pin":%d,"state":%d,"function":"%s","at_s":%.6f}\n' % (pin, state, function.encode(), at_s)


def _listen(path: Path) -> socket.socket:
    """Take the path: a socket left behind by a dead process is replaced, a living one is respected."""
    where = f"mock:{path}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise LinkError(f"{where}: another process serves these mock pins: stop it, or choose another path")
        sock.bind(str(path))
        # Nobody can connect before listen(), so there is no moment in which others may.
        path.chmod(0o600)
        sock.listen(8)
        sock.setblocking(False)
    except LinkError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise LinkError(f"{where}: cannot make the socket of the mock pins ({error}): "
                        f"expected a writable folder and no other file of that name") from error
    return sock
