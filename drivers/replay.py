"""A recorded file as if it were hardware.

Owns: reading recordings (CSV and JSON lines) and giving them out in their own time.
Promises: a recording is checked from its first line to its last before anything starts; lines of one time and one
device become one Scan; only the current Scan is in memory, however long the recording; what was recorded as failed
stays failed.
Never: invents a value: ``read_now`` and ``pace`` are heard and do nothing, a recording cannot be asked.

CSV has the header ``time_s,device,point,value,note`` (`note` may be left out); JSON lines are objects with the same
keys. `time_s` is any clock in seconds, never going back; an empty (null) value needs a note that says why.
At the end of the file there are no more Scans; `health` then says ``unknown`` with ``end_of_file``.
"""

from __future__ import annotations

import csv
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from drivers import (
    DEVICE_NOTES,
    WIRE_NOTES,
    Answer,
    Command,
    Health,
    Id,
    Library,
    LinkError,
    Note,
    PointInfo,
    Polls,
    Scan,
    SetupError,
    Wire,
    refused,
    unheard,
)

COLUMNS = ("time_s", "device", "point", "value", "note")
_BATCH = 256
"""Scans of one `read` at most, so that `at_once` does not become one endless call."""
_PROBLEMS_MAX = 20
_NOTES = frozenset(Note)
_ABSENT = WIRE_NOTES | DEVICE_NOTES


class ReplayPoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the recording cannot say about a quantity."""

    unit: str = ""
    resolution: Annotated[float, Meta(gt=0)]
    low: float | None = None
    high: float | None = None
    rest: float | None = None
    counter: bool = False


class ReplayDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recorded device."""

    id: Id
    name: str = ""
    points: Annotated[dict[Id, ReplayPoint], Meta(min_length=1)]


class ReplayWire(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recording as a wire."""

    file: Annotated[str, Meta(min_length=1, description="a recording, .csv or .jsonl")]
    speed: Annotated[Literal["real", "at_once"] | Annotated[float, Meta(gt=0)],
                     Meta(description="real, at_once, or how many times faster than recorded")] = "real"
    devices: tuple[ReplayDevice, ...]


class _Line(NamedTuple):
    number: int
    time_s: float
    device: str
    point: str
    value: float | None
    note: str


class Replay:
    """A recording as a wire; see `drivers.Driver`.

    ``real`` and a factor give each Scan when its time has come, stamped with that time. ``at_once`` gives everything
    without waiting, stamped as if the recording ended at `open`: its own spacing is kept, nothing lies ahead of now.
    Points nobody polls are left out.
    """

    Wire = ReplayWire

    def __init__(self, wire: ReplayWire, polls: Polls, library: Library = (),  # noqa: ARG002
                 now: Callable[[], float] = time.monotonic) -> None:
        self._wire = wire
        self._wanted = {(device, point) for device, points in polls.items() for point in points}
        self._now = now
        self._wake = threading.Event()
        self._scans: Iterator[Scan] | None = None
        self._next: Scan | None = None
        self._finished = False
        self._given = {device.id: 0 for device in wire.devices}
        errors, self._first_s, self._last_s = _check(wire, 1)
        if errors:
            raise SetupError(f"wire {wire.id}: {errors[0]}")

    @staticmethod
    def describe(wire: ReplayWire, library: Library = ()) -> Mapping[str, Mapping[str, PointInfo]]:  # noqa: ARG004
        """Device id → point → PointInfo, from the wire alone."""
        return {device.id: {name: PointInfo(unit=p.unit, resolution=p.resolution, low=p.low, high=p.high, rest=p.rest,
                                            counter=p.counter, model="replay")
                            for name, p in device.points.items()} for device in wire.devices}

    @staticmethod
    def problems(wire: ReplayWire, library: Library = ()) -> list[tuple[tuple[str | int, ...], str]]:  # noqa: ARG004
        """What is wrong with the recording, with file and line; the first of them only when there are many."""
        return [(("file",), text) for text in _check(wire, _PROBLEMS_MAX)[0]]

    def open(self) -> None:
        """Begin the recording from its start.

        Raises:
            LinkError: the file has gone since it was checked.
        """
        self.close()
        if not Path(self._wire.file).is_file():
            raise LinkError(f"{self._wire.file}: the recording has gone: put it back")
        now_s = self._now()
        if self._wire.speed == "at_once":
            self._scans = self._play(now_s - (self._last_s - self._first_s), 1.0)
        else:
            self._scans = self._play(now_s, 1.0 if self._wire.speed == "real" else float(self._wire.speed))
        self._finished = False
        self._wake.clear()
        self._advance()

    def read(self, timeout_s: float) -> list[Scan]:
        """Return the Scans whose time has come; waits for the first of them."""
        end_s = self._now() + timeout_s
        while self._scans is not None:
            now_s = self._now()
            ready: list[Scan] = []
            while self._next is not None and self._next.at_s <= now_s and len(ready) < _BATCH:
                ready.append(self._next)
                self._given[self._next.device] += 1
                self._advance()
            if ready or now_s >= end_s:
                return ready
            self._wake.wait((end_s if self._next is None else min(end_s, self._next.at_s)) - now_s)
        raise LinkError(f"wire {self._wire.id}: is not open")

    def submit(self, command: Command, answer: Answer = unheard) -> None:
        """Hear a Command; a recording cannot be asked, so nothing comes of it."""
        answer(refused(command, "a recording cannot be asked", "回放的记录不接受命令"))

    def finish(self) -> list[Scan]:
        """Nothing is ever on its way."""
        return []

    def close(self) -> None:
        """Leave the recording; twice is once."""
        self._scans = self._next = None
        self._wake.set()

    def health(self) -> list[Health]:
        """``ok`` while there is more to come; ``unknown`` before the start and after the end."""
        running = self._scans is not None and not self._finished
        return [Health(device, "ok" if running else "unknown", asked=given, answered=given,
                       errors={"end_of_file": 1} if self._finished else {}) for device, given in self._given.items()]

    def _advance(self) -> None:
        if self._scans is None:
            return
        self._next = next(self._scans, None)
        self._finished = self._next is None

    def _play(self, start_s: float, factor: float) -> Iterator[Scan]:
        """Turn runs of lines with one time and device into Scans on our own clock."""
        group: list[_Line] = []
        for line in _lines(Path(self._wire.file)):
            if isinstance(line, str):
                raise LinkError(f"{line} (the recording has changed since it was checked)")
            if (line.device, line.point) not in self._wanted:
                continue
            if group and (line.time_s, line.device) != (group[0].time_s, group[0].device):
                yield self._scan(group, start_s, factor)
                group = []
            group.append(line)
        if group:
            yield self._scan(group, start_s, factor)

    def _scan(self, group: list[_Line], start_s: float, factor: float) -> Scan:
        notes = tuple(line.note for line in group)
        return Scan(group[0].device, start_s + (group[0].time_s - self._first_s) / factor,
                    tuple(line.point for line in group), tuple(line.value for line in group),
                    notes if any(notes) else ())


def _check(wire: ReplayWire, most: int) -> tuple[list[str], float, float]:
    """Walk the whole recording once: (errors, at most `most`; first time; last time)."""
    known = {(device.id, point) for device in wire.devices for point in device.points}
    path = Path(wire.file)
    errors: list[str] = []
    first_s = last_s = math.nan
    seen: set[str] = set()
    device = ""
    try:
        for line in _lines(path):
            if isinstance(line, str):
                errors.append(line)
            else:
                where = f"{path}:{line.number}"
                if (line.device, line.point) not in known:
                    errors.append(f"{where}: {line.device}.{line.point} is not among the wire's devices and points: "
                                  f"add it there, or remove the line")
                if line.time_s < last_s:
                    errors.append(f"{where}: time_s {line.time_s} goes back: expected {last_s} or later; sort the file")
                if (line.time_s, line.device) != (last_s, device):
                    seen.clear()
                if line.point in seen:
                    errors.append(f"{where}: {line.device}.{line.point} comes twice at {line.time_s}")
                seen.add(line.point)
                device = line.device
                first_s = line.time_s if math.isnan(first_s) else first_s
                last_s = line.time_s
            if len(errors) >= most:
                break
    except OSError as error:
        errors.append(f"{path}: cannot be read ({error.strerror}): expected a recording, .csv or .jsonl")
    except UnicodeDecodeError as error:
        errors.append(f"{path}: is not UTF-8 ({error}): save it as UTF-8")
    if not errors and math.isnan(first_s):
        errors.append(f"{path}: has no readings")
    return errors, first_s, last_s


def _lines(path: Path) -> Iterator[_Line | str]:
    """Read line by line: a `_Line`, or what is wrong with it."""
    if path.suffix not in (".csv", ".jsonl"):
        yield f"{path}: expected a file called .csv or .jsonl"
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield _json_line(path, number, text)
            return
        rows = csv.reader(file, strict=True)
        header = [name.strip() for name in next(rows, [])]
        if header not in (list(COLUMNS), list(COLUMNS[:4])):
            yield f"{path}:1: header {','.join(header)!r}: expected {','.join(COLUMNS)}"
            return
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"{path}:{rows.line_num}: {error}"
                continue
            if not row:
                continue
            if len(row) != len(header):
                yield f"{path}:{rows.line_num}: {len(row)} columns: expected {len(header)}"
                continue
            cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
            yield _line(path, rows.line_num, cells["time_s"], cells["device"], cells["point"], cells["value"] or None,
                        cells.get("note", ""))


def _json_line(path: Path, number: int, text: str) -> _Line | str:
    try:
        found = json.loads(text)
    except ValueError as error:
        return f"{path}:{number}: is not JSON ({error})"
    if not isinstance(found, dict) or not set(COLUMNS[:3]) <= set(found) <= set(COLUMNS):
        return f"{path}:{number}: expected an object with the keys {', '.join(COLUMNS)}"
    return _line(path, number, found["time_s"], found["device"], found["point"], found.get("value"),
                 found.get("note") or "")


def _line(path: Path, number: int, time_s: Any, device: Any, point: Any, value: Any, note: Any) -> _Line | str:
    where = f"{path}:{number}"
    numbers: list[float] = []
    for name, given in (("time_s", time_s), ("value", 0.0 if value is None else value)):
        try:
            # float() takes more than anybody writes into a recording on purpose.
            read = math.nan if isinstance(given, bool) or "_" in str(given) else float(given)
        except (TypeError, ValueError):
            read = math.nan
        if not math.isfinite(read):
            return f"{where}: {name} {given!r}: expected a number{' or nothing' if name == 'value' else ''}"
        numbers.append(read)
    if note and note not in _NOTES:
        return f"{where}: note {note!r}: expected nothing or one of {', '.join(_NOTES)}"
    if (value is None) != (note in _ABSENT):
        return (f"{where}: value {value!r} with note {note!r}: a value is left out exactly when its note says why "
                f"({', '.join(sorted(_ABSENT))})")
    return _Line(number, numbers[0], str(device), str(point), None if value is None else numbers[1], str(note))
