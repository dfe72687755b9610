"""The county's side: a reference subscriber that keeps what it gets in SQLite.

Owns: one MQTT session and one database. Promises: a row is counted once, by (gateway, epoch, lane, seq), however often
it arrives; it is acknowledged after it is stored; what is missing between the first and the last seq is named.
Never: asks the gateway anything but by MQTT.

Everything a county's programmer has to do with the default profile is in `_rows`, `_state` and `colours`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (gateway TEXT, epoch TEXT, lane TEXT, seq INTEGER, topic TEXT, arrived_ms INTEGER,
    PRIMARY KEY (gateway, epoch, lane, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS readings (gateway TEXT, epoch TEXT, seq INTEGER, point TEXT, t INTEGER, value REAL,
    quality INTEGER, reason TEXT, status TEXT, trust TEXT);
CREATE TABLE IF NOT EXISTS events (gateway TEXT, epoch TEXT, lane TEXT, seq INTEGER, id TEXT, kind TEXT, t INTEGER,
    object TEXT, alarm TEXT, colour TEXT, status TEXT, past INTEGER, body TEXT);
"""


class Counters(Struct, frozen=True, kw_only=True):
    """What arrived. Rows and readings are counted once; `duplicates` are rows that came again and were dropped."""

    messages: int
    rows: int
    readings: int
    events: int
    live: int
    """Readings that came first on `data`."""
    backlog: int
    """Readings that came first on `backlog`."""
    duplicates: int
    gaps: tuple[tuple[str, str, str, int, int], ...]
    """(gateway, epoch, lane, from, to) of seqs that never came, below the highest one that did."""
    bad: int
    """Messages that could not be read."""


class Latest(Struct, frozen=True):
    """The newest reading of a point, by its time."""

    gateway: str
    point: str
    t: int
    value: float | None
    quality: int
    reason: str
    status: str


class County:
    """Subscribes to ``{root}/1/#``. `start` returns when the subscription stands."""

    def __init__(self, host: str, port: int, root: str = "mingluo", db_path: Path | str = ":memory:", *,
                 mqtt: str = "5", client_id: str = "county", username: str | None = None, password: str | None = None,
                 tls: tuple[str, str, str] | None = None) -> None:
        """`tls`: CA, certificate and key file."""
        self._address, self._topic = (host, port), f"{root}/1/#"
        self._lock = threading.Lock()
        self._db = sqlite3.connect(db_path, check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
        self._messages = self._live = self._backlog = self._duplicates = self._bad = 0
        self._latest: dict[tuple[str, str], Latest] = {}
        self._warns: dict[tuple[str, str], tuple[dict[str, Any], int]] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._retained: dict[str, dict[str, Any]] = {}
        self._ready = threading.Event()
        self._is_5 = mqtt == "5"
        if self._is_5:
            self._client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        else:
            self._client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False,
                                  protocol=MQTTProtocolVersion.MQTTv311)
        if username is not None:
            self._client.username_pw_set(username, password)
        if tls is not None:
            self._client.tls_set(*tls)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message

    # MQTT

    def start(self, timeout_s: float = 10.0) -> Self:
        """Connect and subscribe.

        Raises:
            TimeoutError: the broker did not confirm the subscription in time.
        """
        if self._is_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 86400  # the broker keeps messages while we restart
            self._client.connect(*self._address, 30, clean_start=False, properties=properties)
        else:
            self._client.connect(*self._address, 30)
        self._client.loop_start()
        if not self._ready.wait(timeout_s):
            self._client.loop_stop()
            raise TimeoutError(f"no subscription at {self._address} within {timeout_s} s; is the broker up?")
        return self

    def stop(self) -> None:
        """Disconnect and close the database."""
        self._client.disconnect()
        self._client.loop_stop()
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _on_connect(self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.warning("county is refused reason=%s", reason.getName())
        else:
            client.subscribe(self._topic, qos=1)

    def _on_message(self, _client: Client, _data: Any, message: Any) -> None:
        # paho acknowledges after this returns: what is acknowledged is stored.
        kind = message.topic.split("/1/", 1)[-1].split("/", 1)[-1]
        with self._lock:
            self._messages += 1
            try:
                body = json.loads(message.payload)
                if kind in ("data", "backlog", "event"):
                    self._rows(kind, body)
                elif kind == "state":
                    self._state(body)
                elif kind.startswith("warn/"):
                    self._warns[body["gateway"], body["object"]] = (body, _now_ms())
                elif message.topic:
                    self._retained[kind] = body
            except (ValueError, KeyError, TypeError) as error:
                self._bad += 1
                log.warning("unreadable message topic=%s error=%s", message.topic, error)

    def _rows(self, topic: str, m: dict[str, Any]) -> None:
        gateway, epoch, lane, trust, now = m["gateway"], m["epoch"], m["lane"], m["clock"]["trust"], _now_ms()
        run = self._db.execute
        run("BEGIN")
        try:
            for row in m["rows"]:
                seq = row["seq"]
                if not run("INSERT OR IGNORE INTO rows VALUES (?,?,?,?,?,?)",
                           (gateway, epoch, lane, seq, topic, now)).rowcount:
                    self._duplicates += 1
                    continue
                readings = row.get("readings", ())
                self._db.executemany("INSERT INTO readings VALUES (?,?,?,?,?,?,?,?,?,?)", [
                    (gateway, epoch, seq, r["point"], r["t"], r["value"], r["quality"], r.get("reason", ""),
                     r["status"], trust) for r in readings])
                self._db.executemany("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", [
                    (gateway, epoch, lane, seq, e["id"], e["kind"], e["t"], e.get("object", ""), e.get("alarm", ""),
                     e.get("colour", ""), e["status"], int(e.get("past", False)), json.dumps(e, ensure_ascii=False))
                    for e in row.get("events", ())])
                self._live += len(readings) * (topic == "data")
                self._backlog += len(readings) * (topic == "backlog")
                for r in readings:
                    known = self._latest.get((gateway, r["point"]))
                    if known is None or r["t"] >= known.t:
                        self._latest[gateway, r["point"]] = Latest(
                            gateway, r["point"], r["t"], r["value"], r["quality"], r.get("reason", ""), r["status"])
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise

    def _state(self, body: dict[str, Any]) -> None:
        known = self._states.get(body["gateway"])
        # A last will can overtake a fresh birth: an offline counts only for the session last seen online.
        if body["online"] or known is None or known["session"] == body["session"]:
            self._states[body["gateway"]] = body

    # what others see; any thread

    def counters(self) -> Counters:
        """Everything counted so far."""
        with self._lock:
            count = {name: self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                     for name in ("rows", "readings", "events")}
            gaps = self._db.execute(
                "SELECT gateway, epoch, lane, before + 1, seq - 1 FROM (SELECT *, lag(seq, 1, 0) OVER "
                "(PARTITION BY gateway, epoch, lane ORDER BY seq) AS before FROM rows) WHERE seq > before + 1"
            ).fetchall()
            return Counters(messages=self._messages, live=self._live, backlog=self._backlog, bad=self._bad,
                            duplicates=self._duplicates, gaps=tuple(gaps), **count)

    def readings(self) -> list[tuple[str, int, float | None, int, str, str]]:
        """(point, t, value, quality, reason, status) of every reading, in order of arrival."""
        return self.query("SELECT point, t, value, quality, reason, status FROM readings ORDER BY rowid")

    def events(self) -> list[dict[str, Any]]:
        """Every event as it came, in order of arrival."""
        return [json.loads(body) for (body,) in self.query("SELECT body FROM events ORDER BY rowid")]

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Ask the database."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def latest(self) -> dict[str, Latest]:
        """The newest reading of each point."""
        with self._lock:
            return {point: latest for (_, point), latest in self._latest.items()}

    def states(self) -> dict[str, dict[str, Any]]:
        """The last believed `state` of each gateway."""
        with self._lock:
            return dict(self._states)

    def retained(self) -> dict[str, dict[str, Any]]:
        """`birth`, `inventory/…` and `diag` as last seen."""
        with self._lock:
            return dict(self._retained)

    def warns(self) -> dict[str, dict[str, Any]]:
        """The last snapshot of each object."""
        with self._lock:
            return {name: body for (_, name), (body, _) in self._warns.items()}

    def colours(self, now_ms: int | None = None) -> dict[str, str]:
        """The colour to show for each object: ``grey`` when its snapshot is no longer valid."""
        now = _now_ms() if now_ms is None else now_ms
        with self._lock:
            out = {}
            for (_, name), (body, arrived) in self._warns.items():
                # A box without a clock cannot say until when; then it counts from the arrival.
                until = body["valid_until"] if body["clock"]["trust"] != "unset" else arrived + body["valid_s"] * 1000
                out[name] = body["colour"] if now <= until else "grey"
            return out


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    """Subscribe and print a line of counters a second until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m hil.county", description="reference subscriber")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--root", default="mingluo")
    parser.add_argument("--db", default="county.sqlite")
    parser.add_argument("--mqtt", choices=("5", "3.1.1"), default="5")
    options = parser.parse_args()
    with County(options.host, options.port, options.root, options.db, mqtt=options.mqtt) as county:
        try:
            while True:
                time.sleep(1)
                c = county.counters()
                colours = " ".join(f"{name}={colour}" for name, colour in sorted(county.colours().items()))
                print(f"rows {c.rows} readings {c.readings} (live {c.live}, backlog {c.backlog}) events {c.events} "
                      f"duplicates {c.duplicates} gaps {len(c.gaps)} {colours}", flush=True)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
