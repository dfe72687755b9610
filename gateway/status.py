"""The box as it stands, as one document, and as lines a person reads.

Owns: the shape of the status document and its plain-text form in Chinese and English. Promises: every section comes
from a callable and a section that fails says so in its own place; nothing here blocks or changes anything.
Never: keeps state, does I/O beyond asking a file system how full it is.

The document (all sections optional, all keys JSON; a part may add keys of its own):

* ``gateway``: id, name, version, epoch, pid, uptime_s, demo
* ``clock``: boot, trust, offset_ms, error_ms, utc_ms, synced_ago_s
* ``objects``: list of object, name, hazard, service, status, colour, alarm, alarm_colour, acknowledged, since_s, why,
  lost
* ``outputs``: list of output, on, colour, silenced, alarm, fault
* ``wires``: list of wire, driver, port, state (a worker's), error, devices: list of drivers.Health
* ``platforms``: list of platform, connected, error, rows, records
* ``journal``: epoch, bytes, max_bytes, error, flash (today_bytes, before_bytes, budget_bytes_day: written to the card)
* ``disk``: list of path, free_bytes, total_bytes
* ``workers``: list of Worker.report()
* ``errors``: section → what went wrong while asking for it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.model import Present
from gateway.worker import Worker

Lang = Literal["zh", "en"]
Document = dict[str, Any]
Section = Callable[[], object]


def document(sections: Mapping[str, Section]) -> Document:
    """Ask every section and put the answers side by side, as plain JSON-able values.

    A section that raises is left out and named under ``errors``: one part's bug must not blind the others.
    """
    found: Document = {}
    errors: dict[str, str] = {}
    for name, section in sections.items():
        try:
            found[name] = msgspec.to_builtins(section())
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return found | ({"errors": errors} if errors else {})


def objects(present: Present, t_ms: int) -> list[Document]:
    """Make the ``objects`` section of a snapshot, with ages in seconds at `t_ms` instead of monotonic times."""
    shown: list[Document] = []
    for one in present.objects:
        entry: Document = msgspec.to_builtins(one)
        entry["since_s"] = max(0.0, (t_ms - entry.pop("since_ms")) / 1000)
        shown.append(entry)
    return shown


def outputs(present: Mapping[str, Mapping[str, Any]]) -> list[Document]:
    """Make the ``outputs`` section of ``Outputs.present()``."""
    return [{"output": name, **shown} for name, shown in present.items()]


def workers(of: Iterable[Worker]) -> list[Document]:
    """Make the ``workers`` section."""
    return [dict(worker.report()) for worker in of]


def disk(paths: Iterable[str | Path]) -> list[Document]:
    """Make the ``disk`` section; a path that cannot be asked is shown with its error."""
    shown: list[Document] = []
    for path in paths:
        try:
            found = os.statvfs(path)
        except OSError as error:
            shown.append({"path": str(path), "error": error.strerror or str(error)})
        else:
            shown.append({"path": str(path), "free_bytes": found.f_bavail * found.f_frsize,
                          "total_bytes": found.f_blocks * found.f_frsize})
    return shown


WORDS: Mapping[str, tuple[str, str]] = {
    # word of the document: (zh, en)
    "none": ("正常", "none"), "blue": ("蓝", "BLUE"), "yellow": ("黄", "YELLOW"), "orange": ("橙", "ORANGE"),
    "red": ("红", "RED"), "unknown": ("未知", "unknown"),
    "commissioning": ("安装调试", "commissioning"), "trial": ("试运行", "trial"), "in_service": ("在役", "in service"),
    "maintenance": ("维护中", "maintenance"), "retired": ("停用", "retired"),
    "synced": ("已同步", "synced"), "holdover": ("守时", "holdover"), "unset": ("未校时", "unset"),
    "starting": ("启动中", "starting"), "running": ("正常", "running"), "waiting": ("等待重连", "waiting"),
    "failed": ("出错重试", "failed"), "silent": ("无响应", "silent"), "given_up": ("已放弃", "given up"),
    "stopped": ("已停止", "stopped"), "ok": ("正常", "ok"), "failing": ("异常", "failing"),
    "quarantined": ("隔离", "quarantined"),
    "objects": ("监测对象", "objects"), "outputs": ("输出", "outputs"), "wires": ("线路", "wires"),
    "platforms": ("平台", "platforms"), "storage": ("存储", "storage"), "workers": ("线程", "workers"),
    "errors": ("无法读取", "not readable"), "demo": ("演示", "demo"), "uptime": ("已运行", "up"),
    "clock": ("时钟", "clock"), "alarm": ("告警", "alarm"), "acknowledged": ("已确认", "acknowledged"),
    "unacknowledged": ("未确认", "not acknowledged"),
    "lost": ("数据缺失", "lost"), "on": ("动作", "ON"), "off": ("静止", "off"), "silenced": ("已消音", "silenced"),
    "fault": ("故障", "fault"), "answered": ("应答", "answered"), "connected": ("已连接", "connected"),
    "disconnected": ("未连接", "not connected"), "backlog": ("积压", "backlog"), "records": ("条", "records"),
    "journal": ("日志", "journal"), "free": ("剩余", "free"),
    "flash": ("今日写卡", "written today"), "before": ("前一日", "the day before"),
    "flash_unknown": ("写卡量未知", "written: not known"), "well": ("正常", "well"), "of": ("/", " of "),
    "timeout": ("建议应答超时", "wants an answer timeout of"), "reads_round": ("绕开", "reads round"),
    "restarts": ("重启", "restarts"), "limit": ("限值", "limit"), "for": ("持续", "for"), "days": ("天", "d"),
    "Exercise": ("演练", "EXERCISE"), "Test": ("测试", "TEST")}


def lines(status: Document, lang: Lang = "zh") -> list[str]:
    """Render the document as plain text, most urgent first. Unknown or missing parts are passed over."""
    def word(key: Any) -> str:
        pair = WORDS.get(str(key))
        return str(key) if pair is None else pair[lang == "en"]

    def section(name: str, entries: Iterable[list[str]]) -> list[str]:
        shown = ["  " + " · ".join(part for part in entry if part) for entry in entries]
        return [word(name), *shown] if shown else []

    text = [" · ".join(part for part in _head(status, word) if part)]
    ranked = sorted(status.get("objects", []), key=_urgency)
    text += section("objects", (_object(one, word) for one in ranked))
    text += section("outputs", (_output(one, word) for one in status.get("outputs", [])))
    text += section("wires", (entry for wire in status.get("wires", []) for entry in _wire(wire, word)))
    text += section("platforms", (_platform(one, word) for one in status.get("platforms", [])))
    text += section("storage", _storage(status, word))
    text += section("workers", _workers(status.get("workers", []), word))
    text += section("errors", ([f"{name}: {error}"] for name, error in status.get("errors", {}).items()))
    return text


Word = Callable[[Any], str]
URGENCY = ("red", "orange", "yellow", "blue", "unknown", "none")


def _urgency(one: Document) -> int:
    worst = [URGENCY.index(one.get(key, "none")) for key in ("colour", "alarm_colour")]
    return min(worst)


def _head(status: Document, word: Word) -> list[str]:
    box, clock = status.get("gateway", {}), status.get("clock", {})
    error = clock.get("error_ms")
    trust = f"{word('clock')} {word(clock['trust'])}" if "trust" in clock else ""
    return [f"{box.get('name', '')} ({box.get('id', '')})", str(box.get("version", "")),
            word("demo") if box.get("demo") else "",
            f"{word('uptime')} {_span(box['uptime_s'], word)}" if "uptime_s" in box else "",
            trust + (f" ±{error:.0f} ms" if error is not None else "")]


def _object(one: Document, word: Word) -> list[str]:
    status = one.get("status", "Actual")
    alarm = ""
    if one.get("alarm"):
        acknowledged = word("acknowledged" if one.get("acknowledged") else "unacknowledged")
        alarm = (f"{word('alarm')} {word(one.get('alarm_colour', 'none'))} {acknowledged}, "
                 f"{word('for')} {_span(one.get('since_s', 0.0), word)} [{one['alarm']}]")
    why = [f"{w['point']} {'?' if w.get('value') is None else format(w['value'], 'g')} {w['unit']} "
           f"({word('limit')} {w['limit']:g})" for w in one.get("why", [])]
    return [f"[{word(one.get('colour', 'unknown'))}] {one.get('name', '')} ({one.get('object', '')})",
            word(one.get("service", "")), "" if status == "Actual" else word(status), alarm, ", ".join(why),
            f"{word('lost')}: {', '.join(one['lost'])}" if one.get("lost") else ""]


def _output(one: Document, word: Word) -> list[str]:
    return [str(one.get("output", "")), word("on" if one.get("on") else "off"),
            word(one["colour"]) if one.get("colour", "none") != "none" else "",
            word("silenced") if one.get("silenced") else "",
            f"{word('fault')}: {one['fault']}" if one.get("fault") else ""]


def _wire(wire: Document, word: Word) -> Iterable[list[str]]:
    error = str(wire.get("error") or "") if wire.get("state") != "running" else ""
    yield [str(wire.get("wire", "")), " ".join(str(wire[key]) for key in ("driver", "port") if wire.get(key)),
           word(wire.get("state", "unknown")), error]
    for device in wire.get("devices", []):
        asked, ms, slow = device.get("asked", 0), device.get("response_ms"), device.get("response_p95_ms")
        errors = {kind: count for kind, count in device.get("errors", {}).items() if count}
        patience = device.get("timeout_ms") if errors.get("late") else None
        yield [f"  {device.get('device', '')} {word(device.get('state', 'unknown'))}",
               f"{word('answered')} {100 * device.get('answered', 0) / asked:.1f} %" if asked else "",
               f"{ms:.0f} ms" + (f" (95 % {slow:.0f} ms)" if slow is not None else "") if ms is not None else "",
               ", ".join(f"{kind}×{count}" for kind, count in errors.items()),
               f"{word('timeout')} {patience:.0f} ms" if patience else "",
               f"{word('reads_round')} {', '.join(device['refused'])}" if device.get("refused") else ""]


def _platform(one: Document, word: Word) -> list[str]:
    rows, records = one.get("rows"), one.get("records")
    backlog = "" if rows is None else f"{word('backlog')} {rows if records is None else records} {word('records')}"
    return [str(one.get("platform", "")), word("connected" if one.get("connected") else "disconnected"), backlog,
            str(one.get("error") or "")]


def _storage(status: Document, word: Word) -> Iterable[list[str]]:
    if journal := status.get("journal"):
        size = _size(journal["bytes"]) if "bytes" in journal else ""
        cap = f" / {_size(journal['max_bytes'])}" if "max_bytes" in journal else ""
        yield [word("journal") + (f" {journal['epoch']}" if journal.get("epoch") else ""), size + cap,
               _flash(journal.get("flash", {}), word), str(journal.get("error") or "")]
    for one in status.get("disk", []):
        yield [one["path"], one["error"] if "error" in one else f"{word('free')} {_size(one['free_bytes'])}"]


def _flash(flash: Document, word: Word) -> str:
    """Megabytes of 10^6, as the configuration counts them."""
    today, before, budget = (flash.get(key) for key in ("today_bytes", "before_bytes", "budget_bytes_day"))
    if today is None:
        return word("flash_unknown") if flash else ""
    return (f"{word('flash')} {today / 1e6:.1f}{word('of')}{budget / 1e6:g} MB" if budget else
            f"{word('flash')} {today / 1e6:.1f} MB") + (f", {word('before')} {before / 1e6:.1f} MB" if before else "")


def _workers(all_of: list[Document], word: Word) -> Iterable[list[str]]:
    if all_of:
        well = sum(one.get("state") in ("running", "starting") for one in all_of)
        restarts = sum(one.get("restarts", 0) for one in all_of)
        yield [f"{well}{word('of')}{len(all_of)} {word('well')}", f"{word('restarts')} {restarts}" if restarts else ""]
    for one in all_of:
        if one.get("state") not in ("running", "starting"):
            yield [f"{one.get('worker')} {word(one.get('state'))}", str(one.get("last_error") or "")]


def _span(seconds: float, word: Word) -> str:
    whole = int(seconds)
    days = f"{whole // 86400} {word('days')} " if whole >= 86400 else ""
    return f"{days}{whole % 86400 // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
