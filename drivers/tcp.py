"""One Modbus host on a network: a device, or a converter with several behind it.

Owns: the socket, its transaction numbers, and what an exchange over it comes to. Promises: never blocks, but for the
name look-up of `connect`; only the answer with this request's number counts (Modbus TCP), so a late one is dropped
whole; a converter that passes RTU or ASCII through is drained before each request; a connection that stays mute is
made anew. Never: retries, knows devices or due times.

`Host` never waits (`network` does, for many); `TcpLine` waits for one.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Literal

from drivers import LinkError, Note
from drivers.exchange import MBAP, Request, Verdict
from drivers.framing import FRAMES
from drivers.line import Heard
from drivers.sensor import Serial

Carried = Literal["tcp", "rtu", "ascii"]
"""What travels in the stream: Modbus TCP, or the frames of a serial line as they are."""
CONNECT_S = 3.0
_MUTE = 3
"""Exchanges without a byte before the connection is made anew: a cable pulled out is not told to a socket."""
_HEADER = MBAP.size
_LONGEST = 1024


class Host:
    """One host and port, without waiting: `connect`, then `begin` and `take` in turns, as its socket becomes ready."""

    def __init__(self, host: str, port: int, answer_timeout_s: float, framing: Carried = "tcp") -> None:
        self.name = f"tcp://{host}:{port}"
        self._address = (host, port)
        self._timeout_s = answer_timeout_s
        self._frames = None if framing == "tcp" else FRAMES[framing]
        self._socket: socket.socket | None = None
        self._transaction = 0
        self._rest = b""
        self._mute = 0
        self._ask: Request | None = None
        self._sent_s = self._first_s = 0.0
        self.deadline_s = 0.0
        """When patience with the exchange (or the connection) under way ends."""
        self.connecting = False

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return self._ask is not None

    @property
    def up(self) -> bool:
        """Whether there is a connection that may be asked."""
        return self._socket is not None and not self.connecting

    def fileno(self) -> int:
        """File descriptor for a selector; -1 while there is none."""
        return -1 if self._socket is None else self._socket.fileno()

    def connect(self, now: float) -> None:
        """Begin to connect; `connected` tells the end.

        Raises:
            LinkError: refused at once, or no such host.
        """
        self.close()
        try:
            family, kind, proto, _, where = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)[0]
            self._socket = made = socket.socket(family, kind, proto)
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = made.connect_ex(where)
        except (OSError, UnicodeError) as error:   # a name that cannot be written in DNS is a UnicodeError
            raise self._unreachable(error) from error
        if code not in (0, errno.EINPROGRESS):
            raise self._unreachable(OSError(code, os.strerror(code)))
        self.connecting, self.deadline_s = True, now + max(CONNECT_S, self._timeout_s)

    def connected(self) -> None:
        """End the connecting, when the socket has become writable.

        Raises:
            LinkError: it did not succeed.
        """
        assert self._socket is not None
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise self._unreachable(OSError(code, os.strerror(code)))
        self.connecting, self._rest, self._mute = False, b"", 0

    def timed_out(self) -> LinkError:
        """Return the error of a connection that did not come about in time."""
        return self._unreachable(TimeoutError("no answer to the connection"))

    def close(self) -> None:
        """Let go of the connection; twice is once."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._ask, self.connecting = None, None, False

    @property
    def worn(self) -> bool:
        """Whether it has been mute for so long (or half an answer lies in it) that it should be made anew."""
        return self._mute >= _MUTE

    def begin(self, ask: Request, now: float, timeout_s: float | None = None) -> None:
        """Send a request.

        Raises:
            LinkError: the connection is gone.
        """
        link = self._link()
        try:
            if self._frames is not None:
                self._drain(link)
                sent = self._frames.encode(ask)
            else:
                self._transaction = self._transaction + 1 & 0xFFFF
                sent = MBAP.pack(self._transaction, 0, len(ask.pdu) + 1, ask.unit) + ask.pdu
            if link.send(sent) != len(sent):
                raise OSError("it takes no bytes")
        except OSError as error:
            raise self._gone(error) from error
        self._ask, self._sent_s, self._first_s = ask, now, 0.0
        self.deadline_s = now + (self._timeout_s if timeout_s is None else timeout_s)

    def take(self, now: float) -> Heard | None:
        """Take what has arrived; the exchange's end, or None to wait on.

        Raises:
            LinkError: the connection is gone, or the far end does not speak Modbus TCP.
        """
        link = self._link()
        try:
            chunk = link.recv(4096)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(error) from error
        if not chunk:
            raise self._gone("the far end closed the connection")
        self._mute = 0
        ask = self._ask
        if ask is None:
            if self._frames is None:
                self._rest += chunk   # a late answer: its number gives it away when the next one is looked for
                self._next(None)
            return None
        if not self._first_s:
            self._first_s = now
        self._rest += chunk
        verdict = self._next(ask) if self._frames is None else self._frames.hear(ask, self._rest)
        if verdict is None:
            return None if len(self._rest) <= _LONGEST else self._end(Verdict(Note.FOREIGN), now)
        return self._end(verdict, now)

    def expire(self, now: float) -> Heard:
        """End an exchange whose patience is over."""
        assert self._ask is not None
        if self._frames is not None:
            if not self._ask.answer_bytes and not getattr(self._ask, "answer", None):
                return self._end(Verdict(None), now)   # nobody answers a broadcast, nor every frame of a maker's own
            note = self._frames.leftover(self._ask, self._rest)
            self._mute += not self._rest
            return self._end(Verdict(note), now)
        # Half an answer would be continued by the next one: such a connection is not asked again.
        self._mute = _MUTE if self._rest else self._mute + 1
        return self._end(Verdict(Note.NO_ANSWER), now)

    def _end(self, verdict: Verdict, now: float) -> Heard:
        self._ask = None
        if self._frames is not None:
            self._rest = b""
        response_s = self._first_s - self._sent_s if self._first_s else None
        return Heard(verdict.note, verdict.data, verdict.start, now, response_s, verdict.code)

    def _next(self, ask: Request | None) -> Verdict | None:
        """Take whole frames off what has arrived: what our answer comes to, or None to go on."""
        while len(self._rest) >= _HEADER:
            number, protocol, length, unit = MBAP.unpack_from(self._rest)
            if protocol or not 2 <= length <= 254:
                raise self._gone(f"it does not speak Modbus TCP: {self._rest[:_HEADER].hex(' ')}; is the converter "
                                 "set to transparent mode (framing: rtu)?")
            end = 6 + length
            if len(self._rest) < end:
                return None
            pdu, self._rest = self._rest[_HEADER:end], self._rest[end:]
            if ask is not None and number == self._transaction:
                return ask.judge(unit, pdu)
        return None

    def _drain(self, link: socket.socket) -> None:
        """Throw away what came unasked: it is nobody's answer."""
        self._rest = b""
        for _ in range(16):
            try:
                if not link.recv(4096):
                    raise OSError("the far end closed the connection")
            except BlockingIOError:
                return

    def _link(self) -> socket.socket:
        if self._socket is None:
            raise LinkError(f"{self.name} is not connected")
        return self._socket

    def _gone(self, why: object) -> LinkError:
        self.close()
        return LinkError(f"{self.name} is gone: {why}")

    def _unreachable(self, error: Exception) -> LinkError:
        self.close()
        return LinkError(f"{self.name}: {error}; is it powered, is the address right?")


class TcpLine:
    """One host as a line of its own: ask, and wait for the answer. For commands; polls go through `network`."""

    def __init__(self, host: str, port: int, answer_timeout_s: float, now: Callable[[], float],
                 framing: Carried = "tcp") -> None:
        self._host = Host(host, port, answer_timeout_s, framing)
        self._now = now

    def open(self) -> None:
        """Connect.

        Raises:
            LinkError: unreachable, refused, or no such host.
        """
        self._host.connect(self._now())
        if not select.select((), (self._host,), (), self._host.deadline_s - self._now())[1]:
            raise self._host.timed_out()
        self._host.connected()

    def exchange(self, ask: Request, settings: Serial | None = None,  # noqa: ARG002
                 timeout_s: float | None = None) -> Heard:
        """Ask and listen until the answer, or the end of patience.

        Raises:
            LinkError: the connection is gone, or the far end does not speak Modbus TCP.
        """
        if self._host.worn:
            self.open()
        self._host.begin(ask, self._now(), timeout_s)
        while True:
            left_s = self._host.deadline_s - self._now()
            if left_s <= 0 or not select.select((self._host,), (), (), left_s)[0]:
                return self._host.expire(self._now())
            if (heard := self._host.take(self._now())) is not None:
                return heard

    def listen(self, timeout_s: float) -> bytes:
        """Return what comes without being asked; on a network that is nothing worth hearing."""
        select.select((self._host,), (), (), timeout_s)
        return b""

    def close(self) -> None:
        """Let go of the connection; twice is once."""
        self._host.close()
