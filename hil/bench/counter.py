"""A light subscriber in its own process that counts what has arrived, a row once.

Owns: one MQTT session. Promises: a reading is counted once however often its row comes; a value of None is no
reading. Never: keeps readings.

Usage: python -m hil.bench.counter MQTT_PORT [FILE]
With FILE it keeps each payload of rows and writes them there at the end, each behind its length (u32).
Prints a line when it is subscribed, then answers ``count``. The gateway's readings of points ``…-p00`` and the bare
script's first values are the devices' own numbers of their answers: `numbers` is how many different ones came.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion


class _Reading(Struct, gc=False):
    point: str
    value: float | None


class _Row(Struct, gc=False):
    seq: int
    readings: list[_Reading] = []
    scans: list[tuple[int, int, list[float | None]]] = []


class _Message(Struct):
    epoch: str
    rows: list[_Row]


class _Bare(Struct):
    unit: int
    values: list[float]


class Counter:
    """What has arrived; `take` is called by paho's thread."""

    def __init__(self, keep: bool = False) -> None:
        self.payloads: list[bytes] | None = [] if keep else None
        self.first_s = self.last_s = 0.0
        self.messages = self.readings = self.backlog = self.duplicates = self.bytes = 0
        self._seen: set[tuple[str, int]] = set()
        self._numbers: dict[str, set[int]] = defaultdict(set)
        self._rows, self._bare = Decoder(_Message), Decoder(_Bare)

    def take(self, _client: Client, _data: Any, message: Any) -> None:
        """Count one message."""
        self.messages += 1
        self.bytes += len(message.payload)
        if message.topic.startswith("bare/"):
            bare = self._bare.decode(message.payload)
            self.readings += len(bare.values)
            self._numbers[f"{message.topic}-{bare.unit}"].add(int(bare.values[0]))
            return
        payload = message.payload
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        if self.payloads is not None:
            self.payloads.append(payload)
        body = self._rows.decode(zlib.decompress(payload) if payload[:1] == b"\x78" else payload)
        for row in body.rows:
            if (body.epoch, row.seq) in self._seen:
                self.duplicates += 1
                continue
            self._seen.add((body.epoch, row.seq))
            for _, first, values in row.scans:
                known = [v for v in values if v is not None]
                self.readings += len(known)
                self.backlog += len(known) * message.topic.endswith("/backlog")
                self._numbers[f"#{first}"].add(round(10 * (known[0] if known else 0.0)))
            told = [r for r in row.readings if r.value is not None]
            self.readings += len(told)
            self.backlog += len(told) * message.topic.endswith("/backlog")
            for r in told:
                if r.point.endswith("-p00"):
                    self._numbers[r.point].add(round(10 * (r.value or 0.0)))

    def count(self) -> dict[str, Any]:
        """Everything so far."""
        return {"at_s": time.monotonic(), "first_s": self.first_s, "last_s": self.last_s,
                "readings": self.readings, "backlog": self.backlog, "rows": len(self._seen),
                "duplicates": self.duplicates, "messages": self.messages, "bytes": self.bytes,
                "numbers": sum(map(len, list(self._numbers.values())))}


def main(port: int, file: str = "") -> None:
    """Subscribe and answer until standard input ends."""
    counter, ready = Counter(keep=bool(file)), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, "counter", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = counter.take
    client.on_connect = lambda *_: client.subscribe([(topic, 1) for topic in ("+/1/+/data", "+/1/+/backlog", "bare/#")])
    client.on_subscribe = lambda *_: ready.set()
    client.suppress_exceptions = False
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not ready.wait(10):
        raise SystemExit(f"no subscription at port {port}")
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps(counter.count()), flush=True)
    client.disconnect()
    client.loop_stop()
    if counter.payloads is not None:
        with Path(file).open("wb") as out:
            out.writelines(len(p).to_bytes(4, "little") + p for p in counter.payloads)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
