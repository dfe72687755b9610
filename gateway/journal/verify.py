"""Whether a journal is whole.

Owns: the faults that `mingluo journal verify` looks for. Promises: every row is read, its checksum reckoned, its body
decoded; a fault says where it is and what to do; what was told as a gap, or sent to every platform, is no fault. Never:
changes the file, holds a running gateway up for more than a second.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from gateway.journal.archive import Archive, Unusable, name_of
from gateway.journal.cursors import Cursor, Spans, minus
from gateway.journal.records import Stored, lane_seq
from gateway.journal.rows import Stream, decode, decode_events
from gateway.journal.state import Extent
from gateway.model import LANES

_LIVE_S = 1.0


class Fault(Struct, frozen=True, kw_only=True):
    """Something that is not as it should be."""

    where: str
    text_en: str
    text_zh: str


class Verdict(Struct, frozen=True, kw_only=True):
    """What a look at everything found."""

    rows: int
    records: int
    faults: list[Fault]
    notes: list[Fault]
    """What could not be looked at, or is missing and was told."""


def verify(archive: Archive, *, live: bool, now: Callable[[], float] = time.monotonic) -> Verdict:
    """Look at everything. `live`: a gateway runs on the file and must not be held up."""
    work = _Verify(archive)
    work.structure(live, now)
    work.state()
    for stream in archive.streams():
        work.stream(stream)
    work.holes()
    return Verdict(rows=work.rows, records=work.records, faults=work.faults, notes=work.notes)


class _Verify:
    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.faults: list[Fault] = []
        self.notes: list[Fault] = []
        self.rows = self.records = 0
        self._missing: list[tuple[Stream, int, int]] = []
        self._told = {(g.epoch, g.lane): Cursor() for g in archive.kept.state.gaps}
        for gap in archive.kept.state.gaps:
            self._told[gap.epoch, gap.lane].add(gap.first, gap.last)

    def structure(self, live: bool, now: Callable[[], float]) -> None:
        """SQLite's own check, in one read transaction: while a gateway writes it gets a second and no more."""
        run, path = self.archive.connection, str(self.archive.path)
        deadline_s = now() + _LIVE_S if live else float("inf")
        run.set_progress_handler(lambda: now() > deadline_s, 10_000)
        try:
            found = [text for (text,) in run.execute("PRAGMA integrity_check(20)").fetchall()]
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
                found = [str(error)]
            else:
                found = ["ok"]
                self.notes.append(Fault(
                    where=path, text_en="the pages as a whole were not checked: that takes over a second, and a "
                    "gateway is at work; every row was. Copy the file, or stop the gateway, to check all",
                    text_zh="未做整页检查：耗时超过一秒而网关正在运行；各行均已检查。要全部检查，请复制文件或停止网关"))
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        finally:
            run.set_progress_handler(None, 0)
        for text in found:
            if text != "ok":
                self._fault(path, f"SQLite: {text}; the gateway keeps what can be read when it next starts",
                            f"SQLite：{text}；网关下次启动时会抢救可读部分")

    def state(self) -> None:
        """What could not be read of the small state."""
        if self.archive.kept.search is not None:
            names = ", ".join(self.archive.kept.search.wrecks)
            self.notes.append(Fault(where=str(self.archive.path), text_zh=f"正在从 {names} 抢救，缺失的行可能还会找到",
                                    text_en=f"rows are being carried over from {names}: what is missing may be there"))
        for text in self.archive.unread:
            self._fault(str(self.archive.path), f"{text}; the gateway will salvage the journal when it next starts",
                        f"状态无法读取：{text}；网关下次启动时会抢救日志库")

    def stream(self, stream: Stream) -> None:
        """Every row of a stream: checksum, content, numbers, names."""
        archive = self.archive
        extent, seen, total = archive.kept.streams[stream], Cursor(), None
        at = archive.span(stream)[0]
        try:
            for page in archive.rows(*archive.span(stream)):
                for key, stored in page:
                    at, seq = key, lane_seq(key)[2]
                    seen.add(seq, seq)
                    total = self._row(key, stored, total, adjacent=seen.has(seq - 1))
        except Unusable as error:
            self._fault(name_of(archive, at), f"rows after this one cannot be read: {error}",
                        f"此行之后无法读取：{error.text_zh}")
            return
        self._numbers(stream, extent, seen)

    def _row(self, key: int, stored: Stored | None, before: int | None, *, adjacent: bool) -> int | None:
        self.rows += 1
        where = name_of(self.archive, key)
        if stored is None:
            self._fault(where, "the checksum does not hold: the row is damaged. The gateway never sends it; platforms "
                        "that miss it are told",
                        "校验和不符：该行已损坏。网关不会发送它，并会告知缺少它的平台")
            return None
        row = stored.row
        self.records += row.count
        try:
            records: Any = decode(row.body) if row.lane == "data" else decode_events(row.body)
        except ValueError as error:
            self._fault(where, f"the checksum holds but the body does not read: {error}; use the newest mingluo",
                        f"校验和正确但内容无法解读：{error}；请使用最新的 mingluo")
            return stored.total
        if len(records) != row.count:
            self._fault(where, f"{len(records)} records, the row says {row.count}",
                        f"{len(records)} 条，应为 {row.count} 条")
        if row.lane == "data":
            self._names(where, row.inventory, records)
        else:
            for event in records:
                if event.kind == "journal.gap":
                    self._gap(event.why)
        if adjacent and before is not None and stored.total - (row.of or row.count) != before:
            self._fault(where, f"running count {stored.total} does not follow {before} of the row before",
                        f"累计数 {stored.total} 与前一行的 {before} 不衔接")
        return stored.total

    def _names(self, where: str, n: int, samples: Any) -> None:
        inventory = self.archive.kept.inventories.get(n)
        if not len(samples):
            return
        if inventory is None:
            self._fault(where, f"inventory {n} is not in the file: these readings have no names",
                        f"文件中没有测点清单 {n}：这些读数没有名称")
        elif int(samples["point"].max()) >= len(inventory.points):
            self._fault(where, f"point {int(samples['point'].max())} is beyond inventory {n} of "
                        f"{len(inventory.points)} points", f"测点序号超出清单 {n}（共 {len(inventory.points)} 个）")

    def _gap(self, why: dict[str, Any]) -> None:
        epoch, lane, first, last = (why.get(key) for key in ("epoch", "lane", "from", "to"))
        if isinstance(first, int) and isinstance(last, int) and lane in LANES:
            self._told.setdefault((str(epoch), lane), Cursor()).add(first, last)

    def _numbers(self, stream: Stream, extent: Extent, seen: Cursor) -> None:
        where = f"{stream[0]} {stream[1]}"
        spans = list(seen.spans())
        outside = [(a, b) for a, b in spans if a < extent.oldest or b >= extent.next]
        count = sum(b - a + 1 for a, b in spans)
        if outside and extent.rows:
            self._fault(where, f"rows {outside[0][0]}-{outside[0][1]} lie outside {extent.oldest}-{extent.next - 1}, "
                        "which the journal knows of", f"第 {outside[0][0]}–{outside[0][1]} 行超出已知范围 "
                        f"{extent.oldest}–{extent.next - 1}")
        if count != extent.rows:
            self._fault(where, f"{count} rows found, the journal knows of {extent.rows}",
                        f"实有 {count} 行，记录为 {extent.rows} 行")
        if extent.rows:
            first = max(extent.oldest, self.archive.kept.wall(stream))
            self._missing += [(stream, a, b) for a, b in seen.missing(first, extent.next - 1)]

    def holes(self) -> None:
        """Numbers without a row: told as a gap, or a fault."""
        for stream, first, last in self._missing:
            told_of, had = self._told.get(stream, Cursor()), self._had(stream, first, last)
            for a, b in minus(told_of.missing(first, last), had):
                self._fault(f"{stream[0]} {stream[1]} {a}-{b}", "not in the file, and no gap was told",
                            "文件中缺失，且没有缺口报告")
            for a, b in minus(had, told_of.spans()):
                self.notes.append(Fault(where=f"{stream[0]} {stream[1]} {a}-{b}",
                                        text_en="missing, and every platform was sent it",
                                        text_zh="文件中缺失，但各平台都已收到"))
            for a, b in told_of.within(first, last):
                self.notes.append(Fault(where=f"{stream[0]} {stream[1]} {a}-{b}", text_en="missing, and told as a gap",
                                        text_zh="缺失，已作为缺口报告"))

    def _had(self, stream: Stream, first: int, last: int) -> Spans:
        """What of first…last every platform was sent: such rows go to make room, wherever they lie."""
        cursors = self.archive.kept.cursors
        platforms = {platform for platform, _ in cursors}
        spans = [(first, last)] if platforms else []
        for platform in platforms:
            sent = d.sent if (d := cursors.get((platform, stream))) is not None else Cursor()
            spans = [part for a, b in spans for part in sent.within(a, b)]
        return spans

    def _fault(self, where: str, en: str, zh: str) -> None:
        self.faults.append(Fault(where=where, text_en=en, text_zh=zh))
