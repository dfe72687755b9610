"""Listens to the boxes of a county, keeps what they say, and answers them.

Owns: one MQTT session and one database. Promises: a message is acknowledged after it is stored; several processes may
share the work (`share`) and the database; what cannot be read is counted, logged once a kind and acknowledged, because
the broker would only bring it again. Never: judges a reading.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

from msgspec import Struct, json
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.county import errands, messages
from gateway.county.store import Store

log = logging.getLogger(__name__)

_BATCH = 200
"""Messages in one transaction at most."""
_EVERY_S = 2.0
"""How often holes are looked for and receipts sent."""
_EARLY_S = 30.0
"""How long a compact message waits for its inventory."""
KEPT = ("state", "birth", "inventory", "warn", "diag")


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000


class Address(Struct, frozen=True, kw_only=True):
    """The broker, and how to get in."""

    host: str = "127.0.0.1"
    port: int = 1883
    root: str = "mingluo"
    client_id: str = "county"
    share: str = ""
    """Name of the group that shares the work; empty = alone."""
    username: str | None = None
    password: str | None = None
    tls: tuple[str, str | None, str | None] | None = None
    """CA, certificate and key file."""
    receipts: bool = True
    """Whether storage is confirmed to the boxes."""
    answers_only: bool = False
    """Only to send commands and hear their answers; leaves no session behind."""


class Subscriber:
    """One process's share. `start`, then `step` again and again, then `stop`; one thread."""

    def __init__(self, address: Address, store: Store, *, now_ms: Callable[[], int] = _utc_ms,
                 now: Callable[[], float] = time.monotonic) -> None:
        self.address, self.store = address, store
        self._base = f"{address.root}/1/"
        self.counts: Counter[str] = Counter()
        self._now_ms, self._now = now_ms, now
        self._inventories: dict[tuple[str, int], list[str | None]] = {}
        self._births: dict[str, dict[str, Any]] = {}
        for gateway, name, _, said in store.present():
            self._learn(gateway, name, said)
        self._asking = errands.Asking()
        self._told: dict[str, bytes] = {}
        self._inbox: list[MQTTMessage] = []
        self._early: list[tuple[float, MQTTMessage]] = []
        self._complained: set[str] = set()
        self._look_at_s = now()
        self._subscribed = False
        client = self._client = Client(CallbackAPIVersion.VERSION2, address.client_id, manual_ack=True,
                                       protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            client.tls_set(*address.tls)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = lambda _client, _data, message: self._inbox.append(message)

    # MQTT

    def start(self, timeout_s: float = 10.0) -> Self:
        """Connect and subscribe.

        Raises:
            OSError: nobody listens there. TimeoutError: the subscription was not confirmed in time.
        """
        self._connect()
        deadline_s = self._now() + timeout_s
        while not self._subscribed:
            if self._now() > deadline_s or self._client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise TimeoutError(f"no subscription at {self.address.host}:{self.address.port}; is the broker up, "
                                   "does it speak MQTT 5, are user name and password right?")
        return self

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        alone = self.address.answers_only
        properties.SessionExpiryInterval = 0 if alone else 7 * 86400   # the broker keeps messages while we are away
        properties.ReceiveMaximum = _BATCH
        self._client.connect(self.address.host, self.address.port, 30, clean_start=alone, properties=properties)

    def _on_connect(self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.error("the broker refuses us reason=%s", reason.getName())
            return
        base, once = f"{self._base}+/", SubscribeOptions(qos=1)
        if self.address.answers_only:
            client.subscribe([(f"{base}birth", once), (f"{base}resp/+", once)])
            return
        shared = f"$share/{self.address.share}/" if self.address.share else ""
        client.subscribe([(f"{shared}{base}{kind}", once) for kind in (*messages.KINDS, "time/ask")]
                         + [(f"{base}{kind}", once) for kind in ("state", "birth", "inventory/+", "warn/+", "diag",
                                                                 "resp/+")])

    def _on_subscribe(self, _client: Client, _data: Any, _mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        refused = [reason.getName() for reason in reasons if reason.is_failure]
        if refused:
            log.error("subscriptions are refused reasons=%s", ", ".join(refused))
        self._subscribed = not refused

    def step(self, timeout_s: float = 0.2) -> None:
        """Take what has come, store it, acknowledge it, and do what is due. Reconnects by itself."""
        wait_s = timeout_s
        while (before := len(self._inbox)) < _BATCH:
            if self._client.loop(wait_s) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._again(timeout_s)
                break
            if len(self._inbox) == before:
                break
            wait_s = 0.0
        self._take()
        if self._now() >= self._look_at_s and not self.address.answers_only:
            self._look_at_s = self._now() + _EVERY_S
            self._look()

    def _again(self, timeout_s: float) -> None:
        self._inbox.clear()   # not acknowledged, so they come again
        self._early.clear()
        self._subscribed = False
        try:
            self._connect()
        except OSError as error:
            if "away" not in self._complained:
                self._complained.add("away")
                log.warning("the broker is away error=%s", error)
            time.sleep(min(1.0, timeout_s))
        else:
            self._complained.discard("away")

    def stop(self) -> None:
        """Leave; the session stays with the broker, so nothing is missed."""
        self._take()
        self._client.disconnect()
        self._client.loop(0.1)

    # what came

    def _take(self) -> None:
        inbox, self._inbox = self._inbox, []
        now_s, rows, acks = self._now(), list[messages.Rows](), list[MQTTMessage]()
        waiting, self._early = self._early, []
        for message in [*inbox, *(early for _, early in waiting)]:
            self.counts["messages"] += 1
            try:
                gateway, name = message.topic.removeprefix(self._base).split("/", 1)
                if name in messages.KINDS:
                    rows.append(self._rows(gateway, bytes(message.payload)))
                else:
                    self._present(gateway, name, messages.body(bytes(message.payload)) if message.payload else {})
            except messages.UnknownInventoryError as error:
                since_s = next((at for at, early in waiting if early is message), now_s)
                if now_s - since_s < _EARLY_S:
                    self._early.append((since_s, message))
                    continue
                self._unreadable(message, error)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                self._unreadable(message, error)
            acks.append(message)
        if rows:
            for kept in self.store.keep(rows, self._now_ms()):
                self.counts.update(rows=kept.rows, readings=kept.readings, events=kept.events,
                                   duplicates=kept.duplicates)
        for message in acks:
            if message.qos:
                self._client.ack(message.mid, message.qos)

    def _rows(self, gateway: str, payload: bytes) -> messages.Rows:
        message = messages.rows(payload, lambda n: self._inventories.get((gateway, n)))
        if message.gateway != gateway:
            raise ValueError(f"it speaks for {message.gateway}, on the topic of {gateway}")
        return message

    def _present(self, gateway: str, name: str, said: dict[str, Any]) -> None:
        kind = name.partition("/")[0]
        if said and said.get("gateway") != gateway:
            raise ValueError(f"it speaks for {said.get('gateway')!r}, on the topic of {gateway}")
        if name == "time/ask":
            self._say(gateway, "time/answer", {"v": 1, "id": str(said["id"])[:64], "utc_ms": self._now_ms()}, qos=0)
        elif kind == "resp":
            self._answered(gateway, said)
        elif kind in KEPT and said:
            if kind == "state" and not said["online"]:
                known = self.store.present("state", gateway)
                # A last will can overtake a fresh birth: an offline counts only for the session last seen online.
                if known and known[0][3]["session"] != said["session"]:
                    return
            self._learn(gateway, name, said)
            self.store.show(gateway, name, said, self._now_ms())

    def _learn(self, gateway: str, name: str, said: dict[str, Any]) -> None:
        if name.startswith("inventory/"):
            self._inventories[gateway, int(said["inventory"])] = [p and str(p["point"]) for p in said["points"]]
        elif name == "birth":
            self._births[gateway] = said

    def _unreadable(self, message: MQTTMessage, error: Exception) -> None:
        self.counts["unreadable"] += 1
        kind = message.topic.rsplit("/", 1)[-1]
        if kind not in self._complained and len(self._complained) < 100:
            self._complained.add(kind)
            log.warning("unreadable message topic=%s error=%s", message.topic, error)

    # what is due

    def _look(self) -> None:
        """Ask for what is missing, confirm what is stored."""
        accounted, now_s = self.store.accounted(), self._now()
        missing = errands.holes(accounted, self._births, self.store.written_off())
        self._asking.filled(missing)
        for (gateway, epoch, lane), spans in missing.items():
            if ranges := self._asking.due((gateway, epoch, lane), spans, now_s):
                self.counts["replays"] += 1
                self.command(gateway, "replay", "county", "platform", epoch=epoch, lane=lane, ranges=ranges)
        if self.address.receipts:
            for gateway in {stream[0] for stream in accounted}:
                said = errands.receipt(accounted, gateway)
                if self._told.get(gateway) != (body := json.encode(said)):
                    self._told[gateway] = body
                    self._say(gateway, "stored", said)

    def command(self, gateway: str, name: str, by: str, role: str, *, expires_s: float = 60.0, **arguments: Any) -> str:
        """Ask something of a box; returns the id under which `commands` will have the answer."""
        now, nonce = self._now_ms(), str(self._births.get(gateway, {}).get("nonce", ""))
        body = {"v": 1, "id": secrets.token_hex(8), "by": by, "role": role, "nonce": nonce,
                "expires": now + round(expires_s * 1000), **arguments}
        with self.store.db.within():
            self.store.db.run("INSERT INTO commands VALUES (?,?,?,?,NULL,NULL,'')", (gateway, body["id"], name, now))
        self._say(gateway, f"cmd/{name}", body)
        return str(body["id"])

    def _answered(self, gateway: str, said: dict[str, Any]) -> None:
        with self.store.db.within():
            self.store.db.run("UPDATE commands SET answered_ms = ?, ok = ?, text = ? WHERE gateway = ? AND id = ?",
                              (self._now_ms(), int(bool(said["ok"])), str(said.get("text_zh", "")), gateway,
                               said["id"]))
        if gone := said.get("gone"):
            self.store.write_off((gateway, said["epoch"], said["lane"]), [(int(a), int(b)) for a, b in gone],
                                 self._now_ms())

    def _say(self, gateway: str, name: str, body: dict[str, Any], qos: int = 1) -> None:
        self._client.publish(f"{self._base}{gateway}/{name}", json.encode(body), qos=qos)
