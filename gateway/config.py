"""What a site's configuration says: every key of gateway.yaml, as frozen structs.

Owns: the keys, their bounds and their defaults. Promises: plain data; a value of these types has every single field in
bounds (what fields say together is the business of `checks`). Never: reads a file, holds a secret.

Relative paths: `password_file` and the files under `tls` are relative to the folder of the configuration; a wire's
`port`, `journal.folder`, `journal.staging` and `control.socket` are relative to the working directory of the process.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from drivers import Id, Seconds, Wire
from gateway.model import LANES, Lane, Service

Text = Annotated[str, Meta(min_length=1, max_length=200)]
PointRef = Annotated[str, Meta(pattern=r"^[a-z0-9_-]+\.[a-z0-9_-]+$", description="device.point")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Pin = Annotated[int, Meta(ge=0, le=27, description="BCM number")]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every section of the file: frozen, and a key nobody reads is an error."""


class Gateway(_Part, frozen=True, kw_only=True):
    """The box itself."""

    id: Id
    name: Text
    root: Annotated[str, Meta(pattern=r"^[^+#/\s][^+#\s]*$", description="MQTT topic root")] = "mingluo"
    sim_mb_month: Annotated[float, Meta(gt=0)] | None = None
    """What the SIM card carries in a month, all platforms together; 1 MB = 10^6 bytes. Only `plan` and `check` ask."""


class Report(_Part, frozen=True, kw_only=True):
    """When a reading goes upstream. Polling is not reporting; from yellow up everything is reported."""

    every_s: Annotated[float, Meta(ge=0, description="0 = every reading")] = 60.0
    change: Annotated[float, Meta(gt=0, description="report at once when the value moved this far")] | None = None


class Quality(_Part, frozen=True, kw_only=True):
    """Limits beyond the template's. Each test is off where its limit is absent."""

    low: float | None = None
    high: float | None = None
    rate_per_s: Annotated[float, Meta(gt=0, description="faster than this is suspect")] | None = None
    flat_s: Seconds | None = None
    stale_s: Seconds | None = None


class Point(_Part, frozen=True, kw_only=True):
    """One quantity of the object, read from one point of a device."""

    id: Id
    name: Text
    read: PointRef
    poll_s: Annotated[float, Meta(ge=0.01, le=86400)]
    report: Report = Report()
    quality: Quality = Quality()


class Levels(_Part, frozen=True, kw_only=True):
    """Thresholds by colour; each may be left out, those given must ascend (descend for `below`)."""

    blue: float | None = None
    yellow: float | None = None
    orange: float | None = None
    red: float | None = None


class Rule(_Part, frozen=True, kw_only=True):
    """One comparison that votes for a colour of its object."""

    id: Id
    point: Id
    above: Levels | None = None
    below: Levels | None = None
    hysteresis: Annotated[float, Meta(ge=0)] = 0.0
    on_delay_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    off_delay_s: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    latch: tuple[Literal["blue", "yellow", "orange", "red"], ...] = ("red",)
    """Colours that only a person clears."""


Deed = Literal["automatic", "confirm", "none"]


class Authority(_Part, frozen=True, kw_only=True):
    """Who decided what this box may do by itself, per colour. The box proposes; the law says who warns."""

    approved_by: Text
    approved_on: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    blue: Deed = "none"
    yellow: Deed = "none"
    orange: Deed = "confirm"
    red: Deed = "automatic"
    confirm_s: Annotated[float, Meta(ge=10, le=3600)] = 120.0
    unanswered: Literal["sound", "hold"] = "sound"
    """What happens when nobody answers within confirm_s."""


class Position(_Part, frozen=True, kw_only=True):
    """Where the object is; GCJ-02 is shifted on purpose, so the datum is never guessed."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    datum: Literal["wgs84", "cgcs2000", "gcj02"]


Hazard = Literal["slope", "reservoir", "gas", "rain", "flood", "tunnel", "debris", "other"]


class Watched(_Part, frozen=True, kw_only=True):
    """The thing watched: a slope, a dam, a gas section (an Object of the glossary)."""

    id: Id
    name: Text
    hazard: Hazard
    service: Service
    code: str = ""
    position: Position | None = None
    people: Annotated[int, Meta(ge=0)] | None = None
    points: Annotated[tuple[Point, ...], Meta(min_length=1)]
    rules: tuple[Rule, ...] = ()
    outputs: tuple[Id, ...] = ()
    authority: Authority | None = None


class Burst(_Part, frozen=True, kw_only=True):
    """Continuous sound up to `max_s`, then `sound_s` in every `every_s`."""

    max_s: Annotated[float, Meta(gt=0, le=600)] = 180.0
    sound_s: Annotated[float, Meta(gt=0, le=600)] = 60.0
    every_s: Annotated[float, Meta(gt=0, le=3600)] = 300.0


Pattern = Annotated[tuple[Annotated[float, Meta(gt=0, le=60)], ...],
                    Meta(description="seconds on, off, on, off …, repeated; one number = on without a break")]


class Output(_Part, frozen=True, kw_only=True):
    """A pin that warns. The safe state is what the wiring does when the pin is an undriven input."""

    id: Id
    kind: Literal["siren", "strobe", "fault_lamp"]
    wire: Id
    pin: Pin
    active: Literal["high", "low"]
    burst: Burst = Burst()
    silence_s: Annotated[float, Meta(ge=10, le=3600)] = 600.0
    blue: Pattern = ()
    yellow: Pattern = ()
    orange: Pattern = (0.5, 0.5)
    red: Pattern = (1.0,)


class Button(_Part, frozen=True, kw_only=True):
    """A button on a pin and what pressing it means."""

    read: PointRef
    does: Annotated[tuple[Literal["acknowledge", "silence", "clear"], ...], Meta(min_length=1)]
    object: Id
    who: Text


class Tls(_Part, frozen=True, kw_only=True):
    """Files of the TLS connection; the key file must not be readable by others."""

    ca_file: str
    cert_file: str | None = None
    key_file: str | None = None


class Filter(_Part, frozen=True, kw_only=True):
    """What a platform gets to see; empty lists mean all."""

    objects: tuple[Id, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    lanes: tuple[Lane, ...] = LANES
    position_decimals: Annotated[int, Meta(ge=0, le=6)] | None = None
    """Positions are rounded to so many decimals of a degree (2 = about 1 km)."""


class Link(_Part, frozen=True, kw_only=True):
    """One way to the platform, by network interface."""

    interface: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,15}$")]
    metered: bool = False
    """Its bytes count against `cap_mb_day`."""


Order = Literal["ack", "silence", "clear", "confirm", "refuse", "service", "read_now"]
"""What a platform may be allowed to ask of the box; `replay` is always."""


class Platform(_Part, frozen=True, kw_only=True):
    """One MQTT subscriber side."""

    id: Id
    profile: Literal["default", "thingsboard", "senml"] = "default"
    """What language it speaks."""
    filter: Filter = Filter()
    commands: tuple[Order, ...] = ()
    """What it may ask of the box."""
    time: bool = False
    """Its clock may set ours, where nothing better is at hand."""
    compress: bool = False
    compact: bool = False
    """Positional columns instead of names; the default profile's."""
    host: Text
    port: Port
    mqtt: Literal["5", "3.1.1"] = "5"
    client_id: str = ""
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    warn_every_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    diag_every_s: Annotated[float, Meta(ge=10, le=86400)] = 60.0
    """The whole of `status`: on a metered SIM the dearest of all messages."""
    backlog_messages_per_s: Annotated[float, Meta(gt=0, le=10000)] = 100.0
    backlog_bytes_per_s: Annotated[float, Meta(gt=0)] = 2_000_000.0
    cap_mb_day: Annotated[float, Meta(gt=0)] | None = None
    """Beyond 80 % of it only what is urgent is told in full, beyond it only alarms and events; 1 MB = 10^6 bytes."""
    links: tuple[Link, ...] = ()
    """Ways to it, first choice first; empty = the system's routes."""


class Journal(_Part, frozen=True, kw_only=True):
    """Where and how rows are kept."""

    folder: str = "/var/lib/mingluo"
    staging: str = "/run/mingluo/staging"
    commit_s: Annotated[float, Meta(ge=0.1, le=60)] = 10.0
    max_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    flash_mb_day: Annotated[float, Meta(gt=0)] = 100.0
    """What may be written to the card in a day for it to last; 1 MB = 10^6 bytes.

    `plan` and `check` ask before, an event tells afterwards."""


class Gnss(_Part, frozen=True, kw_only=True):
    """A satellite receiver that tells the time."""

    port: Text
    baud: Literal[4800, 9600, 19200, 38400, 57600, 115200] = 9600


class Clock(_Part, frozen=True, kw_only=True):
    """Where the time comes from besides the kernel."""

    rtc: bool = True
    gnss: Gnss | None = None
    drift_ppm: Annotated[float, Meta(gt=0, le=1000)] = 100.0
    """How wrong the box's own oscillators may run; by it the bound grows while nothing better is heard."""
    unset_beyond_s: Annotated[float, Meta(ge=1, le=86400)] = 300.0
    """A time whose bound has grown larger is called unset."""
    tls_grace_h: Annotated[float, Meta(ge=0, le=720)] = 72.0
    """How long after a start certificates are taken without their dates while the clock is unset."""


class Control(_Part, frozen=True, kw_only=True):
    """The local door."""

    socket: str = "/run/mingluo/control.sock"
    metrics_port: Port | None = None
    """Prometheus on 127.0.0.1; off unless set."""


class Detector(_Part, frozen=True, kw_only=True):
    """The anomaly detector; it scores and cannot sound a siren."""

    enabled: bool = True
    level: Annotated[float, Meta(gt=0)] = 6.0
    """Robust z above which an anomaly event is written."""


class Config(_Part, frozen=True, kw_only=True):
    """The whole file."""

    version: Literal[1]
    demo: bool = False
    gateway: Gateway
    wires: Annotated[tuple[Wire, ...], Meta(min_length=1)]
    objects: Annotated[tuple[Watched, ...], Meta(min_length=1)]
    outputs: tuple[Output, ...] = ()
    buttons: tuple[Button, ...] = ()
    platforms: tuple[Platform, ...] = ()
    journal: Journal = Journal()
    clock: Clock = Clock()
    control: Control = Control()
    detector: Detector = Detector()
