"""The vocabulary: Colour, Flag, Samples, Event, Row, Inventory, Present.

Owns: the nouns that judgement, journal, uplink and page share. Promises: plain frozen data, no behaviour
beyond comparing. Never: reads a clock, does I/O.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, Literal

import numpy as np
from msgspec import Struct


class Colour(StrEnum):
    """The canonical word of a warning level. Standards number levels in opposite directions, so no integers."""

    NONE = "none"
    BLUE = "blue"
    YELLOW = "yellow"
    ORANGE = "orange"
    RED = "red"
    UNKNOWN = "unknown"
    """Inputs are lost: nobody can say. Never shown as none."""


LEVELS = (Colour.NONE, Colour.BLUE, Colour.YELLOW, Colour.ORANGE, Colour.RED)
"""Ascending. `LEVELS.index(c)` is the only order there is; UNKNOWN has no place in it."""


class Flag(IntEnum):
    """QARTOD quality flags (IOOS QARTOD manuals; UNESCO 2013 primary level)."""

    GOOD = 1
    NOT_EVALUATED = 2
    SUSPECT = 3
    FAIL = 4
    MISSING = 9


class Reason(StrEnum):
    """Why a flag is what it is. Order is stored in rows: append only."""

    NONE = ""
    # missing (9)
    NO_ANSWER = "no_answer"
    BAD_CRC = "bad_crc"
    FOREIGN = "foreign_answer"
    REFUSED = "refused"
    BUSY = "busy"
    LINK = "link_down"
    QUARANTINED = "quarantined"
    BORROWED = "borrowed"
    # fail (4)
    NO_DATA = "no_data"
    WARM_UP = "warm_up"
    SENSOR_FAULT = "sensor_fault"
    UNIT_MISMATCH = "unit_mismatch"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    # suspect (3)
    SATURATED = "saturated"
    OVER_RANGE = "over_range"
    UNDER_RANGE = "under_range"
    RATE = "rate"
    FLAT_LINE = "flat_line"
    STALE = "stale"


REASONS = tuple(Reason)
Status = Literal["Actual", "Exercise", "Test"]
Service = Literal["commissioning", "trial", "in_service", "maintenance", "retired"]
Lane = Literal["alarm", "event", "data"]
LANES: tuple[Lane, ...] = ("alarm", "event", "data")
Trust = Literal["synced", "holdover", "unset"]

SAMPLE = np.dtype([("t_ms", "<i8"), ("point", "<u2"), ("flag", "u1"), ("reason", "u1"), ("status", "u1"),
                   ("value", "<f8")])
"""One Sample: monotonic ms of arrival, index in the Inventory, Flag, index in REASONS, index in STATUSES,
value (NaN exactly when there is none)."""
STATUSES: tuple[Status, ...] = ("Actual", "Exercise", "Test")

Samples = np.ndarray[Any, np.dtype[Any]]
"""A one-dimensional array of SAMPLE: what the data lane is made of."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something happened, once. `kind` is a dotted word from the list in gateway/README.md (alarm.raised …)."""

    id: str
    """Unique; alarms keep one id from first colour to clearing (`alarm` carries it), each step its own id."""
    kind: str
    t_ms: int
    """Monotonic ms of this boot; the row's header makes it wall time."""
    object: str = ""
    point: str = ""
    alarm: str = ""
    colour: Colour | None = None
    was: Colour | None = None
    status: Status = "Actual"
    who: str = ""
    text_zh: str = ""
    text_en: str = ""
    why: dict[str, Any] = {}
    """The rule, values and limits that decided; or counts and ranges of a gap."""


class Door(Struct, frozen=True):
    """What the pipeline's door stamps on everything that enters: which boot, and what the wall clock is worth."""

    boot: str
    offset_ms: int
    """UTC ms = monotonic ms + offset_ms, as far as this boot knows."""
    trust: Trust


class InventoryPoint(Struct, frozen=True, kw_only=True):
    """One stream of Samples, as the county needs to know it."""

    point: str
    name: str
    object: str
    unit: str
    resolution: float
    poll_s: float
    report_every_s: float
    report_change: float | None = None
    low: float | None = None
    high: float | None = None
    counter: bool = False
    model: str = ""
    read: str = ""


class Inventory(Struct, frozen=True):
    """The numbered list of points. A Sample's `point` is an index into `points` of the row's inventory."""

    n: int
    points: tuple[InventoryPoint, ...]


class Row(Struct, frozen=True, kw_only=True):
    """A numbered batch of Records: the unit of sequence, dedupe, gap and replay.

    Identity is (gateway, epoch, lane, seq). `body` is zlib-compressed: SAMPLE columns for the data lane,
    a msgpack list of Event for the others.
    """

    epoch: str
    lane: Lane
    seq: int
    inventory: int
    door: Door
    count: int
    body: bytes
    thinned: Literal["", "thin", "aggregate"] = ""
    """What was done to it when room ran out, before anybody had it: some readings left, or their extremes and mean."""
    of: int = 0
    """How many Records it had before that."""


class Why(Struct, frozen=True, kw_only=True):
    """What decided a colour: shown in status, carried in warn and in alarm events."""

    rule: str
    point: str
    value: float | None
    limit: float
    unit: str


class PresentObject(Struct, frozen=True, kw_only=True):
    """One object as it stands now; a snapshot, never from the journal."""

    object: str
    name: str
    hazard: str
    service: Service
    status: Status
    colour: Colour
    """What the rules say now (worst of votes)."""
    alarm: str = ""
    alarm_colour: Colour = Colour.NONE
    """Colour held by the alarm (latched); NONE when there is no alarm."""
    acknowledged: bool = False
    since_ms: int = 0
    why: tuple[Why, ...] = ()
    lost: tuple[str, ...] = ()
    """Points without a believable value."""


class Demand(Struct, frozen=True, kw_only=True):
    """What one output should be doing now. `outputs.follow` is idempotent over a tuple of these."""

    output: str
    colour: Colour
    """Drives the pattern; NONE is silence."""
    alarm: str = ""
    """A new alarm id or a higher colour breaks a silence."""
    since_ms: int = 0
    """Monotonic ms when this demand began: burst timing counts from here."""
    silenced_until_ms: int = 0


class Present(Struct, frozen=True, kw_only=True):
    """The box now: published as warn/{object}, shown by status. Replaced whole by the pipeline."""

    t_ms: int
    objects: tuple[PresentObject, ...] = ()
    demand: tuple[Demand, ...] = ()


class Command(Struct, frozen=True, kw_only=True):
    """Something asked of the box by a person, a button or the county (asks of a wire are `drivers.Command`).

    ``acknowledge`` stops escalation, never the alarm · ``silence`` stops the sound for a while · ``clear`` ends a
    latched alarm whose cause is gone · ``confirm``/``refuse`` answer an alarm that waits for an officer ·
    ``service`` sets an object's service state (maintenance expires by itself).
    """

    id: str
    kind: Literal["acknowledge", "silence", "clear", "confirm", "refuse", "service"]
    object: str
    who: str
    alarm: str = ""
    """Empty: whatever alarm the object has."""
    service: Service | None = None
    for_s: float | None = None
    """How long maintenance or silence lasts; absent = the default."""


class Reply(Struct, frozen=True, kw_only=True):
    """What became of a Command."""

    id: str
    ok: bool
    text_en: str
    text_zh: str
