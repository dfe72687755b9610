"""One MQTT message on its way out.

Owns: what a broker has to be told about a payload. Promises: plain frozen data. Never: knows what it says.
"""

from __future__ import annotations

import zlib

from msgspec import Struct, structs


class Message(Struct, frozen=True):
    """A payload and where it goes."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    expiry_s: int | None = None
    """MQTT 5: the broker drops it after so long; None = never."""
    content_type: str = ""
    """MQTT 5: a MIME type; empty = unsaid."""


def squeezed(message: Message, wanted: bool) -> Message:
    """The message with its payload compressed by zlib, where that is `wanted` and shorter."""
    if not wanted:
        return message
    payload = zlib.compress(message.payload, 6)
    if len(payload) >= len(message.payload):
        return message
    return structs.replace(message, payload=payload, content_type="application/zlib")
