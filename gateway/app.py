"""The composition root: one configuration in, one running box out.

Owns: which concrete class plays which part, and the wiring between them. Promises: everything that can be wrong with
the set-up is said before a thread starts. Never: contains an `if` about data, does anything while the box runs.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import drivers
from drivers import strictyaml
from drivers.pins import open_relay
from gateway import control, heap, logs, rtc, site, status
from gateway.clock import BUILT_MS, Clock
from gateway.config import Platform
from gateway.corridor import Corridor
from gateway.detector import Detector, Scorer
from gateway.errands import Errands, Wire
from gateway.gnss import Gnss
from gateway.inbox import Inbox
from gateway.journal.journal import Journal, Recovered
from gateway.journal.rows import decode, decode_events
from gateway.judgement.detect.anomaly import Anomaly
from gateway.judgement.pipeline import Pipeline
from gateway.model import Command, Event, Row
from gateway.orders import Orders
from gateway.outputs import Outputs
from gateway.polls import polls as polls_of
from gateway.supervisor import Supervisor
from gateway.uplink import grace, profiles
from gateway.uplink.admission import Admission
from gateway.uplink.asking import Asking
from gateway.uplink.spent import Spent
from gateway.uplink.uplink import Sources, Uplink
from gateway.worker import Fault, Worker

log = logging.getLogger(__name__)

WIRE_PATIENCE_S = 30.0
"""The slowest exchange of the slowest line, and a tty that takes its time to open."""
WIRE_BACKOFF_S = (0.5, 5.0)
"""An adapter that is plugged in again is read within ten seconds, its opening included."""
SIREN_BACKOFF_S = (0.05, 1.0)
"""A bug on the siren's way costs what it met; what comes next must not wait for it."""
FLUSH_S = 4.0
"""What the disk gets for the last commit at a stop; below the writer's share of it."""
WRITER_PATIENCE_S = 300.0
"""A disk may stall for minutes; nothing else waits for it."""
UPLINK_PATIENCE_S = 60.0
"""Name look-up, connect and TLS hand-shake, each bounded, one after another."""
EX_CONFIG = 78
"""sysexits.h: something was wrong with the configuration."""


def new_id() -> str:
    """Return an id that is never given again, on any box."""
    return secrets.token_hex(8)


class Box:
    """Everything one configuration describes, wired up and not yet started.

    `scorer` replaces the detector's scorer (a drill, a measurement, a test).
    """

    def __init__(self, path: Path, scorer: Scorer | None = None) -> None:
        self.config = config = site.load(path)
        self.clock = clock = Clock(drift_ppm=config.clock.drift_ppm,
                                   unset_beyond_s=config.clock.unset_beyond_s)
        self._began_s = clock.now()
        self.version = metadata.version("mingluo")
        library = site.library(path)
        found = {wire.id: drivers.find(wire.driver) for wire in config.wires}
        described = {wire.id: found[wire.id].describe(wire, library) for wire in config.wires}
        infos = {f"{device}.{point}": info for devices in described.values()
                 for device, points in devices.items() for point, info in points.items()}
        self.pipeline = Pipeline(config, infos, new_id=new_id, now_s=clock.now())
        self.journal = Journal(
            config.journal.folder, config.journal.staging, config.gateway.id, boot=clock.door().boot, now=clock.now,
            new_epoch=new_id, platforms=[p.id for p in config.platforms], commit_s=config.journal.commit_s,
            max_bytes=config.journal.max_bytes, flash_bytes_day=config.journal.flash_mb_day * 1e6)
        self.recovered = self.journal.open()
        about_time = self._set_clock()
        ports: dict[str, Any] = {wire.id: getattr(wire, "port", "") for wire in config.wires}
        opened = {o.id: partial(open_relay, ports[o.wire], o.pin, o.active) for o in config.outputs}
        self.outputs = Outputs(config.outputs, _try_all(opened), clock.now, reopen=lambda output: opened[output]())
        self.inbox = Inbox()
        polls = polls_of(config)
        self.drivers = {wire.id: found[wire.id](wire, {d: polls[d] for d in described[wire.id] if d in polls},
                                                library, clock.now) for wire in config.wires}
        details = self.pipeline.infos()
        self.detector = Detector(scorer or Anomaly(np.array([i.resolution for i in details]),
                                                   np.array([i.counter for i in details])),
                                 lambda scores: self.corridor.ask(partial(self.pipeline.scores, scores)), clock.now)
        inventory = self.journal.adopt(self.pipeline.inventory())
        self.corridor = Corridor(
            self.inbox, self.pipeline, self.journal, inventory, follow=self.outputs.follow, door=clock.door,
            submit={device.id: self.drivers[wire.id].submit for wire in config.wires
                    for device in getattr(wire, "devices", ())},
            feed=self.detector.feed if config.detector.enabled else lambda _: None,
            lost=self._lost, unkept=self._unkept, each_second=self._each_second, now=clock.now)
        self.errands = Errands({wire.id: Wire(wire, self.drivers[wire.id]) for wire in config.wires},
                               present=lambda: self.corridor.present, sounding=self._sounding, record=self._record,
                               new_id=new_id, now=clock.now)
        self.orders = Orders(self.corridor.command, self.errands.order)
        self.nonce = new_id()
        self.uplinks = [self._uplink(platform, path.parent) for platform in config.platforms]
        self.control = control.Control(config.control.socket, {
            "status": lambda _: self.status(), "command": self._command, "wire": self.errands.ask,
            "lend": self.errands.lend})
        self.rooms = self._rooms()
        self.workers = [worker for room in self.rooms.values() for worker in room]
        self._resume(self.recovered, about_time)

    # --- the threads

    def _rooms(self) -> Mapping[str, list[Worker]]:
        now = self.clock.now
        return {
            "outputs": [Worker("outputs", self.outputs.step, patience_s=5.0, gates=True, now=now,
                               backoff_s=SIREN_BACKOFF_S, on_fault=self._tell_fault)],
            "pipeline": [Worker("pipeline", self.corridor.step, patience_s=10.0, gates=True, close=self.corridor.drain,
                                now=now, backoff_s=SIREN_BACKOFF_S, on_fault=self._tell_fault)],
            "detector": [Worker("detector", self.detector.step, patience_s=30.0, replace=False, now=now,
                                on_fault=self._tell_fault)],
            "writer": [Worker("writer", self._write, patience_s=WRITER_PATIENCE_S, replace=False, close=self._flush,
                              now=now, on_fault=self._tell_fault)],
            "uplink": [Worker(f"uplink {u.platform.id}", u.step, patience_s=UPLINK_PATIENCE_S, replace=False,
                              close=u.close, now=now, on_fault=self._tell_fault) for u in self.uplinks],
            "control": [Worker("control", self.control.step, patience_s=30.0, open=self.control.open,
                               close=self.control.close, now=now, on_fault=self._tell_fault)],
            "wire": [Worker(f"wire {wire}", partial(self._read, driver), patience_s=WIRE_PATIENCE_S, open=driver.open,
                            finish=partial(self._finish, driver), close=driver.close, now=now, backoff_s=WIRE_BACKOFF_S,
                            on_fault=partial(self._wire_fault, wire))
                     for wire, driver in self.drivers.items()]
            + [Worker("gnss", gnss.step, patience_s=WIRE_PATIENCE_S, open=gnss.open, close=gnss.close, now=now,
                      backoff_s=WIRE_BACKOFF_S, on_fault=self._tell_fault) for gnss in self._receivers()],
        }

    def _read(self, driver: drivers.Driver, timeout_s: float) -> None:
        if scans := driver.read(timeout_s):
            self.inbox.put(scans)

    def _finish(self, driver: drivers.Driver) -> None:
        if scans := driver.finish():
            self.inbox.put(scans)

    def _write(self, timeout_s: float) -> None:
        self.journal.write(timeout_s)

    def _flush(self) -> None:
        if not self.journal.flush(FLUSH_S):
            log.warning("journal not flushed within_s=%.0f effect=staging keeps it for the next start", FLUSH_S)

    def _wire_fault(self, wire: str, fault: Fault) -> None:
        self.corridor.ask(partial(self.pipeline.link, wire, fault.kind == "recovered", fault.text))

    def _tell_fault(self, fault: Fault) -> None:
        self.corridor.tell([self._fact("box.recovered" if fault.kind == "recovered" else "box.fault",
                                       f"线程 {fault.worker}：{fault.text}", f"thread {fault.worker}: {fault.text}",
                                       worker=fault.worker, trouble=fault.kind)])

    def _each_second(self) -> list[Event]:
        self.outputs.fault(bool(self.outputs.faults() or self.corridor.fault or self.journal.fault)
                           or any(worker.state not in ("starting", "running") for worker in self.workers))
        return self.clock.tick()

    # --- facts about the box itself

    def _sounding(self) -> frozenset[str]:
        """Wires on which a siren is driven now."""
        shown = self.outputs.present()
        return frozenset(output.wire for output in self.config.outputs
                         if output.kind == "siren" and shown.get(output.id, {}).get("on"))

    def _record(self, kind: str, zh: str, en: str, *, who: str = "", **why: Any) -> None:
        self.corridor.tell([msgspec.structs.replace(self._fact(kind, zh, en, **why), who=who)])

    def _fact(self, kind: str, zh: str, en: str, **why: Any) -> Event:
        return Event(id=new_id(), kind=kind, t_ms=round(self.clock.now() * 1000), text_zh=zh, text_en=en, why=why)

    def _lost(self, scans: int) -> Event:
        return self._fact("journal.gap", f"来不及处理，丢弃 {scans} 次应答",
                          f"{scans} answers came faster than they could be judged", count=scans, reason="overrun")

    def _unkept(self, records: int, error: str) -> Event:
        return self._fact("journal.gap", f"{records} 条记录无法保存，已丢弃：{error}",
                          f"{records} records could not be kept and were dropped: {error}", count=records,
                          reason="refused", error=error)

    def _resume(self, found: Recovered, about_time: list[Event]) -> None:
        """Carry on where the last process stopped: its latch sounds before the first new reading is taken."""
        start = self._fact("box.start", "网关启动", "the gateway has started", version=self.version,
                           epoch=found.epoch, reason=found.reason, replayed=found.replayed)
        self.journal.record(self.clock.door(), self.corridor.inventory, None, [*found.events, start, *about_time])
        if found.latch is None:
            return
        outage_s, age_s = found.silent_s, found.latch_age_s
        if outage_s is None:
            outage_s = self._ago_s(found.alive_utc_ms)
        if age_s is None:
            age_s = self._ago_s(found.latch_utc_ms)
        self.corridor.apply(self.pipeline.restore(found.latch, self.clock.now(), outage_s, age_s=age_s,
                                                  same_boot=found.latch_same_boot))

    # --- the time

    def _set_clock(self) -> list[Event]:
        """What is known of the time before anybody is asked; returns what is to be told of it."""
        clock, sure_ms = self.clock, self._sure_ms()
        clock.floor(sure_ms)
        # This boot knew it before the process was restarted; since when is not told, so the bound is that of all of it.
        if (known := self.journal.offset(clock.door().boot)) is not None:
            clock.offer("kept", *known, at_s=0.0)
        if self.config.clock.rtc:
            for chip in rtc.read(now=clock.now):
                if clock.offer("rtc", chip.offset_ms, chip.error_ms(sure_ms, self.config.clock.drift_ppm), chip.at_s):
                    break
        return clock.tick()

    def _sure_ms(self) -> int:
        """The latest UTC this box is sure to have lived."""
        return max(BUILT_MS, self.recovered.alive_utc_ms or 0)

    def _receivers(self) -> list[Gnss]:
        gnss = self.config.clock.gnss
        return [] if gnss is None else [Gnss(gnss.port, gnss.baud, partial(self.clock.offer, "gnss"), self.clock.now)]

    def _certificate_time(self) -> grace.Span | None:
        clock, grace_s = self.clock, 3600 * self.config.clock.tls_grace_h   # monotonic time begins with the system
        return grace.span(clock.door().trust, clock.utc_ms(round(clock.now() * 1000)), clock.error_ms or 0.0,
                          system_off_ms=clock.wall_off_ms, sure_ms=self._sure_ms(), grace=clock.now() <= grace_s)

    def _ago_s(self, utc_ms: int | None) -> float | None:
        if utc_ms is None or self.clock.door().trust == "unset":
            return None
        return max(0.0, (self.clock.utc_ms(round(self.clock.now() * 1000)) - utc_ms) / 1000)

    # --- the county's side

    def _uplink(self, platform: Platform, folder: Path) -> Uplink:
        gateway = self.config.gateway
        names = {point.id: point.name for watched in self.config.objects for point in watched.points}
        asking = Asking(partial(self.clock.offer, "broker"),
                        lambda: platform.time and self.clock.source not in ("gnss", "kernel"), self.clock.now)
        admission = Admission(self.nonce, self.clock.door, self.clock.now, partial(self.orders.do, platform.id))
        spent = Spent(Path(self.config.journal.folder), platform.id)
        return Uplink(platform, profiles.make(platform, gateway.root, gateway.id, names), Sources(
            reader=self.journal.reader(platform.id), decode=_decode, present=lambda: self.corridor.present,
            door=self.clock.door, birth=self._birth, health=self.status,
            report=partial(self._report, platform.id), hazards={o.id: o.hazard for o in self.config.objects},
            command=admission.take, certificate_time=self._certificate_time, time_question=asking.question,
            time_answered=asking.answered, spent=spent.read(), keep_spent=spent.write),
            site.secret(platform, folder), self.clock.now)

    def _report(self, platform: str, kind: str, why: dict[str, Any]) -> None:
        texts = {"text_zh": f"平台 {platform}", "text_en": f"platform {platform}"} | why
        facts = {key: value for key, value in why.items() if not key.startswith("text_")} | {"platform": platform}
        self.corridor.tell([self._fact(kind, texts["text_zh"], texts["text_en"], **facts)])

    def _birth(self) -> dict[str, Any]:
        return {"name": self.config.gateway.name, "version": self.version,
                "objects": [{"object": o.id, "name": o.name, "hazard": o.hazard, "code": o.code, "service": o.service,
                             "people": o.people, "position": o.position} for o in self.config.objects],
                "streams": self.journal.epochs(),
                "promises": {"commit_s": self.journal.commit_s}, "nonce": self.nonce}

    # --- the installer's side

    def status(self) -> dict[str, Any]:
        """The whole document of `mingluo status`."""
        gateway, now_s = self.config.gateway, self.clock.now()
        return status.document({
            "gateway": lambda: {"id": gateway.id, "name": gateway.name, "version": self.version,
                                "epoch": self.journal.health()["epoch"], "pid": os.getpid(), "demo": self.config.demo,
                                "uptime_s": round(now_s - self._began_s, 1)},
            "clock": self.clock.report,
            "objects": lambda: status.objects(self.corridor.present, round(now_s * 1000)),
            "outputs": lambda: status.outputs(self.outputs.present()),
            "wires": self._wires,
            "platforms": lambda: [msgspec.to_builtins(health) | {"rows": health.backlog_rows,
                                                                 "records": health.backlog_records}
                                  for health in (uplink.health() for uplink in self.uplinks)],
            "journal": self.journal.health,
            "disk": lambda: status.disk([self.config.journal.folder, self.config.journal.staging]),
            "workers": lambda: status.workers(self.workers),
            "pipeline": lambda: {"scans": self.corridor.scans, "waiting": len(self.inbox),
                                 "poisoned": self.pipeline.poisoned, "strangers": self.pipeline.strangers,
                                 "detector_missed": self.detector.missed},
        })

    def _wires(self) -> list[dict[str, Any]]:
        at = {worker.name: worker for worker in self.rooms["wire"]}
        return [{"wire": wire.id, "driver": wire.driver, "port": getattr(wire, "port", ""),
                 "state": at[f"wire {wire.id}"].state, "error": at[f"wire {wire.id}"].last_error,
                 "devices": self.drivers[wire.id].health()} for wire in self.config.wires]

    def _command(self, request: dict[str, Any]) -> control.Reply | control.Later:
        answers: list[control.Reply] = []
        asked = {key: value for key, value in request.items() if key not in ("do", "peer", "id")}
        # What a client says of itself is a claim; the kernel's word for it stands beside it.
        user = request["peer"]["user"]
        asked["who"] = user if asked.get("who") in (None, user) else f"{asked['who']} ({user})"
        try:
            command = msgspec.convert({**asked, "id": new_id()}, Command)
        except msgspec.ValidationError as error:
            return control.refusal(f"not a command: {error}", f"命令有误：{error}")
        self.corridor.command(command, lambda reply: answers.append(
            {"ok": reply.ok, "text_zh": reply.text_zh, "text_en": reply.text_en}))
        return lambda: answers[0] if answers else None


def _try_all(opened: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Open what can be opened; an output that cannot is tried again while the box runs."""
    relays = {}
    for name, open_it in opened.items():
        try:
            relays[name] = open_it()
        except drivers.LinkError as error:
            log.error("output not opened output=%s error=%s", name, error)
    return relays


def _decode(row: Row) -> Any:
    return (decode if row.lane == "data" else decode_events)(row.body)


def metrics_of(box: Box) -> Callable[[], None]:
    """Serve /metrics on the loopback when the configuration asks for it; return what ends it."""
    port = box.config.control.metrics_port
    if port is None:
        return lambda: None
    from gateway.metrics import serve  # prometheus-client is loaded only when wanted

    return serve(port, box.status)


def run(path: str, scorer: Scorer | None = None) -> int:
    """Run the box of a configuration until it is told to stop; return the exit code."""
    heap.share()
    end_logs = logs.begin()
    try:
        box = Box(Path(path), scorer)
        heap.settle()
        stop_metrics = metrics_of(box)
        try:
            return Supervisor(box.rooms).run()
        finally:
            stop_metrics()
            box.outputs.close()
            box.journal.close()
    except (strictyaml.Problems, drivers.SetupError) as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    except BlockingIOError as error:
        sys.stderr.write(f"{path}: another gateway is running on this journal: {error} (systemctl status mingluo)\n")
        return 1
    finally:
        end_logs()
