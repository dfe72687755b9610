"""One Modbus TCP connection: a device, or a converter with several behind it.

Owns: the socket and its transaction numbers. Promises: only the answer with this request's number counts, so a late
one is dropped whole; a dead host costs at most one answer timeout an exchange, and a connection that stays mute is
made anew. Never: blocks longer than its timeouts, retries, knows devices or due times.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from drivers import LinkError, Note
from drivers.exchange import MBAP, Ask, hear_tcp
from drivers.line import Heard
from drivers.sensor import Serial

_MUTE = 3
"""Exchanges without a byte before the connection is made anew: a cable pulled out is not told to a socket."""
_CONNECT_S = 3.0
_HEADER = MBAP.size


class TcpLine:
    """One host and port."""

    def __init__(self, host: str, port: int, answer_timeout_s: float, now: Callable[[], float]) -> None:
        self.host, self.port = host, port
        self._timeout_s = answer_timeout_s
        self._now = now
        self._socket: socket.socket | None = None
        self._transaction = 0
        self._rest = b""
        self._mute = 0

    def open(self) -> None:
        """Connect.

        Raises:
            LinkError: unreachable, refused, or no such host.
        """
        self.close()
        try:
            made = socket.create_connection((self.host, self.port), max(_CONNECT_S, self._timeout_s))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, UnicodeError) as error:   # a name that cannot be written in DNS is a UnicodeError
            raise LinkError(f"tcp://{self.host}:{self.port}: {error}; is it powered, is the address right?") from error
        self._socket, self._rest, self._mute = made, b"", 0

    def close(self) -> None:
        """Let go of the connection; twice is once."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def exchange(self, ask: Ask, settings: Serial | None = None) -> Heard:  # noqa: ARG002
        """Ask and listen until the answer, or the end of patience.

        Raises:
            LinkError: the connection is gone, or the far end does not speak Modbus TCP.
        """
        if self._mute >= _MUTE:
            self.open()
        if self._socket is None:
            raise LinkError(f"tcp://{self.host}:{self.port} is not connected")
        try:
            return self._exchange(self._socket, ask)
        except OSError as error:
            self.close()
            if isinstance(error, LinkError):
                raise
            raise LinkError(f"tcp://{self.host}:{self.port} is gone: {error}") from error

    def _exchange(self, link: socket.socket, ask: Ask) -> Heard:
        now = self._now
        self._transaction = transaction = self._transaction + 1 & 0xFFFF
        link.settimeout(self._timeout_s)
        sent_s = now()
        link.sendall(ask.tcp(transaction))
        first_s = None
        while True:
            verdict = self._next(ask, transaction)
            if verdict is not None:
                at_s = now()
                if isinstance(verdict, Note):
                    return Heard(verdict, b"", 0, at_s, (first_s or at_s) - sent_s)
                return Heard(None, verdict, 2, at_s, (first_s or at_s) - sent_s)
            left = sent_s + self._timeout_s - now()
            try:
                if left <= 0:
                    raise TimeoutError
                if first_s is not None:
                    link.settimeout(left)
                chunk = link.recv(2048)
            except TimeoutError:
                # Half an answer would be continued by the next one: such a connection is not asked again.
                self._mute = _MUTE if self._rest else self._mute + 1
                return Heard(Note.NO_ANSWER, b"", 0, now())
            if not chunk:
                raise LinkError(f"tcp://{self.host}:{self.port} closed the connection")
            self._mute = 0
            if first_s is None:
                first_s = now()
            self._rest += chunk

    def _next(self, ask: Ask, transaction: int) -> bytes | Note | None:
        """Take whole frames off what has arrived: the PDU of our answer, what is wrong with it, or None to go on."""
        while len(self._rest) >= _HEADER:
            number, protocol, length, unit = MBAP.unpack_from(self._rest)
            if protocol or not 2 <= length <= 254:
                raise LinkError(f"tcp://{self.host}:{self.port} does not speak Modbus TCP: "
                                f"{self._rest[:_HEADER].hex(' ')}; is the converter set to transparent mode?")
            end = 6 + length
            if len(self._rest) < end:
                return None
            pdu, self._rest = self._rest[_HEADER:end], self._rest[end:]
            if number == transaction:
                verdict = hear_tcp(ask, unit, pdu)
                return verdict if isinstance(verdict, Note) else pdu
        return None
