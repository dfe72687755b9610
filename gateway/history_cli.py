"""`mingluo history`: what some points measured between two times, on the box or from a copied journal.

Owns: its arguments and how readings look. Promises: a gap is a line of its own; a value that stands for several says
for how many. Never: writes, asks the gateway: it may run or not.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from gateway.journal.archive import Archive
from gateway.journal.history import Asked, History, Series, history
from gateway.journal_cli import Config, Folder, Lang, date, moment, telling, where

_ZH: Mapping[str, str] = {
    "good": "正常", "not_evaluated": "未评判", "suspect": "可疑", "fail": "失败", "missing": "缺失",
    "no_answer": "无应答", "bad_crc": "校验错", "foreign_answer": "他人应答", "refused": "拒绝", "busy": "忙",
    "link_down": "线路中断", "quarantined": "隔离", "borrowed": "借出", "no_data": "无数据", "warm_up": "预热",
    "sensor_fault": "传感器故障", "unit_mismatch": "单位不符", "not_a_number": "非数", "out_of_range": "超出范围",
    "saturated": "饱和", "over_range": "超上限", "under_range": "超下限", "rate": "变化过快", "flat_line": "数值不变",
    "stale": "陈旧", "Actual": "实测", "Exercise": "演练", "Test": "测试"}
_HEAD = (("时间", "数值", "最小", "最大", "读数", "不可用", "质量"),
         ("time", "value", "least", "most", "of", "bad", "quality"))


def show_history(
    point: Annotated[list[str] | None, typer.Argument(help="point ids; all when left out")] = None,
    since: Annotated[str, typer.Option(help="2026-05-01, 2026-05-01T08:00 (local), …Z (UTC), or 36h, 7d ago")] = "24h",
    until: Annotated[str, typer.Option(help="likewise; a day alone means its end; now when left out")] = "",
    most: Annotated[int, typer.Option("--max", min=1, max=100_000, help="values a point at most; beyond that buckets "
                                                                        "with least, most and mean")] = 200,
    folder: Folder = None, config: Config = None, lang: Lang = "zh",
    as_json: Annotated[bool, typer.Option("--json/--table", help="for machines, or for people")] = False,
) -> None:
    """Show readings between two times, with gaps; works while the gateway runs, and when it does not."""
    now = datetime.now(UTC)
    with telling(lang):
        asked = Asked(points=tuple(dict.fromkeys(point or ())), since_ms=moment(since, now, end=False), most=most,
                      until_ms=moment(until, now, end=True) if until else round(now.timestamp() * 1000))
        with Archive(where(folder, config)) as archive:
            found = history(archive, asked)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), ensure_ascii=False))
        return
    for line in _lines(found, lang == "zh"):
        typer.echo(line)


def _lines(found: History, zh: bool) -> Iterator[str]:
    for one in found.series:
        yield from _series(one, zh)
    if found.as_of_ms is not None:
        yield f"{'已提交至' if zh else 'committed up to'} {date(found.as_of_ms)}"
    if found.undated:
        yield (f"{found.undated} 个读数采集时未校时，时间仅供参考" if zh else
               f"{found.undated} readings were taken while the clock was not set: their time is a guess")
    if found.unreadable:
        yield (f"{found.unreadable} 行已损坏，未显示；用 mingluo journal verify 查看" if zh else
               f"{found.unreadable} rows are damaged and not shown; see mingluo journal verify")


def _series(one: Series, zh: bool) -> Iterator[str]:
    status = "" if one.status == "Actual" else f" · {_word(one.status, zh)}"
    bucket = f" · {'每段' if zh else 'buckets of'} {one.bucket_ms / 1000:g} s" if one.bucket_ms else ""
    bad = f"（{one.bad} 个不可用）" if zh else f" ({one.bad} not usable)"
    yield (f"{one.point} {one.name} [{one.unit}]{status} · {one.readings} {'个读数' if zh else 'readings'}"
           f"{bad if one.bad else ''}{bucket}")
    lines = [(since, 1, _value(one, n, zh)) for n, since in enumerate(one.since_ms)]
    lines += [(since, 0, ("", f"{'缺口' if zh else 'gap'} {date(since)} – {date(until)} ({_span(until - since)})"))
              for since, until in one.gaps]
    # A gap begins at the last reading before it: that one comes first.
    ordered = [cells for _, _, cells in sorted(lines, key=lambda line: (line[0], -line[1]))]
    if ordered:
        yield from _table([_HEAD[not zh], *ordered])


def _value(one: Series, n: int, zh: bool) -> tuple[str, ...]:
    single = one.n[n] + one.unusable[n] == 1
    low, high = ("", "") if single else (_number(one.min[n]), _number(one.max[n]))
    counts = ("", "") if single else (str(one.n[n]), str(one.unusable[n] or ""))
    quality = "" if one.quality[n] == "good" else " ".join(
        _word(w, zh) for w in (one.quality[n], one.reason[n]) if w)
    return date(one.t_ms[n]), _number(one.mean[n]), low, high, *counts, quality


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.10g}"


def _word(word: str, zh: bool) -> str:
    return _ZH.get(word, word) if zh else word


def _span(ms: int) -> str:
    hours, rest = divmod(ms // 1000, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Numbers to the right; a Chinese character is as wide as two others."""
    columns = max(map(len, rows))
    widths = [max((_wide(row[n]) for row in rows if len(row) > 2), default=0) for n in range(columns)]
    for row in rows:
        if len(row) == 2:   # a gap
            yield f"  {row[1]}"
            continue
        cells = [" " * (width - _wide(cell)) + cell if 0 < n < columns - 1 else cell + " " * (width - _wide(cell))
                 for n, (cell, width) in enumerate(zip(row, widths, strict=True))]
        yield ("  " + "  ".join(cells)).rstrip()


def _wide(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def add(cli: Any) -> None:
    """Put the command beside the others."""
    cli.command("history")(show_history)
