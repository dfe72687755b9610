"""paho, held to bounds it does not keep by itself.

Owns: what is overridden of paho's Client, each with its reason. Promises: our own look-up and interface; a failed
handshake leaves no socket behind; a packet of any length takes bounded memory. Never: decides anything.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any, Self

from paho.mqtt.client import Client
from paho.mqtt.enums import LogLevel

from gateway.uplink.heard import PAYLOAD_BYTES
from gateway.uplink.names import NAMES, Names
from gateway.uplink.tcp import CONNECT_S, dial, traffic

PACKET_BYTES = PAYLOAD_BYTES + 1024
"""A payload with its topic and properties."""


class _Head(bytearray):
    """Keeps the beginning of what is added."""

    def __iadd__(self, more: Any) -> Self:  # type: ignore[misc]
        self.extend(more[:max(0, PACKET_BYTES - len(self))])
        return self


class PahoClient(Client):
    """`interface` and `names` say how it gets there, `tls` whom it trusts."""

    tls: ssl.SSLContext | None = None
    interface: str = ""
    names: Names = NAMES
    judge: Callable[[Any], None] | None = None
    """Looks at the socket's certificates before a byte of MQTT is sent; raises ssl.SSLCertVerificationError."""
    wire_bytes: int = 0
    """What the socket that is closed by now had cost."""

    @property
    def overlong(self) -> bool:
        """Whether the packet just read was cut to its head."""
        return isinstance(self._in_packet["packet"], _Head)

    def _create_socket_connection(self) -> socket.socket:
        return dial(self.host, self.port, self.interface, self.names)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        # paho leaves the socket of a failed handshake to the garbage collector.
        assert self.tls is not None
        sock = self.tls.wrap_socket(tcp_sock, server_hostname=self.host, do_handshake_on_connect=False)
        try:
            sock.settimeout(CONNECT_S)
            sock.do_handshake()
            if self.judge is not None:
                self.judge(sock)
        except BaseException:
            self.wire_bytes = traffic(sock).wire_bytes
            sock.close()
            raise
        return sock

    def _sock_close(self) -> None:
        if isinstance(self._sock, socket.socket):
            self.wire_bytes = traffic(self._sock).wire_bytes
        super()._sock_close()

    def _easy_log(self, level: LogLevel, fmt: str, *args: Any) -> None:
        # paho words every packet for a log that nobody reads: an eighth of what a publish costs.
        if level != LogLevel.MQTT_LOG_DEBUG:
            super()._easy_log(level, fmt, *args)

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho asks for the whole rest of a packet, up to 256 MB, and Python sets the memory aside before it reads. MQTT
        # 3.1.1 cannot forbid a broker such packets, and one it keeps for us comes again at each connection.
        if bufsize > PACKET_BYTES:
            bufsize = PACKET_BYTES
            if not self.overlong:
                self._in_packet["packet"] = _Head(self._in_packet["packet"])
        return super()._sock_recv(bufsize)
