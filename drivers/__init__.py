"""The contract between hardware and meaning.

Owns: the vocabulary of the seam (Scan, Command, Note, PointInfo, Wire) and the registry.
Promises: a driver that keeps the etiquette below can be added as one file and found by its entry point.
Never: judges, smooths, fills gaps, starts threads, knows wall time, imports `gateway`.

Etiquette (the whole of it; README.md says why):

1. Emit what the hardware said, nothing more. No caching, no derived values.
2. A point missing from a Scan was not asked this time. A value of ``None`` with a note was asked and failed.
   Time is never ``None``.
3. One deaf device is a note in a Scan. A dead wire is `LinkError`, raised by `open` or `read`.
   A wrong set-up is `SetupError`, raised by the constructor.
4. `read` returns within its timeout plus one exchange, with what has arrived; empty means nothing now.
5. `submit` may be called from any thread; the next `read` honours it.
6. `close` may be called twice, and after a failed `open`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from msgspec import Meta, Struct

Id = Annotated[str, Meta(pattern=r"^[a-z0-9_-]+$", max_length=48,
                         description="lower-case letters, digits, - and _; Chinese belongs in name")]
"""What people and machines call a thing for ever: a wire, a device, a point, an object."""

Seconds = Annotated[float, Meta(gt=0, le=7 * 86400)]
Beyond = Literal["fail", "saturated"]
"""What a value outside the range means: the instrument is wrong, or the quantity really is off the scale."""


class LinkError(OSError):
    """The wire itself is gone (unplugged, refused, no such port). The caller waits and opens again."""


class SetupError(ValueError):
    """The configuration cannot work on this hardware. Never retried."""


class Note(StrEnum):
    """Why a value is absent or doubtful, in one word. The closed list of what drivers may say."""

    # asked and got no usable answer (the wire's side): quality 9
    NO_ANSWER = "no_answer"
    BAD_CRC = "bad_crc"
    FOREIGN = "foreign_answer"
    REFUSED = "refused"            # a Modbus exception
    BUSY = "busy"
    LINK = "link_down"
    QUARANTINED = "quarantined"
    BORROWED = "borrowed"
    # answered, but the instrument disowns the value (the device's side): quality 4
    NO_DATA = "no_data"
    WARM_UP = "warm_up"
    SENSOR_FAULT = "sensor_fault"
    UNIT_MISMATCH = "unit_mismatch"
    NOT_A_NUMBER = "not_a_number"
    # answered with a value that needs a second look
    OVER_RANGE = "over_range"
    UNDER_RANGE = "under_range"


WIRE_NOTES = frozenset({Note.NO_ANSWER, Note.BAD_CRC, Note.FOREIGN, Note.REFUSED, Note.BUSY, Note.LINK,
                        Note.QUARANTINED, Note.BORROWED})
DEVICE_NOTES = frozenset({Note.NO_DATA, Note.WARM_UP, Note.SENSOR_FAULT, Note.UNIT_MISMATCH, Note.NOT_A_NUMBER})


class Scan(Struct, frozen=True, gc=False):
    """What one exchange said about one device.

    `points`, `values` and (when not empty) `notes` run side by side. ``notes == ()`` means no remarks;
    otherwise a remark is a `Note` or ``""``. A value is ``None`` exactly when the read failed, and its note says why.
    """

    device: str
    at_s: float
    """Arrival of the last byte on the monotonic clock, in seconds."""
    points: tuple[str, ...]
    values: tuple[float | None, ...]
    notes: tuple[str, ...] = ()
    time_s: float | None = None
    """The device's own time (UTC seconds) when it has one."""


class Command(Struct, frozen=True, kw_only=True):
    """Something asked of a wire.

    ``read_now`` (a confirming read of `points`, or of all) · ``pace`` (poll every `period_s` until `until_s`) ·
    ``write`` (`values` to points of `device` that its model and the configuration let be written, read back) ·
    ``act`` (the model's `action`, a frame of its own) · ``lend`` (the whole wire, `device` empty, until `until_s` or
    a ``take_back``; its points read `borrowed` meanwhile).
    """

    id: str
    kind: Literal["read_now", "pace", "write", "act", "lend", "take_back"]
    device: str = ""
    points: tuple[str, ...] = ()
    deadline_s: float
    """Monotonic; a command found older than this is dropped."""
    period_s: float | None = None
    until_s: float | None = None
    values: Mapping[str, float] = {}
    action: str = ""
    siren: bool = False
    """It sounds or silences a siren: before everything else on the wire."""


class Result(Struct, frozen=True, kw_only=True):
    """What became of a Command."""

    id: str
    ok: bool
    text_en: str = ""
    text_zh: str = ""
    values: Mapping[str, float | None] = {}
    """What was read, or read back."""


Answer = Callable[[Result], None]
"""Called once with what became of a command, from the driver's thread; it must not block."""


def unheard(_: Result) -> None:
    """Nobody waits for the result."""


def refused(command: Command, text_en: str, text_zh: str) -> Result:
    """Return the result of a command that was not honoured."""
    return Result(id=command.id, ok=False, text_en=text_en, text_zh=text_zh)


class PointInfo(Struct, frozen=True):
    """What a template (or a driver) knows about one quantity, for judgement and for the inventory."""

    unit: str
    resolution: float
    low: float | None = None
    high: float | None = None
    beyond_low: Beyond = "fail"
    beyond_high: Beyond = "fail"
    rest: float | None = None
    """The value at which nothing happening looks like nothing changing (0 mm rain, contact closed)."""
    counter: bool = False
    """Only ever grows, but may wrap or restart at zero."""
    wrap: float | None = None
    """A counter begins again at 0 after this much, in `unit`; None = not known (`drivers.counter.grew`)."""
    resets: Literal["power_loss", "command", "never"] = "power_loss"
    """What else makes a counter begin again at 0."""
    warm_up_s: float = 0.0
    model: str = ""


class Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys every wire has. A driver's own Wire adds `port`, `devices` and whatever it needs."""

    id: Id
    driver: str
    name: str = ""


class Health(Struct, frozen=True):
    """How one (wire, device) is doing; shown, never judged."""

    device: str
    state: Literal["ok", "failing", "quarantined", "unknown"]
    asked: int = 0
    answered: int = 0
    errors: Mapping[str, int] = {}
    response_ms: float | None = None
    """Median response time of recent answers, last request byte to first answer byte."""
    response_p95_ms: float | None = None
    response_max_ms: float | None = None
    timeout_ms: float | None = None
    """The answer timeout these responses call for; late answers count."""
    slip_ms: float | None = None
    """How late recent polls began, 95 % of them at most."""
    missed: int = 0
    """Polls skipped because the wire or the device was not free in time."""
    refused: tuple[str, ...] = ()
    """Registers the device refuses to be read over, as function:first-last; reads go round them."""


Polls = Mapping[str, Mapping[str, float]]
"""device id → point → poll_s: what to read and how often."""


Library = tuple[Path, ...]
"""Folders searched for templates, in order: the site's own `sensors/` beside its config, then the shipped one."""


class Driver(Protocol):
    """One wire. See the etiquette above."""

    Wire: ClassVar[type[Wire]]
    """The wire's keys in the configuration; a subclass of `drivers.Wire`."""

    def __init__(self, wire: Any, polls: Polls, library: Library, now: Callable[[], float]) -> None: ...

    @staticmethod
    def describe(wire: Any, library: Library) -> Mapping[str, Mapping[str, PointInfo]]:
        """Device id → point → PointInfo, from the set-up alone, without touching hardware.

        A device whose template is missing or broken is left out: `problems` says so.
        """
        ...

    @staticmethod
    def problems(wire: Any, library: Library) -> list[tuple[tuple[str | int, ...], str]]:
        """What cannot work in this set-up: (path below the wire, message). Empty when all is well."""
        ...

    def open(self) -> None:
        """Take the wire. Raises LinkError while it is not there."""
        ...

    def read(self, timeout_s: float) -> list[Scan]:
        """Return what has arrived: one exchange on a serial line, all that are ready on TCP; empty = nothing now.

        Raises:
            LinkError: the wire is gone; the caller closes, waits and opens again.
        """
        ...

    def submit(self, command: Command, answer: Answer = unheard) -> None:
        """Take an ask from any thread; the next `read` honours it, before ordinary polls, and calls `answer`."""
        ...

    def finish(self) -> list[Scan]:
        """Ask nothing more; return what answers were still on their way. Called when the process ends in order."""
        ...

    def close(self) -> None:
        """Let go of the wire; twice is once."""
        ...

    def health(self) -> list[Health]:
        """How each device is doing; may be called from any thread."""
        ...


def names() -> list[str]:
    """Names of all installed drivers."""
    return sorted(e.name for e in metadata.entry_points(group="mingluo.drivers"))


def find(name: str) -> type[Driver]:
    """Load the driver registered under `name`.

    Raises:
        SetupError: no such driver; the message lists those there are.
    """
    for entry in metadata.entry_points(group="mingluo.drivers", name=name):
        driver: type[Driver] = entry.load()
        return driver
    raise SetupError(f"no driver called {name!r}: expected one of {', '.join(names())}")
