"""The bare peer of a drain: what the gateway has published, published again by paho alone.

Owns: one MQTT session. Promises: QoS 1, at most WINDOW messages in flight, paho's own loop; ends when all are
acknowledged. Never: looks at a payload.

Usage: python -m hil.bench.republish MQTT_PORT FILE WINDOW
FILE is what `hil.bench.counter` kept. Waits for a line on standard input, then publishes and prints its seconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion


def payloads(file: Path) -> list[bytes]:
    """Read what was kept."""
    raw, at, out = file.read_bytes(), 0, []
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at:at + 4], "little")
        out.append(raw[at + 4:end])
        at = end
    return out


def main(port: int, file: str, window: int) -> None:
    """Publish once."""
    kept, up, done = payloads(Path(file)), threading.Event(), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, "republish", protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(window)
    client.on_connect = lambda *_: up.set()
    left = [len(kept)]

    def published(*_: object) -> None:
        left[0] -= 1
        if not left[0]:
            done.set()

    client.on_publish = published
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not up.wait(10):
        raise SystemExit(f"no connection to port {port}")
    print("{}", flush=True)
    sys.stdin.readline()
    began_s = time.monotonic()
    for payload in kept:
        client.publish("mingluo/1/bare/backlog", payload, qos=1)
    done.wait()
    print(json.dumps({"seconds": time.monotonic() - began_s}), flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
