"""One MQTT connection, from TCP to farewell.

Owns: paho, the socket, the in-flight window, the subscriptions. Promises: a publish is answered by exactly one
acknowledgement or by the end of the connection; nothing is resent by itself; every wait is bounded, and a dead
connection ends (pulse.py); what was heard is acknowledged only after it was taken. Never: reconnects, keeps a message
beyond its connection, decides what to send, logs a secret.

A fresh paho client a connection: paho would queue and resend on its own, and the journal is the only queue. paho's
external-loop calls are used from one thread, so callbacks need no lock: they only set fields and append.

The broker's session is kept over connections (so that what is published to us meanwhile waits there); of ours nothing
is: MQTT-4.4.0-1 has a client resend what was not acknowledged under its old packet identifiers, the journal sends the
same rows in new packets. For QoS 1 a server remembers no identifier it has answered, so nobody can tell.
"""

from __future__ import annotations

import logging
import select
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.config import Platform
from gateway.uplink import hints
from gateway.uplink.heard import Heard
from gateway.uplink.hints import Problem, of_code, of_error, of_tls_text
from gateway.uplink.message import Message
from gateway.uplink.names import NAMES, Names
from gateway.uplink.pahoclient import PACKET_BYTES, PahoClient
from gateway.uplink.pulse import PATIENCE_S, Pulse
from gateway.uplink.tcp import CONNECT_S, running, traffic
from gateway.uplink.tls import tls_context
from gateway.uplink.window import MESSAGES, Flight, Window

log = logging.getLogger(__name__)

WINDOW = MESSAGES
INBOUND = 50
"""How many messages a broker may send us before it waits for an acknowledgement (MQTT 5)."""
SESSION_S = 86_400
CARRIER_S = 2.0
"""A cable may be out for so long before a connection bound to it is given up."""
MESSAGE_BYTES = 32_000
_PROPERTIES = 32
"""Sets of MQTT 5 properties that are kept made."""
_FRAME_BYTES = 512
"""Topic, lengths and properties around a payload."""
_TOO_LARGE = 0x95
_KEEPALIVE = 0x8D


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


class Connection:
    """Used once: `open`, then `pump` and `publish` in turns until it raises Refused, then `abandon` (or `farewell`)."""

    def __init__(self, platform: Platform, client_id: str, password: str | None, will: Message,
                 now: Callable[[], float], *, subscriptions: tuple[str, ...] = (), bind: str = "",
                 context: ssl.SSLContext | None = None, judge: Callable[[Any], None] | None = None,
                 session_s: int = SESSION_S, patience_s: float = PATIENCE_S,
                 names: Names = NAMES) -> None:
        """Say how; nothing is opened.

        `bind`: speak through this interface only; `context`: instead of one made from `platform.tls`, with `judge` to
        look at the shaken socket's certificates before anything is sent.
        `session_s`: how long the broker keeps our session after we are gone; 0 for none. MQTT 3.1.1 knows only 0 and
        for ever.
        """
        self.platform = platform
        self.up = False
        """CONNACK said yes."""
        self.session_present = False
        """The broker knows us: our subscriptions, and what it keeps for us, outlived the last connection."""
        self.payload_bytes = 1 << 28
        """The largest payload the broker takes; we aim at MESSAGE_BYTES."""
        self.denied: dict[str, Problem] = {}
        """Subscriptions the broker refused, with what to do about it."""
        self.answered_any = False
        """At least one publish was acknowledged."""
        self.wire_bytes = 0
        """What the connection cost so far, both directions, headers included; 0 where the kernel does not tell."""
        self._subscriptions, self._context, self._session_s = subscriptions, context, session_s
        self._window, self._pulse = Window(), Pulse(patience_s, now())
        self._may_retain = True
        self._made: dict[tuple[int, int | None, str], Properties] = {}
        self._now = now
        self._acks: deque[tuple[int, int, str]] = deque()
        self._answers: list[Ack] = []
        self._waiting: deque[tuple[Message, Any]] = deque()
        self._heard = Heard()
        self._subscribing = False
        self._problem: Problem | None = None
        self._said = ""
        self._answered = False
        self._since_s = self._carrier_s = now()
        self._is_5 = platform.mqtt == "5"
        # reconnect_on_failure would make paho fall back to MQTT 3.1 by itself.
        client = PahoClient(
            CallbackAPIVersion.VERSION2, client_id, clean_session=None if self._is_5 else not session_s,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False, manual_ack=True)
        client.interface, client.names, client.judge = bind, names, judge
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(0)  # the window is ours; paho must never hold a message back
        client.will_set(will.topic, will.payload, will.qos, will.retain,
                        self._properties(will, PacketTypes.WILLMESSAGE))
        if platform.username is not None:
            client.username_pw_set(platform.username, password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
        self._client: PahoClient | None = client

    # callbacks: set and append, nothing else

    def _on_connect(self, client: Client, _data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._problem = of_code(reason.value, reason.getName())
            return
        self.session_present = bool(flags.session_present)
        self._window.messages = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
        self.payload_bytes = getattr(properties, "MaximumPacketSize", 1 << 28) - _FRAME_BYTES
        self._may_retain = bool(getattr(properties, "RetainAvailable", 1))
        self.up = True
        if self._subscriptions:
            self._subscribing = True
            client.subscribe([(topic, 1) for topic in self._subscriptions])

    def _on_disconnect(self, _client: Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self.up = False
        if self._problem is not None:
            return
        if flags.is_disconnect_packet_from_server:
            self._problem = of_code(reason.value, reason.getName())
        elif reason.value == _KEEPALIVE:
            self._problem = hints.SILENT

    def _on_publish(self, _client: Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._acks.append((mid, reason.value, reason.getName()))

    def _on_subscribe(self, _client: Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        self._subscribing = False
        self.denied = {topic: of_code(reason.value, reason.getName())
                       for topic, reason in zip(self._subscriptions, reasons, strict=False) if reason.is_failure}

    def _on_message(self, _client: Client, _data: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = None
        self._heard.add(topic, message.payload, (message.mid, message.qos), not self._living().overlong)

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
            if platform.tls is not None or self._context is not None:
                client.tls = self._context or tls_context(platform.tls)  # type: ignore[arg-type]
                client.tls_set_context(client.tls)
            if self._is_5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.SessionExpiryInterval = self._session_s
                properties.ReceiveMaximum, properties.MaximumPacketSize = INBOUND, PACKET_BYTES
                client.connect(platform.host, platform.port, platform.keepalive_s, clean_start=not self._session_s,
                               properties=properties)
            else:
                client.connect(platform.host, platform.port, platform.keepalive_s)
        except (OSError, ValueError) as error:
            raise Refused(of_error(error, platform.host, platform.port, platform.tls is not None,
                                   client.interface)) from None
        self._since_s = self._carrier_s = self._now()
        self._pulse.received(self._since_s)

    @property
    def room(self) -> int:
        """Messages the window still takes; none while what flies is more than the line carries in a few seconds."""
        return max(0, self._window.room - len(self._waiting)) if self.up else 0

    @property
    def flying(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._window.flying) + len(self._waiting)

    @property
    def flying_bytes(self) -> int:
        """Payloads in flight."""
        return self._window.flying_bytes

    @property
    def unheard(self) -> int:
        """Messages to us that were dropped: too long, or too many waited."""
        return self._heard.dropped

    def publish(self, message: Message, token: Any) -> None:
        """Send (beyond the window: as soon as there is room); `token` comes back in the Ack.

        What the broker said it would not take is answered here instead of costing the connection. QoS 0 is answered as
        soon as it is handed over.
        """
        if len(message.payload) > self.payload_bytes:
            self._answers.append(Ack(token, _TOO_LARGE, "Packet too large"))
        elif message.qos == 0:
            self.mention(message)
            self._answers.append(Ack(token, 0, "Success"))
        else:
            self._waiting.append((message, token))
            self._launch()

    def mention(self, message: Message) -> None:
        """Send with QoS 0: no answer, no promise."""
        if len(message.payload) <= self.payload_bytes:
            self._send(message, 0)

    def _launch(self) -> None:
        while self._waiting and len(self._window.flying) < self._window.messages:
            message, token = self._waiting.popleft()
            info = self._send(message, message.qos)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return  # the socket broke; the next `pump` says so, and nobody was told that this one arrived
            self._window.launch(info.mid, Flight(token, self._now(), len(message.payload)))

    def _send(self, message: Message, qos: int) -> Any:
        return self._living().publish(message.topic, message.payload, qos, message.retain and self._may_retain,
                                      self._properties(message, PacketTypes.PUBLISH))

    def _properties(self, message: Message, packet: int) -> Properties | None:
        if not self._is_5 or (message.expiry_s is None and not message.content_type):
            return None
        key = (packet, message.expiry_s, message.content_type)
        if (known := self._made.get(key)) is not None:   # nearly all messages say the same of themselves
            return known
        if len(self._made) > _PROPERTIES:
            self._made.clear()
        properties = self._made[key] = Properties(packet)  # type: ignore[no-untyped-call]
        if message.expiry_s is not None:
            properties.MessageExpiryInterval = message.expiry_s
        if message.content_type:
            properties.ContentType = message.content_type
        return properties

    def pump(self, timeout_s: float) -> None:
        """Let the socket speak for up to `timeout_s`; returns as soon as something happened.

        Raises:
            Refused: the connection is over.
        """
        client = self._living()
        try:
            sock = self._talk(client, timeout_s)
        except (ValueError, LookupError, TypeError, struct.error):
            # paho gave up in the middle of a packet that is none.
            log.exception("not understood platform=%s", self.platform.id)
            raise Refused(hints.GARBLED) from None
        if sock is None:
            raise Refused(self._cause())
        self._watch(client, sock)

    def _talk(self, client: PahoClient, timeout_s: float) -> Any:
        sock: Any = client.socket()
        if sock is None:
            return None
        if isinstance(sock, ssl.SSLSocket) and sock.pending():  # decrypted already, so the socket itself stays quiet
            self._read(client)
            sock, timeout_s = client.socket(), 0.0
            if sock is None:
                return None
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        for _, happened in poll.poll(max(0, round(timeout_s * 1000))):
            if happened & ~select.POLLOUT:
                self._read(client)
            if happened & select.POLLOUT:
                client.loop_write()
        client.loop_misc()
        return client.socket()

    def _read(self, client: PahoClient) -> None:
        self._pulse.received(self._now())
        if client.loop_read() == MQTTErrorCode.MQTT_ERR_PROTOCOL and self._answered and self._problem is None:
            self._problem = hints.GARBLED

    def _watch(self, client: PahoClient, sock: Any) -> None:
        now = self._now()
        if not self.up:
            if now - self._since_s > CONNECT_S:
                raise Refused(self._problem or hints.NO_CONNACK)
            return
        moved = traffic(sock)
        self.wire_bytes = moved.wire_bytes
        flying, unwritten = bool(self._window.flying), client.want_write()
        if not self._pulse.beats(now, flying=flying, owed=flying or self._subscribing or unwritten,
                                 queued=moved.queued or unwritten, moved_bytes=moved.moved_bytes,
                                 keepalive_s=client.keepalive):
            raise Refused(hints.SILENT)
        if not client.interface or running(sock, client.interface):
            self._carrier_s = now
        elif now - self._carrier_s > CARRIER_S:
            raise Refused(hints.UNPLUGGED)

    def acks(self) -> list[Ack]:
        """Answers since the last call."""
        now, out, self._answers = self._now(), self._answers, []
        while self._acks:
            mid, code, name = self._acks.popleft()
            flight = self._window.land(mid, now)
            if flight is not None:
                self._pulse.answered(now)
                self.answered_any = True
                out.append(Ack(flight.token, code, name))
        if self._waiting:
            self._launch()
        return out

    def heard(self) -> list[tuple[str, bytes]]:
        """What was published to us since the last call: topic and payload, oldest first.

        Asking again says that the last ones were dealt with: only then does the broker learn that they arrived.
        """
        self._receipt()
        return self._heard.take()

    def _receipt(self) -> None:
        if self._client is not None and self.up:
            for mid, qos in self._heard.receipts():
                self._client.ack(mid, qos)

    def farewell(self) -> None:
        """Say goodbye, so that the broker keeps the last will to itself; the session stays."""
        if self._client is not None and self._client.socket() is not None:
            self._receipt()
            self._client.disconnect()
        self.abandon()

    def abandon(self) -> None:
        """Drop the socket; without a goodbye the broker publishes the last will."""
        client, self._client, self.up = self._client, None, False
        if client is None:
            return
        client.on_connect = client.on_disconnect = client.on_publish = client.on_log = None
        client.on_subscribe = client.on_message = None
        sock: Any = client.socket()
        if sock is not None:
            client.wire_bytes = traffic(sock).wire_bytes
            sock.close()
        self.wire_bytes = max(self.wire_bytes, client.wire_bytes)

    def _living(self) -> PahoClient:
        if self._client is None:
            raise Refused(hints.LOST)
        return self._client

    def _cause(self) -> Problem:
        if self._problem is not None:
            return self._problem
        if self.platform.tls is not None and ("SSL" in self._said or "TLS" in self._said.upper()):
            return of_tls_text(self._said, f"{self.platform.host}:{self.platform.port}")
        if not self._answered:
            return hints.CLOSED if self.platform.tls is None else hints.NOT_LET_IN
        return hints.SUBSCRIPTION if self._subscribing else hints.LOST
