"""What a process vouched for while it was recorded: rows it had published when the power went.

Owns: reading MQTT packets out of the bytes sent on sockets (MQTT 5.0 §3.3; a publish of a row says: this is committed).
Promises: a row counts from the call that sent the last byte of its message. Never: connects to anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hil.powercut.recording import Call

Identity = tuple[str, str, int]
"""(epoch, lane, seq)"""


class Vouched(NamedTuple):
    """A row that was told to somebody."""

    call: int
    """Index of the call that finished telling."""
    identity: Identity
    row: Mapping[str, Any]
    """As it was published."""


def rows(calls: list[Call]) -> Iterator[Vouched]:
    """Every row published in a recording, in order."""
    streams: dict[str, bytearray] = {}
    for n, call in enumerate(calls):
        if call.kind != "M":
            continue
        stream = streams.setdefault(call.path, bytearray())
        if call.data[:1] == b"\x10" and b"\0\x04MQTT" in call.data[:12]:
            stream.clear()   # CONNECT: the descriptor is a new connection's
        stream += call.data
        while (packet := _packet(stream)) is not None:
            kind, body = packet
            if kind >> 4 == 3:
                yield from (Vouched(n, identity, row) for identity, row in _published(kind, body))


def _packet(stream: bytearray) -> tuple[int, bytes] | None:
    """Take one whole packet off the front."""
    length = shift = 0
    for at in range(1, min(5, len(stream))):
        length |= (stream[at] & 0x7F) << shift
        shift += 7
        if not stream[at] & 0x80:
            if len(stream) < at + 1 + length:
                return None
            kind, body = stream[0], bytes(stream[at + 1:at + 1 + length])
            del stream[:at + 1 + length]
            return kind, body
    return None


def _published(kind: int, body: bytes) -> Iterator[tuple[Identity, Mapping[str, Any]]]:
    topic_len = int.from_bytes(body[:2], "big")
    topic = body[2:2 + topic_len].decode()
    if topic.rsplit("/", 1)[-1] not in ("data", "backlog", "event"):
        return
    at = 2 + topic_len + (2 if kind & 0x06 else 0)
    payload = body[at:]
    message = json.loads(payload[payload.index(b"{"):])   # behind the properties of MQTT 5
    for row in message["rows"]:
        yield (message["epoch"], message["lane"], row["seq"]), row
