"""The status document as Prometheus metrics, on loopback, only when asked for.

Owns: names, kinds and labels of the metrics. Promises: a colour is a label, never a number (standards number
levels in opposite directions); nothing is imported or opened until `serve` is called.
Never: measures anything itself, listens on another address than 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from gateway.model import Colour
from gateway.status import Document

Sample = tuple[Mapping[str, str], float]


class Family(NamedTuple):
    """One metric: a name without ``_total``, its kind, a help line, and (labels, value) pairs."""

    name: str
    kind: Literal["gauge", "counter"]
    text: str
    samples: list[Sample]


def families(status: Document) -> list[Family]:
    """Turn a status document into metrics; what it does not hold is left out, never shown as zero."""
    return [family for family in (*_box(status), *_objects(status), *_field(status), *_county(status),
                                  *_workers(status)) if family.samples]


def serve(port: int, status: Callable[[], Document]) -> Callable[[], None]:
    """Answer ``GET /metrics`` on 127.0.0.1:`port` from now on; `status` is called in the server's own threads.

    Returns the function that ends it. Port 0 is refused by the configuration, not here.

    Raises:
        OSError: the port is taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Box(Collector):
        def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
            for name, kind, text, samples in families(status()):
                labels = list(samples[0][0])
                metric = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
                for found, value in samples:
                    metric.add_metric([found[label] for label in labels], value)
                yield metric

        def describe(self) -> Iterable[GaugeMetricFamily]:
            return ()

    registry = CollectorRegistry()
    registry.register(Box())
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return close


def _gauge(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], Any]]) -> Family:
    return Family(f"mingluo_{name}", "gauge", text, [(labels, float(v)) for labels, v in samples if v is not None])


def _counter(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], Any]]) -> Family:
    return _gauge(name, text, samples)._replace(kind="counter")


def _box(status: Document) -> Iterable[Family]:
    box, clock, journal = (status.get(name, {}) for name in ("gateway", "clock", "journal"))
    yield _gauge("info", "Which box and software this is", [
        ({"gateway": str(box["id"]), "version": str(box.get("version", "")), "boot": str(clock.get("boot", "")),
          "epoch": str(box.get("epoch", ""))}, 1)] if box.get("id") else [])
    yield _gauge("uptime_seconds", "Time since the process started", [({}, box.get("uptime_s"))])
    yield _gauge("clock_trust", "1 for the word of trust that holds", [
        ({"trust": trust}, clock["trust"] == trust) for trust in ("synced", "holdover", "unset") if "trust" in clock])
    error_ms = clock.get("error_ms")
    yield _gauge("clock_error_seconds", "The kernel's bound on the wall clock's error", [
        ({}, None if error_ms is None else error_ms / 1000)])
    yield _gauge("journal_bytes", "Size of the journal", [({}, journal.get("bytes"))])
    yield _gauge("journal_limit_bytes", "What the journal may grow to", [({}, journal.get("max_bytes"))])
    flash = journal.get("flash", {})
    yield _gauge("journal_written_today_bytes", "Written to the card since midnight", [({}, flash.get("today_bytes"))])
    yield _gauge("journal_written_limit_bytes", "What may be written in a day", [({}, flash.get("budget_bytes_day"))])
    disks = [one for one in status.get("disk", []) if "error" not in one]
    yield _gauge("disk_free_bytes", "Room left", [({"path": one["path"]}, one.get("free_bytes")) for one in disks])
    yield _gauge("status_section_failed", "1 for a section of the status that cannot be had", [
        ({"section": name}, 1) for name in status.get("errors", {})])


def _objects(status: Document) -> Iterable[Family]:
    objects = status.get("objects", [])
    yield _gauge("object_colour", "1 for the colour the rules say now", [
        ({"object": one["object"], "colour": colour.value}, one.get("colour") == colour)
        for one in objects for colour in Colour])
    yield _gauge("object_alarm_active", "1 while the object has an alarm", [
        ({"object": one["object"]}, bool(one.get("alarm"))) for one in objects])
    yield _gauge("object_alarm_acknowledged", "1 once somebody has acknowledged the alarm", [
        ({"object": one["object"]}, bool(one.get("acknowledged"))) for one in objects if one.get("alarm")])
    yield _gauge("object_in_service", "1 while the object may sound its siren", [
        ({"object": one["object"]}, one.get("service") == "in_service") for one in objects])
    yield _gauge("object_points_lost", "Points without a believable value", [
        ({"object": one["object"]}, len(one.get("lost", ()))) for one in objects])
    outputs = status.get("outputs", [])
    yield _gauge("output_on", "1 while the output is driven", [
        ({"output": one["output"]}, bool(one.get("on"))) for one in outputs])
    yield _gauge("output_fault", "1 while the relay does not obey", [
        ({"output": one["output"]}, bool(one.get("fault"))) for one in outputs])


def _field(status: Document) -> Iterable[Family]:
    wires = status.get("wires", [])
    yield _gauge("wire_up", "1 while the wire is open and read", [
        ({"wire": wire["wire"]}, wire.get("state") == "running") for wire in wires])
    devices = [({"wire": str(wire["wire"]), "device": str(device["device"])}, device)
               for wire in wires for device in wire.get("devices", [])]
    yield _gauge("device_ok", "1 while the device answers", [(at, one.get("state") == "ok") for at, one in devices])
    yield _counter("device_asked", "Requests sent", [(at, one.get("asked")) for at, one in devices])
    yield _counter("device_answered", "Requests answered well", [(at, one.get("answered")) for at, one in devices])
    yield _counter("device_errors", "Requests without a usable answer, by kind", [
        (at | {"kind": str(kind)}, count) for at, one in devices for kind, count in one.get("errors", {}).items()])
    yield _gauge("device_response_seconds", "Median response time of recent answers", [
        (at, one["response_ms"] / 1000) for at, one in devices if one.get("response_ms") is not None])
    yield _gauge("device_response_p95_seconds", "95 % of recent answers came within this", [
        (at, one["response_p95_ms"] / 1000) for at, one in devices if one.get("response_p95_ms") is not None])
    yield _gauge("device_poll_slip_seconds", "95 % of recent polls began no later than this after they were due", [
        (at, one["slip_ms"] / 1000) for at, one in devices if one.get("slip_ms") is not None])
    yield _counter("device_polls_missed", "Polls skipped because wire or device was not free in time", [
        (at, one.get("missed")) for at, one in devices])


def _county(status: Document) -> Iterable[Family]:
    platforms = [({"platform": str(one["platform"])}, one) for one in status.get("platforms", [])]
    yield _gauge("platform_connected", "1 while connected", [(at, bool(one.get("connected"))) for at, one in platforms])
    yield _gauge("platform_backlog_rows", "Rows not yet taken", [(at, one.get("rows")) for at, one in platforms])
    yield _gauge("platform_backlog_records", "Records not yet taken", [
        (at, one.get("records")) for at, one in platforms])


def _workers(status: Document) -> Iterable[Family]:
    workers = [({"worker": str(one["worker"])}, one) for one in status.get("workers", [])]
    yield _gauge("worker_up", "1 while the thread is at work", [
        (at, one.get("state") in ("running", "starting")) for at, one in workers])
    yield _gauge("worker_beat_age_seconds", "Time since the last sign of life", [
        (at, one.get("beat_age_s")) for at, one in workers])
    yield _counter("worker_restarts", "Times it was taken up again after a fault", [
        (at, one.get("restarts")) for at, one in workers])
    yield _counter("worker_replaced", "Threads left behind", [(at, one.get("replaced")) for at, one in workers])
