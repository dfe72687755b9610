"""A budget as lines an installer reads, in Chinese and English.

Owns: the words and the columns. Promises: a verdict line at the end, in so many words. Never: reckons.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from drivers.load import SHARE
from gateway.plan import MB, Budget, Load
from gateway.plan.upstream import RECONNECTS_DAY, Upstream, total

Lang = Literal["zh", "en"]
Words = Callable[[str], str]

_WORDS = {
    "head": ("设备 功能码 起始 数量 毫秒 周期s 测点", "device function first count ms every_s points"),
    "wire": ("线路", "wire"), "cycle": ("全部读一遍", "everything read once"), "load": ("占用", "load"),
    "exchanges": ("次/秒", "exchanges/s"), "upstream": ("上行流量（每月 30 天）", "upstream (a month of 30 days)"),
    "platform": ("平台", "platform"), "data": ("读数", "readings"), "warn": ("状态快照", "warn"),
    "diag": ("自检", "diag"), "ping": ("心跳", "pings"), "connect": ("重连", "reconnects"), "all": ("合计", "total"),
    "messages": ("条消息", "messages"), "flash": ("存储卡写入（每天）", "flash writes (a day)"),
    "commits": ("次提交", "commits"), "readings": ("条读数", "readings"), "of": ("预算", "of"),
    "alert": ("黄色及以上全部上报时每天", "a day on which everything is reported (yellow and up)"),
    "no_sim": ("没有写 sim_mb_month，不核对", "no sim_mb_month given, nothing to check it against"),
    "good": (f"结论：可以。各项都不超过 {SHARE:.0%}。", f"verdict: good. Nothing takes more than {SHARE:.0%}."),
    "bad": ("结论：不行，需要修改：", "verdict: refused, change this:"),
}
_EXACT = (
    (f"帧长、静默和报文正文是精确的；应答时间按 turnaround_ms，重连按每天 {RECONNECTS_DAY:g} 次，"
     "自检、握手和写入量是估计。"),
    (f"exact: characters, silence, payloads; estimated: turnaround_ms, {RECONNECTS_DAY:g} reconnects a day, diag, "
     "handshakes, flash."))
_LEFT = ("未计入：数值变化(change)引起的加报、预警期间全部上报、重传；为此留 20 %。",
         "not counted: reports by change, everything reported from yellow up, retransmissions; 20 % is left for them.")


def lines(budget: Budget, lang: Lang) -> list[str]:
    """Render it."""
    def word(key: str) -> str:
        return _WORDS[key][lang == "en"]

    shown: list[str] = []
    for load in budget.loads:
        shown += [f"{word('wire')} {load.wire} ({load.port})", *_table(_requests(load, word("head"))), _sum(load, word)]
    shown += [word("upstream"), *(_upstream(one, word) for one in budget.upstreams), _sim(budget, word)]
    shown += [word("flash"), _flash(budget, word), *(note[lang == "en"] for note in (_EXACT, _LEFT))]
    if not budget.excesses:
        return [*shown, word("good")]
    return [*shown, word("bad"), *(f"  - {excess.zh if lang == 'zh' else excess.en}" for excess in budget.excesses)]


def document(budget: Budget) -> str:
    """Everything as JSON: bytes, seconds and shares in plain numbers."""
    made = msgspec.to_builtins(budget)
    for shown, load in zip(made["loads"], budget.loads, strict=True):
        shown |= {"share": load.share, "cycle_ms": load.cycle_ms, "exchanges_s": load.exchanges_s}
    for shown, one in zip(made["upstreams"], budget.upstreams, strict=True):
        shown["bytes"] = one.bytes
    return json.dumps(made | {"good": not budget.excesses}, ensure_ascii=False, indent=2)


def _requests(load: Load, head: str) -> list[Sequence[str]]:
    return [head.split(), *((r.device, str(r.function), str(r.first), str(r.count), f"{r.ms:.1f}", f"{r.poll_s:g}",
                             ",".join(r.points)) for r in load.requests)]


def _sum(load: Load, word: Words) -> str:
    return (f"  {word('cycle')} {load.cycle_ms:.1f} ms · {load.exchanges_s:.2f} {word('exchanges')} · {word('load')} "
            f"{load.share:.1%}")


def _upstream(one: Upstream, word: Words) -> str:
    parts = " · ".join(f"{word(key)} {one.parts[key] / MB:.1f}" for key in one.parts)
    return (f"  {word('platform')} {one.platform}: {one.bytes / MB:.1f} MB ({parts}) · "
            f"{one.messages:.0f} {word('messages')}")


def _sim(budget: Budget, word: Words) -> str:
    spent, limit = total(budget.upstreams) / MB, budget.sim_mb_month
    alert = f"{word('alert')} {budget.alert_bytes_day / MB:.1f} MB"
    if limit is None:
        return f"  {word('all')} {spent:.1f} MB · {word('no_sim')} · {alert}"
    return f"  {word('all')} {spent:.1f} MB {word('of')} {limit:g} MB ({spent / limit:.0%}) · {alert}"


def _flash(budget: Budget, word: Words) -> str:
    written, bears = budget.flash_bytes_day / MB, budget.flash_mb_day
    return (f"  {written:.1f} MB {word('of')} {bears:g} MB ({written / bears:.0%}) · {budget.commits_day:.0f} "
            f"{word('commits')} · {budget.readings_day:.0f} {word('readings')}")


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Columns side by side; a Chinese character is as wide as two others."""
    widths = [max(_width(row[n]) for row in rows) for n in range(len(rows[0]))]
    padded = [[cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  " + "  ".join(row).rstrip() for row in padded]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
