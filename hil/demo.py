"""`mingluo demo`: the real gateway on simulated wires, a story of about a minute, and a count at the end.

Owns: the story's clock, the screen and the summary. Promises: the summary is counted from the simulators' own log and
the county's database, never from the gateway's counters; a loss is a non-zero exit. Never: helps the gateway.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway import client
from hil.audit import Audit
from hil.rig import Rig
from hil.story import STORY, Deed

CONFIG = Path(__file__).resolve().parent.parent / "config" / "demo.yaml"
START = {"rain": {"total": 12.4}, "crack": {"displacement": 3.0}, "gas": {"concentration": 1.0}}
RAIN_MM, STEP_S, FRAME_S = 0.1, 0.05, 0.25
SIREN_PIN, RED_MM = 17, 60.0
STYLE = {"none": "green", "blue": "bold blue", "yellow": "bold yellow", "orange": "bold dark_orange", "red": "bold red",
         "unknown": "bold magenta"}
ZH = {"none": "正常", "blue": "蓝色", "yellow": "黄色", "orange": "橙色", "red": "红色", "unknown": "未知"}
WORDS = {
    "object": ("对象", "object"), "colour": ("颜色", "colour"), "alarm": ("告警", "alarm"), "point": ("测点", "point"),
    "value": ("数值", "value"), "siren": ("输出", "outputs"), "county": ("县平台收到", "the county has"),
    "backlog": ("积压", "backlog"), "wires": ("线路", "wires"), "ack": ("已确认", "acknowledged"),
    "sounding": ("警报器在响！", "THE SIREN SOUNDS"), "net": ("网络", "network"),
    "cut": ("已断开", "CUT"), "up": ("通", "up"), "readings": ("读数", "readings"), "live": ("实时", "live"),
    "late": ("补传", "backlog"), "broker": ("消息服务器", "broker"), "log": ("经过", "so far"),
    "on": ("动作", "ON"), "off": ("静止", "off"), "silenced": ("已消音", "silenced"),
}


class Demo:
    """One run. `run` returns the exit code: 0 only when everything that was on a wire is at the county."""

    def __init__(self, *, screen: TextIO, folder: Path | None = None, forever: bool = False, as_json: bool = False,
                 lang: Literal["zh", "en"] = "zh", config: Path = CONFIG, broker: Any = None) -> None:
        self._folder, self._config, self._broker = folder, config, broker
        self._forever, self._json, self._zh = forever, as_json, lang == "zh"
        self._console = Console(file=screen, highlight=False)
        self._told: list[str] = []
        self._rates = {"rain": 0.0, "creep": 0.0}
        self._gauge, self._crack = START["rain"]["total"], START["crack"]["displacement"]

    def run(self) -> int:
        """Play the story, count, print."""
        with tempfile.TemporaryDirectory(prefix="mingluo-demo-") as scratch:
            folder = self._folder or Path(scratch)
            with Rig(self._config, folder, broker=self._broker) as rig:
                for device, values in START.items():
                    for point, value in values.items():
                        rig.slaves[device].set(point, value)
                rig.pins.drive(23, "high")
                rig.pins.drive(24, "high")
                self._tell(f"broker: {rig.broker.kind}")
                rig.start()
                rig.wait("the first reading", lambda: rig.county.counters().readings, 30)
                first_s = time.monotonic() - rig.started_s
                interrupted = self._play(rig)
                code = rig.stop()
                summary = self._count(rig, first_s, code)
        if interrupted and not self._forever:
            summary["interrupted"] = True
        self._print(summary)
        return 0 if summary["ok"] else 1

    # --- the story

    def _play(self, rig: Rig) -> bool:
        began_s = time.monotonic()
        deeds, last_s = list(STORY), began_s
        live = None if self._json or not self._console.is_terminal else Live(
            console=self._console, auto_refresh=False, transient=True)
        stop = threading.Event()
        try:
            with live or nullcontext():
                drawn_s = 0.0
                while True:
                    now_s = time.monotonic()
                    self._weather(rig, now_s - last_s)
                    last_s = now_s
                    while deeds and now_s - began_s >= deeds[0].at_s:
                        if deeds[0].what == "end" and not self._forever:
                            return False
                        self._do(rig, deeds.pop(0))
                    if rig.gateway.poll() is not None:
                        return False
                    if live is not None and now_s - drawn_s >= FRAME_S:
                        live.update(self._picture(rig, now_s - began_s), refresh=True)
                        drawn_s = now_s
                    stop.wait(STEP_S)
        except KeyboardInterrupt:
            return True

    def _weather(self, rig: Rig, seconds: float) -> None:
        """Let rain fall and the slope creep; the sensors know it at once."""
        self._gauge += self._rates["rain"] * seconds
        self._crack += self._rates["creep"] * seconds
        rig.slaves["rain"].set("total", int(self._gauge / RAIN_MM) * RAIN_MM)
        rig.slaves["crack"].set("displacement", self._crack)

    def _do(self, rig: Rig, deed: Deed) -> None:
        self._tell(deed.zh if self._zh else deed.en)
        match deed.what:
            case "rain" | "creep":
                self._rates[deed.what] = float(deed.argument)
            case "press":
                rig.pins.drive(24, "low")
                threading.Timer(0.3, rig.pins.drive, (24, "high")).start()
            case "cut":
                rig.network.cut()
            case "restore":
                rig.network.restore()
            case "unplug":
                rig.slaves[str(deed.argument)].unplug()
            case "plug":
                rig.slaves[str(deed.argument)].plug()

    def _tell(self, text: str) -> None:
        self._told.append(f"{time.strftime('%H:%M:%S')}  {text}")
        if not self._json and not self._console.is_terminal:
            self._console.print(self._told[-1])

    # --- the screen

    def _word(self, key: str) -> str:
        return WORDS[key][0 if self._zh else 1]

    def _colour(self, colour: str) -> Text:
        return Text(ZH.get(colour, colour) if self._zh else colour, style=STYLE.get(colour, ""))

    def _picture(self, rig: Rig, elapsed_s: float) -> Group:
        try:
            status: Mapping[str, Any] = client.ask(rig.folder / "run/control.sock", {"do": "status"}, 1.0)
        except OSError:
            status = {}
        latest = rig.county.latest()
        counters = rig.county.counters()
        word = self._word
        table = Table(expand=True, pad_edge=False)
        for head in ("object", "colour", "alarm", "point", "value"):
            table.add_column(word(head), no_wrap=head != "object")
        for shown in status.get("objects", ()):
            watched = next(o for o in rig.site["objects"] if o["id"] == shown["object"])
            alarm = self._colour(shown["alarm_colour"]) if shown["alarm"] else Text("")
            if shown["acknowledged"]:
                alarm.append(f" {word('ack')}")
            for n, point in enumerate(watched["points"]):
                newest = latest.get(point["id"])
                value = "" if newest is None else str(newest.value) if newest.value is not None else newest.reason
                table.add_row(*((shown["name"], self._colour(shown["colour"]), alarm) if not n else ("", "", "")),
                              point["name"], value, end_section=n == len(watched["points"]) - 1)
        outputs = Text("  ".join(f"{o['output']}: {word('on' if o['on'] else 'off')}"
                                 + (f" ({word('silenced')})" if o.get("silenced") else "")
                                 for o in status.get("outputs", ())))
        sounding = any(o["on"] for o in status.get("outputs", ()) if o["output"].startswith("siren"))
        outputs.append(f"   {word('sounding')}" if sounding else "", style="bold white on red")
        backlog = sum(p["records"] for p in status.get("platforms", ()))
        wires = "  ".join(f"{d['device']} {d['state']} {d['answered']}/{d['asked']}"
                          for w in status.get("wires", ()) for d in w["devices"])
        network = word("cut") if rig.network.is_cut else word("up")
        arrived = (f"{counters.readings} {word('readings')}: {counters.live} {word('live')}, "
                   f"{counters.backlog} {word('late')}; {rig.broker.kind}")
        lines = Table.grid(padding=(0, 2))
        for left, right in (
                (word("siren"), outputs), (word("wires"), wires), (word("net"), network),
                (word("backlog"), f"{backlog} {word('readings')}"),
                (word("county"), arrived),
        ):
            lines.add_row(left, right)
        title = f"鸣锣 Mingluo · {rig.site['gateway']['name']} · {elapsed_s:4.0f} s"
        return Group(Panel(Group(table, lines), title=title),
                     Panel("\n".join(self._told[-8:]), title=word("log")))

    # --- the count

    def _count(self, rig: Rig, first_s: float, code: int | None) -> dict[str, Any]:
        """Compare the wires with the county's database; the gateway is not asked."""
        audit: Audit = rig.audit()
        counters = rig.county.counters()
        delay_ms = siren_delay_ms(rig)
        kinds = [event["kind"] for event in rig.county.events()]
        return {
            "ok": code == 0 and not audit.lost and not audit.invented and not counters.gaps and not counters.bad
            and delay_ms is not None and audit.matched > 0 and "alarm.acknowledged" in kinds,
            "broker": rig.broker.kind,
            "on_the_wire": audit.matched + len(audit.lost), "at_the_county": audit.matched,
            "lost": len(audit.lost), "invented": len(audit.invented), "by_point": dict(audit.by_point),
            "live": counters.live, "backlog": counters.backlog, "duplicates_dropped": counters.duplicates,
            "gaps": len(counters.gaps), "events": len(kinds), "alarms": kinds.count("alarm.raised"),
            "acknowledged": kinds.count("alarm.acknowledged"),
            "siren_delay_ms": delay_ms, "first_reading_s": round(first_s, 2), "exit_code": code,
        }

    def _print(self, summary: dict[str, Any]) -> None:
        if self._json:
            self._console.print(json.dumps(summary, ensure_ascii=False), soft_wrap=True)
            return
        delay = summary["siren_delay_ms"]

        def pair(one: str, other: str) -> str:
            return f"{summary[one]} / {summary[other]}"

        rows = (
            ("broker", "消息服务器", summary["broker"]),
            ("readings on the wire (simulators' log)", "线上读数（模拟器自己的记录）", summary["on_the_wire"]),
            ("readings at the county (its database)", "县里收到（县数据库）", summary["at_the_county"]),
            ("lost", "丢失", summary["lost"]),
            ("at the county but never on the wire", "无中生有", summary["invented"]),
            ("live / backlog (with missing values)", "实时 / 补传（含缺测）", pair("live", "backlog")),
            ("duplicates dropped / gaps", "去重 / 缺口", pair("duplicates_dropped", "gaps")),
            ("last byte on the wire → siren", "线上最后一字节 → 警报响", "-" if delay is None else f"{delay:.1f} ms"),
            ("start → first reading at the county", "启动 → 县里收到首个读数", f"{summary['first_reading_s']:.2f} s"),
        )
        table = Table(show_header=False, box=None, pad_edge=False)
        for en, zh, value in rows:
            table.add_row(zh if self._zh else en, str(value))
        self._console.print(table)
        verdict = ("全部送达，一条不丢", "everything arrived, nothing was lost") if summary["ok"] else (
            "有问题：见上", "NOT all is well: see above")
        self._console.print(verdict[0 if self._zh else 1], style="bold green" if summary["ok"] else "bold red")


def siren_delay_ms(rig: Rig) -> float | None:
    """Milliseconds from the last byte of the answer that made it red to the siren's pin; None if it never sounded."""
    edges = [e.at_s for e in rig.pins.edges if e.pin == SIREN_PIN and e.function == "output" and e.state]
    for edge_s in edges:
        before = [s.at_s for s in rig.said if s.at_s <= edge_s and s.values.get("displacement", 0.0) >= RED_MM]
        if before:
            return round(1000 * (edge_s - before[-1]), 2)
    return None

