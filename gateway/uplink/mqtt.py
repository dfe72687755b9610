"""One MQTT connection, from TCP to farewell.

Owns: paho, the socket, the in-flight window. Promises: a publish is answered by exactly one acknowledgement or by the
end of the connection; nothing is resent by itself; every wait is bounded (only the name look-up is the system's).
Never: reconnects, keeps a message beyond its connection, decides what to send, logs a secret.

A fresh paho client a connection: paho would queue and resend on its own, and the journal is the only queue. paho's
external-loop calls are used from one thread, so callbacks need no lock: they only set fields and append.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - the first name look-up would import it, long after READY
import logging
import select
import socket
import ssl
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion

from gateway.config import Platform, Tls
from gateway.uplink.hints import CLOSED, LOST, NO_CONNACK, NOT_LET_IN, SILENT, Problem, of_code, of_error, of_tls_text
from gateway.uplink.message import Message

log = logging.getLogger(__name__)

WINDOW = 20
CONNECT_S = 5.0
"""Each of: TCP, TLS handshake, CONNACK."""
PUBACK_S = 30.0
"""An acknowledgement that takes longer means a half-open connection."""
MESSAGE_BYTES = 32_000
_FRAME_BYTES = 512
"""Topic, lengths and properties around a payload."""


class Refused(Exception):  # noqa: N818 (a noun of the protocol, not a bug)
    """No connection came about, or it ended; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.en)
        self.problem = problem


class Ack(Struct, frozen=True):
    """The answer to one publish: `code` < 0x80 is success (always 0 in MQTT 3.1.1, which has no codes)."""

    token: Any
    code: int
    name: str


def tls_context(tls: Tls) -> ssl.SSLContext:
    """A context that checks the chain and the name, TLS 1.2 or newer.

    Raises:
        OSError: a file cannot be read; ssl.SSLError: it is not what it should be.
    """
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        if path is not None:  # the ssl module's own error does not say which file
            with Path(path).open("rb"):
                pass
    if tls.key_file is not None and Path(tls.key_file).stat().st_mode & stat.S_IRWXO:
        log.warning("private key is open to everyone file=%s do='chmod o-rwx'", tls.key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


class _Client(Client):
    """paho leaves the socket of a failed handshake to the garbage collector; this closes it."""

    tls: ssl.SSLContext | None = None

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        assert self.tls is not None
        sock = self.tls.wrap_socket(tcp_sock, server_hostname=self.host, do_handshake_on_connect=False)
        try:
            sock.settimeout(CONNECT_S)
            sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return sock


class Connection:
    """Used once: `open`, then `pump` and `publish` in turns until it raises Refused, then `abandon` (or `farewell`)."""

    def __init__(self, platform: Platform, client_id: str, password: str | None, will: Message,
                 now: Callable[[], float], *, subscriptions: tuple[str, ...] = ()) -> None:
        self.platform = platform
        self.up = False
        """CONNACK said yes."""
        self.payload_bytes = 1 << 28
        """The largest payload the broker takes; we aim at MESSAGE_BYTES."""
        self._window = WINDOW
        self._now = now
        self._acks: deque[tuple[int, int, str]] = deque()
        self._flying: dict[int, tuple[Any, float]] = {}
        self._waiting: deque[tuple[Message, Any]] = deque()
        self._heard: deque[tuple[str, bytes]] = deque()
        self._subscriptions = subscriptions
        self.session_present = False
        self._problem: Problem | None = None
        self._said = ""
        self._answered = False
        self._since_s = now()
        self._is_5 = platform.mqtt == "5"
        # reconnect_on_failure would make paho fall back to MQTT 3.1 by itself.
        if self._is_5:
            client = _Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5,
                            reconnect_on_failure=False)
        else:
            client = _Client(CallbackAPIVersion.VERSION2, client_id, clean_session=True,
                            protocol=MQTTProtocolVersion.MQTTv311, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(0)  # the window is ours; paho must never hold a message back
        client.will_set(will.topic, will.payload, qos=will.qos, retain=will.retain)
        if platform.username is not None:
            client.username_pw_set(platform.username, password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_log = self._on_log
        client.on_message = self._on_message
        self._client: _Client | None = client

    # callbacks: set and append, nothing else

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._problem = of_code(reason.value, reason.getName())
            return
        self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
        self.payload_bytes = getattr(properties, "MaximumPacketSize", 1 << 28) - _FRAME_BYTES
        self.session_present = bool(getattr(_flags, "session_present", False))
        self.up = True
        for topic in self._subscriptions:
            self._living().subscribe(topic, qos=1)

    def _on_message(self, _client: Client, _data: Any, message: Any) -> None:
        if len(self._heard) < 100 and len(message.payload) <= 1 << 16:
            self._heard.append((message.topic, message.payload))

    def heard(self) -> list[tuple[str, bytes]]:
        """What came in since the last call."""
        out = list(self._heard)
        self._heard.clear()
        return out

    def _on_disconnect(self, _client: Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self.up = False
        if self._problem is None and flags.is_disconnect_packet_from_server:
            self._problem = of_code(reason.value, reason.getName())

    def _on_publish(self, _client: Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._acks.append((mid, reason.value, reason.getName()))

    def _on_log(self, _client: Client, _data: Any, level: int, text: str) -> None:
        # Errors only: the one place where paho tells what a socket said (TLS 1.3 refuses a client after the handshake).
        if level == LogLevel.MQTT_LOG_ERR:
            self._said = text

    # the life of it

    def open(self) -> None:
        """Look up the name, connect, shake hands and ask for an MQTT session; its answer comes by `pump`.

        Raises:
            Refused: with what to do about it.
        """
        client, platform = self._living(), self.platform
        try:
            if platform.tls is not None:
                client.tls = tls_context(platform.tls)
                client.tls_set_context(client.tls)
            if self._is_5:
                client.connect(platform.host, platform.port, platform.keepalive_s, clean_start=True)
            else:
                client.connect(platform.host, platform.port, platform.keepalive_s)
            sock = client.socket()
            if sock is not None:  # a small message must not wait for the acknowledgement of the one before
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[attr-defined]
        except (OSError, ValueError) as error:
            raise Refused(of_error(error, platform.host, platform.port, platform.tls is not None)) from None
        self._since_s = self._now()

    @property
    def room(self) -> int:
        """Messages the window still takes."""
        return self._window - self.flying if self.up else 0

    @property
    def flying(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._flying) + len(self._waiting)

    def publish(self, message: Message, token: Any) -> None:
        """Send with QoS 1 (beyond the window: as soon as there is room); `token` comes back in the Ack."""
        self._waiting.append((message, token))
        self._launch()

    def _launch(self) -> None:
        while self._waiting and len(self._flying) < self._window:
            message, token = self._waiting.popleft()
            info = self._living().publish(message.topic, message.payload, qos=1, retain=message.retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return  # the socket broke; the next `pump` says so, and nobody was told that this one arrived
            self._flying[info.mid] = (token, self._now())

    def mention(self, message: Message) -> None:
        """Send with QoS 0: no answer, no promise."""
        self._living().publish(message.topic, message.payload, qos=0)

    def pump(self, timeout_s: float) -> None:
        """Let the socket speak for up to `timeout_s`; returns as soon as something happened.

        Raises:
            Refused: the connection is over.
        """
        client = self._living()
        sock: Any = client.socket()
        if sock is None:
            raise Refused(self._cause())
        if isinstance(sock, ssl.SSLSocket) and sock.pending():  # decrypted already, so the socket itself stays quiet
            client.loop_read()
            sock, timeout_s = client.socket(), 0.0
            if sock is None:
                raise Refused(self._cause())
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        for _, happened in poll.poll(max(0, round(timeout_s * 1000))):
            if happened & ~select.POLLOUT:
                client.loop_read()
            if happened & select.POLLOUT:
                client.loop_write()
        client.loop_misc()
        if client.socket() is None:
            raise Refused(self._cause())
        waited_s = self._now() - self._since_s
        if not self.up and waited_s > CONNECT_S:
            raise Refused(self._problem or NO_CONNACK)
        if self._flying and self._now() - next(iter(self._flying.values()))[1] > PUBACK_S:
            raise Refused(SILENT)

    def acks(self) -> list[Ack]:
        """Answers since the last call."""
        out = []
        while self._acks:
            mid, code, name = self._acks.popleft()
            flight = self._flying.pop(mid, None)
            if flight is not None:
                out.append(Ack(flight[0], code, name))
        if out:
            self._launch()
        return out

    def farewell(self) -> None:
        """Say goodbye, so that the broker keeps the last will to itself."""
        if self._client is not None and self._client.socket() is not None:
            self._client.disconnect()
        self.abandon()

    def abandon(self) -> None:
        """Drop the socket; without a goodbye the broker publishes the last will."""
        client, self._client, self.up = self._client, None, False
        if client is None:
            return
        client.on_connect = client.on_disconnect = client.on_publish = client.on_log = None
        sock: Any = client.socket()
        if sock is not None:
            sock.close()

    def _living(self) -> _Client:
        if self._client is None:
            raise Refused(LOST)
        return self._client

    def _cause(self) -> Problem:
        if self._problem is not None:
            return self._problem
        if self.platform.tls is not None and ("SSL" in self._said or "TLS" in self._said.upper()):
            return of_tls_text(self._said, f"{self.platform.host}:{self.platform.port}")
        if not self._answered:
            return CLOSED if self.platform.tls is None else NOT_LET_IN
        return LOST
