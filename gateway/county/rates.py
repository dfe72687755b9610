"""How well the boxes of a county deliver: what an inspector asks for each month.

Owns: online rate, delivery rate, command completion. Promises: reckoned from the database alone, by the tables of
`store`; what came after all, or was told as lost twice, is not lost twice or at all. Never: counts a thinned or
filtered reading as lost, nor one that nobody was to send.

Gaps have no time of their own: a loss counts when it became known. Rows whose readings nobody counted are reckoned as
full as those of their gateway that came.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from gateway.county.database import Database


class Rates(Struct, frozen=True, kw_only=True):
    """One gateway, in the time asked for. Shares are None where there is nothing to have a share of."""

    gateway: str
    online: float | None
    """Share of the time during which it was connected."""
    delivered: float | None
    """Share of the records that its boxes numbered and that came."""
    lost_records: int
    """Told by the boxes as gone for ever, and not here."""
    commands: float | None
    """Share of the commands that were answered with success."""
    grey: bool
    """Its present state is no longer valid."""


def rates(db: Database, since_ms: int, now_ms: int) -> list[Rates]:
    """Reckon every gateway from `since_ms` until now."""
    gateways = db.run("SELECT DISTINCT gateway FROM present UNION SELECT DISTINCT gateway FROM rows")
    return [_of(db, gateway, since_ms, now_ms) for (gateway,) in sorted(gateways)]


def _of(db: Database, gateway: str, since_ms: int, now_ms: int) -> Rates:
    came = db.run("SELECT count(*) FROM readings WHERE gateway = ? AND t >= ?", (gateway, since_ms))[0][0]
    lost = _lost(db, gateway, since_ms)
    asked, done = db.run("SELECT count(*), coalesce(sum(ok), 0) FROM commands WHERE gateway = ? AND asked_ms >= ? AND "
                         "name <> 'replay'", (gateway, since_ms))[0]
    return Rates(gateway=gateway, online=_online(db, gateway, since_ms, now_ms),
                 delivered=came / (came + lost) if came + lost else None, lost_records=lost,
                 commands=done / asked if asked else None, grey=grey(db, gateway, now_ms))


def _lost(db: Database, gateway: str, since_ms: int) -> int:
    lost = 0.0
    full: dict[str, float] = {}
    stream, at = ("", ""), 0   # up to here the stream is reckoned
    for epoch, lane, first, last, records in db.run(
            "SELECT epoch, lane, first, last, records FROM gaps WHERE gateway = ? AND arrived_ms >= ? AND "
            "reason NOT IN ('thinned', 'aggregated') ORDER BY epoch, lane, first, last", (gateway, since_ms)):
        if stream != (epoch, lane):
            stream, at = (epoch, lane), 0
        begin, at = max(first, at + 1), max(at, last)
        if begin > last:
            continue
        here = db.run("SELECT count(*) FROM rows WHERE gateway = ? AND epoch = ? AND lane = ? AND seq BETWEEN ? AND ?",
                      (gateway, epoch, lane, begin, last))[0][0]
        missing = last - begin + 1 - here
        if records is None and lane not in full:
            full[lane] = _records_a_row(db, gateway, lane)
        lost += missing * (full[lane] if records is None else records / (last - first + 1))
    return round(lost)


def _records_a_row(db: Database, gateway: str, lane: str) -> float:
    """Readings or events of a row that came, on average."""
    rows = db.run("SELECT count(*) FROM rows WHERE gateway = ? AND lane = ?", (gateway, lane))[0][0]
    records = (db.run("SELECT count(*) FROM readings WHERE gateway = ?", (gateway,)) if lane == "data" else
               db.run("SELECT count(*) FROM events WHERE gateway = ? AND lane = ?", (gateway, lane)))[0][0]
    return records / rows if rows else 1.0


def _online(db: Database, gateway: str, since_ms: int, now_ms: int) -> float | None:
    first = db.run("SELECT min(arrived_ms) FROM rows WHERE gateway = ?", (gateway,))[0][0]
    if first is None:
        return None
    begin = max(since_ms, first)
    away = sum(max(0, min(now_ms, until or now_ms) - max(begin, since)) for since, until in db.run(
        "SELECT since_ms, until_ms FROM outages WHERE gateway = ?", (gateway,)))
    return 1.0 - away / (now_ms - begin) if now_ms > begin else None


def grey(db: Database, gateway: str, now_ms: int) -> bool:
    """Whether nobody can say how it is there: it is offline, or its snapshots have expired."""
    said = [(name, at, json.loads(body)) for name, at, body in db.run(
        "SELECT name, arrived_ms, body FROM present WHERE gateway = ? AND (name = 'state' OR name LIKE 'warn/%')",
        (gateway,))]
    states = [body for name, _, body in said if name == "state"]
    return not states or not states[0]["online"] or any(
        now_ms > valid_until(body, at) for name, at, body in said if name != "state")


def valid_until(warn: dict[str, Any], arrived_ms: int) -> int:
    """Until when a snapshot may be shown; of a box without a clock it counts from the arrival."""
    if warn["clock"]["trust"] == "unset":
        return arrived_ms + round(float(warn["valid_s"]) * 1000)
    return int(warn["valid_until"])
