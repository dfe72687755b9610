"""What a platform is sent: one MQTT message, before it has a connection."""

from __future__ import annotations

from msgspec import Struct


class Message(Struct, frozen=True):
    """One MQTT message. MQTT 3.1.1 has neither expiry nor content type: there both are left out."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    expiry_s: int | None = None
    """After this a broker drops it instead of delivering it late."""
    content_type: str = ""
