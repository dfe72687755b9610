"""What a county knows of its boxes.

Owns: the tables, what is counted once, which rows are accounted for, and how rows are dated. Promises: a row is kept
once, by (gateway, epoch, lane, seq); a message is kept whole or not at all; a row of a boot whose clock offset is known
bears the right time, whichever of the two came first; of several offsets the one that the box told last counts, in
whatever order they came and whichever process took them. Never: talks to anybody.

`spans` says which seqs of a stream are accounted for: stored, filtered by the box for us, or told in a gap as gone for
ever. `gaps` has what was told, and what a box answered that it has not (`gone`): that is asked for no more, but not
confirmed either, as it may have been a box of the same name that answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from gateway.county.database import Database
from gateway.county.messages import Event, Reading, Row, Rows

_TABLES = (
    """CREATE TABLE IF NOT EXISTS rows (gateway TEXT, epoch TEXT, lane TEXT, seq BIGINT, boot TEXT, trust TEXT,
    offset_ms BIGINT, arrived_ms BIGINT, thinned TEXT, original BIGINT, PRIMARY KEY (gateway, epoch, lane, seq))""",
    """CREATE TABLE IF NOT EXISTS readings (gateway TEXT, epoch TEXT, seq BIGINT, point TEXT, t BIGINT,
    value DOUBLE PRECISION, quality INTEGER, reason TEXT, status TEXT, low DOUBLE PRECISION, high DOUBLE PRECISION,
    mean DOUBLE PRECISION, since BIGINT)""",
    """CREATE TABLE IF NOT EXISTS events (gateway TEXT, epoch TEXT, lane TEXT, seq BIGINT, id TEXT, kind TEXT, t BIGINT,
    object TEXT, alarm TEXT, colour TEXT, status TEXT, past INTEGER, body TEXT)""",
    """CREATE TABLE IF NOT EXISTS spans (gateway TEXT, epoch TEXT, lane TEXT, first BIGINT, last BIGINT)""",
    """CREATE TABLE IF NOT EXISTS gaps (gateway TEXT, epoch TEXT, lane TEXT, first BIGINT, last BIGINT, records BIGINT,
    reason TEXT, arrived_ms BIGINT)""",
    """CREATE TABLE IF NOT EXISTS boots (gateway TEXT, boot TEXT, offset_ms BIGINT, error_ms DOUBLE PRECISION,
    told_ms BIGINT, PRIMARY KEY (gateway, boot))""",
    """CREATE TABLE IF NOT EXISTS present (gateway TEXT, name TEXT, arrived_ms BIGINT, body TEXT,
    PRIMARY KEY (gateway, name))""",
    """CREATE TABLE IF NOT EXISTS outages (gateway TEXT, since_ms BIGINT, until_ms BIGINT)""",
    """CREATE TABLE IF NOT EXISTS commands (gateway TEXT, id TEXT, name TEXT, asked_ms BIGINT, answered_ms BIGINT,
    ok INTEGER, text TEXT, PRIMARY KEY (gateway, id))""",
    "CREATE INDEX IF NOT EXISTS readings_rows ON readings (gateway, epoch, seq)",
    "CREATE INDEX IF NOT EXISTS events_rows ON events (gateway, epoch, lane, seq)",
    "CREATE INDEX IF NOT EXISTS rows_boots ON rows (gateway, boot)",
    "CREATE INDEX IF NOT EXISTS spans_streams ON spans (gateway, epoch, lane, first)",
)
GONE = frozenset({"quota", "damaged", "absent", "overload", "journal_lost", "refused"})
"""Reasons of a gap after which its rows never come; thinned ones still do."""
GONE_BY_ANSWER = "gone"
_MERGE = 64

Stream = tuple[str, str, str]
"""(gateway, epoch, lane)"""


class Kept(Struct, frozen=True):
    """What became of one message."""

    rows: int
    readings: int
    events: int
    duplicates: int


class Store:
    """One database; one thread."""

    def __init__(self, database: Database) -> None:
        self.db = database
        with database.within():
            for statement in _TABLES:
                database.run(statement)

    # rows

    def keep(self, messages: Sequence[Rows], arrived_ms: int) -> list[Kept]:
        """Keep messages in one transaction."""
        with self.db.within():
            return [self._keep(message, arrived_ms) for message in messages]

    def _keep(self, m: Rows, arrived_ms: int) -> Kept:
        stream, known = (m.gateway, m.epoch, m.lane), {
            seq for (seq,) in self.db.run("SELECT seq FROM rows WHERE gateway = ? AND epoch = ? AND lane = ? AND "
                                          "seq BETWEEN ? AND ?", (m.gateway, m.epoch, m.lane, *m.covers))}
        new = {row.seq: row for row in m.rows if row.seq not in known}
        offset = self._offset(m.gateway, m.boot) if m.clock.trust == "unset" else None
        fresh = [_dated(row, offset) for row in new.values()]
        self.db.many("INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,?,?)", [
            (*stream, row.seq, m.boot, m.clock.trust, row.offset_ms, arrived_ms,
             row.thinned.step if row.thinned else "", row.thinned.of if row.thinned else 0) for row in fresh])
        readings = [_reading(m, row, reading) for row in fresh for reading in row.readings]
        self.db.many("INSERT INTO readings VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", readings)
        events = [(row, event) for row in fresh for event in row.events]
        self.db.many("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                     [_event(stream, row, event) for row, event in events])
        self._account(stream, *m.covers)
        for row, event in events:
            self._heed(m.gateway, event, arrived_ms, event.t - row.offset_ms)
        return Kept(len(fresh), len(readings), len(events), len(m.rows) - len(fresh))

    def _heed(self, gateway: str, event: Event, arrived_ms: int, t_ms: int) -> None:
        """Some events are about other rows: those that will never come, and those that can be dated now.

        `t_ms`: the event's monotonic time in its boot.
        """
        why = event.why
        rows = isinstance(why.get("epoch"), str) and isinstance(why.get("from"), int)
        if event.kind in ("journal.gap", "uplink.set_aside") and rows:
            stream, first, last = (gateway, why["epoch"], str(why.get("lane"))), why["from"], int(why["to"])
            reason = str(why.get("reason")) if event.kind == "journal.gap" else "refused"
            self._gap(stream, first, last, why.get("count"), reason, arrived_ms)
            if reason in GONE:
                self._account(stream, first, last)
        elif event.kind == "clock.offset" and why.get("trust") != "unset" and isinstance(why.get("offset_ms"), int):
            self._date(gateway, str(why.get("boot")), why["offset_ms"], float(why.get("error_ms") or 0.0), t_ms)

    def _offset(self, gateway: str, boot: str) -> int | None:
        # Never from memory: another process that shares the work may have learnt it, or a better one.
        known = self.db.run("SELECT offset_ms FROM boots WHERE gateway = ? AND boot = ?", (gateway, boot))
        return int(known[0][0]) if known else None

    def _date(self, gateway: str, boot: str, offset_ms: int, error_ms: float, told_ms: int) -> None:
        """Date what was stored of a boot, and what will be, unless something newer was told."""
        self.db.run("INSERT INTO boots VALUES (?,?,?,?,?) ON CONFLICT (gateway, boot) DO UPDATE SET "
                    "offset_ms = excluded.offset_ms, error_ms = excluded.error_ms, told_ms = excluded.told_ms "
                    "WHERE boots.told_ms < excluded.told_ms", (gateway, boot, offset_ms, error_ms, told_ms))
        if self._offset(gateway, boot) != offset_ms:
            return
        for lane, seq, epoch, old in self.db.run(
                "SELECT lane, seq, epoch, offset_ms FROM rows WHERE gateway = ? AND boot = ? AND trust = 'unset' AND "
                "offset_ms <> ?", (gateway, boot, offset_ms)):
            move = offset_ms - old
            where = (gateway, epoch, seq)
            if lane == "data":
                self.db.run("UPDATE readings SET t = t + ?, since = since + ? WHERE gateway = ? AND epoch = ? AND "
                            "seq = ?", (move, move, *where))
            else:
                self.db.run("UPDATE events SET t = t + ? WHERE gateway = ? AND epoch = ? AND seq = ? AND lane = ?",
                            (move, *where, lane))
            self.db.run("UPDATE rows SET offset_ms = ? WHERE gateway = ? AND epoch = ? AND seq = ? AND lane = ?",
                        (offset_ms, *where, lane))

    # accounting

    def _account(self, stream: Stream, first: int, last: int) -> None:
        self.db.run("INSERT INTO spans VALUES (?,?,?,?,?)", (*stream, first, last))

    def _gap(self, stream: Stream, first: int, last: int, records: int | None, reason: str, arrived_ms: int) -> None:
        self.db.run("INSERT INTO gaps VALUES (?,?,?,?,?,?,?,?)", (*stream, first, last, records, reason, arrived_ms))

    def write_off(self, stream: Stream, spans: Iterable[tuple[int, int]], arrived_ms: int) -> None:
        """The box says that these are not kept any more."""
        with self.db.within():
            for first, last in spans:
                self._gap(stream, first, last, None, GONE_BY_ANSWER, arrived_ms)

    def written_off(self) -> dict[Stream, list[tuple[int, int]]]:
        """What `write_off` was told, by stream."""
        out: dict[Stream, list[tuple[int, int]]] = {}
        for gateway, epoch, lane, first, last in self.db.run(
                "SELECT gateway, epoch, lane, first, last FROM gaps WHERE reason = ?", (GONE_BY_ANSWER,)):
            out.setdefault((gateway, epoch, lane), []).append((first, last))
        return out

    def accounted(self) -> dict[Stream, list[tuple[int, int]]]:
        """Which seqs of each stream are accounted for: ascending, apart. Spans that touch become one on the way."""
        out: dict[Stream, list[tuple[int, int]]] = {}
        loose: dict[Stream, int] = {}
        with self.db.within():
            for gateway, epoch, lane, first, last in self.db.run(
                    "SELECT gateway, epoch, lane, first, last FROM spans ORDER BY gateway, epoch, lane, first"):
                stream = (gateway, epoch, lane)
                spans = out.setdefault(stream, [])
                loose[stream] = loose.get(stream, 0) + 1
                if spans and first <= spans[-1][1] + 1:
                    spans[-1] = (spans[-1][0], max(spans[-1][1], last))
                else:
                    spans.append((first, last))
            for stream, spans in out.items():
                if loose[stream] > len(spans) + _MERGE:
                    self.db.run("DELETE FROM spans WHERE gateway = ? AND epoch = ? AND lane = ?", stream)
                    self.db.many("INSERT INTO spans VALUES (?,?,?,?,?)", [(*stream, *span) for span in spans])
        return out

    # the present

    def show(self, gateway: str, name: str, said: dict[str, Any], arrived_ms: int) -> None:
        """Keep the last `state`, `birth`, `inventory/…`, `warn/…` or `diag`."""
        with self.db.within():
            if name == "state":
                self._state(gateway, said, arrived_ms)
            self.db.run("INSERT INTO present VALUES (?,?,?,?) ON CONFLICT (gateway, name) DO UPDATE SET "
                        "arrived_ms = excluded.arrived_ms, body = excluded.body",
                        (gateway, name, arrived_ms, json.dumps(said, ensure_ascii=False)))

    def _state(self, gateway: str, said: dict[str, Any], arrived_ms: int) -> None:
        if said.get("online"):
            self.db.run("UPDATE outages SET until_ms = ? WHERE gateway = ? AND until_ms IS NULL", (arrived_ms, gateway))
        elif not self.db.run("SELECT 1 FROM outages WHERE gateway = ? AND until_ms IS NULL", (gateway,)):
            self.db.run("INSERT INTO outages VALUES (?,?,NULL)", (gateway, arrived_ms))

    def present(self, name: str = "", gateway: str = "") -> list[tuple[str, str, int, dict[str, Any]]]:
        """(gateway, name, arrived_ms, body) of what was said last; `name` may be the beginning of one."""
        found = self.db.run("SELECT gateway, name, arrived_ms, body FROM present WHERE name LIKE ? AND "
                            "(gateway = ? OR ? = '')", (f"{name}%", gateway, gateway))
        return [(g, n, at, json.loads(text)) for g, n, at, text in found]


def _dated(row: Row, offset_ms: int | None) -> Row:
    if offset_ms is None or offset_ms == row.offset_ms:
        return row
    move = offset_ms - row.offset_ms
    return structs.replace(
        row, offset_ms=offset_ms,
        readings=[structs.replace(r, t=r.t + move, since=None if r.since is None else r.since + move)
                  for r in row.readings],
        events=[structs.replace(e, t=e.t + move) for e in row.events])


def _reading(m: Rows, row: Row, r: Reading) -> tuple[Any, ...]:
    return (m.gateway, m.epoch, row.seq, r.point, r.t, r.value, r.quality, r.reason, r.status, r.min, r.max, r.mean,
            r.since)


def _event(stream: Stream, row: Row, e: Event) -> tuple[Any, ...]:
    body = structs.asdict(e)
    del body["t"]   # it is kept once, where it is dated anew
    return (*stream, row.seq, e.id, e.kind, e.t, e.object, e.alarm, e.colour, e.status, int(e.past),
            json.dumps(body, ensure_ascii=False))
