"""A Modbus wire as configured: its keys and what cannot work.

Owns: the structs of a wire and its devices, their cross-checks. Promises: nothing here touches hardware.
Never: keeps time or state, reckons time (`load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from drivers import Id, Library, SetupError
from drivers import Wire as AnyWire
from drivers.direction import AUTO, Direction
from drivers.power import Supply
from drivers.reader import missing_parameters
from drivers.sensor import Serial
from drivers.template import find

Problem = tuple[tuple[str | int, ...], str]


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sensor on the wire."""

    id: Id
    name: str = ""
    template: Annotated[str, Meta(min_length=1, max_length=64, description="a file in config/sensors, without .yaml")]
    address: Annotated[int, Meta(ge=1, le=247)]
    serial: Serial | None = None
    """Only where it differs from the wire's; needs `mixed_settings: true`."""
    port: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Its own ``tcp://host:port``, where the hosts of one wire differ."""
    parameters: Mapping[Annotated[str, Meta(max_length=48)], float] = {}
    """Of this very instrument, as its model asks for them (calibration sheet)."""
    writable: tuple[Id, ...] = ()
    """Points that may be written, each by its model's own write rule."""
    actions: tuple[Id, ...] = ()
    """Actions of its model that may be done."""
    answer_timeout_ms: Annotated[float, Meta(ge=20, le=10000)] | None = None
    """Where it needs another patience than the wire's; `mingluo status` suggests one."""
    supply: Supply | None = None
    """The relay that feeds it, when its power is switched."""


class ModbusWire(AnyWire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A serial port (``/dev/ttyUSB0``, or any path) or hosts (``tcp://host:port``) with Modbus devices."""

    port: Annotated[str, Meta(max_length=200)] = ""
    """May be left out when every device names its own host."""
    framing: Literal["rtu", "ascii", "tcp"] | None = None
    """What travels: left out, rtu on a serial port and tcp (Modbus TCP) on a network."""
    serial: Serial | None = None
    mixed_settings: bool = False
    """Devices of different speed or parity share this wire on purpose."""
    echo: bool = False
    """The adapter hears what it sends itself."""
    direction: Direction = AUTO
    """Who turns the transceiver round."""
    answer_timeout_ms: Annotated[float, Meta(ge=20, le=10000)] = 300.0
    """From the last byte of a request to the first of its answer."""
    retries: Annotated[int, Meta(ge=0, le=3)] = 1
    """How often a poll that failed is asked again at once before it counts as failed."""
    turnaround_ms: Annotated[float, Meta(ge=0, le=1000)] | None = None
    """What devices usually take to answer (default 10, on TCP 1): only used to plan reads and to reckon the load."""
    devices: Annotated[tuple[Device, ...], Meta(min_length=1)]


def host_port(port: str) -> tuple[str, int] | None:
    """Split ``tcp://host:port``; None for a serial port.

    Raises:
        ValueError: neither.
    """
    if "://" not in port:
        if port.startswith("tcp:") or not port.strip() or "\0" in port:
            raise ValueError(f"found {port!r}, expected a path like /dev/ttyUSB0 or tcp://host:port")
        return None
    parts = urlsplit(port)
    try:
        number = parts.port
    except ValueError:
        number = None
    if parts.scheme != "tcp" or not parts.hostname or not number or parts.path or parts.username:
        raise ValueError(f"found {port!r}, expected a path like /dev/ttyUSB0 or tcp://host:port (port 1 to 65535)")
    return parts.hostname, number


def target_of(wire: ModbusWire, device: Device) -> tuple[str, int] | None:
    """Return the host a device is behind; None on a serial wire. Raises ValueError as `host_port`."""
    return host_port(device.port or wire.port)


def settings_of(wire: ModbusWire, device: Device, library: Library) -> Serial:
    """Return how a device's characters travel: as said for it, for its wire, or as its model leaves the factory."""
    if device.serial or wire.serial:
        return device.serial or wire.serial or Serial()
    try:
        return find(device.template, library).serial
    except SetupError:
        return Serial()   # `problems` says what is wrong with the template


def line_settings(wire: ModbusWire, library: Library) -> Serial:
    """Return the settings a serial port is opened with: the wire's, or those of its first device."""
    return wire.serial or settings_of(wire, wire.devices[0], library)


def problems(wire: ModbusWire, library: Library) -> list[Problem]:
    """What cannot work in this set-up: (path below the wire, message)."""
    found: list[Problem] = []
    network = "://" in wire.port or any(device.port for device in wire.devices)
    serial = False
    try:
        if wire.port or not all(device.port for device in wire.devices):
            serial = host_port(wire.port) is None
            network |= not serial
    except ValueError as error:
        found.append((("port",), str(error)))
    if network and wire.serial:
        found.append((("serial",), "a TCP wire has no serial settings; set them in the converter, delete them here"))
    if network and (wire.echo or wire.direction != AUTO):
        found.append((("echo" if wire.echo else "direction",), "that is a serial line's; delete it on a TCP wire"))
    if wire.framing == "tcp" and not network:
        found.append((("framing",), "a serial port carries rtu or ascii: delete the key, or give tcp://host:port"))
    ours = line_settings(wire, library)
    hosts: set[tuple[str, int] | None] = set()
    taken: dict[tuple[object, int], str] = {}
    seen: set[str] = set()
    for n, device in enumerate(wire.devices):
        where = ("devices", n)
        if device.id in seen:
            found.append(((*where, "id"), f"a second device called {device.id!r}; ids must differ"))
        seen.add(device.id)
        target = None
        try:
            if device.port or wire.port:
                target = target_of(wire, device)
            if device.port and target is None:
                raise ValueError(f"found {device.port!r}, expected tcp://host:port: a device on another serial port "
                                 "belongs to another wire")
            if device.port and serial:
                raise ValueError(f"found {device.port!r} on a serial wire: a host belongs to a wire of its own")
        except ValueError as error:
            if device.port:
                found.append(((*where, "port"), str(error)))
        hosts.add(target)
        if (other := taken.get((target, device.address))) is not None:
            found.append(((*where, "address"), (f"address {device.address} is taken by {other!r} "
                          "on the same wire: both would answer at once; give one of them another address")))
        taken.setdefault((target, device.address), device.id)
        if device.serial and network:
            found.append(((*where, "serial"), "a TCP wire has no serial settings; set them in the converter"))
        elif not network and not wire.mixed_settings and (own := settings_of(wire, device, library)) != ours:
            found.append(((*where, "serial" if device.serial else "template"), (
                f"{_settings(own)} on a wire of {_settings(ours)}: set the device to the wire's "
                f"{'' if device.serial else 'and give the wire its serial settings '}"
                "(mixed_settings: true if both are meant to share it)")))
        if device.actions and (wire.framing or ("tcp" if network else "rtu")) != "rtu":
            found.append(((*where, "actions"), "actions are whole RTU frames: they travel with framing: rtu only"))
        found += [((*where, *path), text) for path, text in _of_model(device, library)]
    named = sorted(host for host, _ in filter(None, hosts) if not _is_address(host))
    if len(hosts) > 1 and named:
        found.append((("devices",), (f"{named[0]!r} is a name: where hosts share a wire, write addresses like "
                      "192.168.1.50, as a name look-up may hang and would hold up the others; or give it a wire of "
                      "its own")))
    return found


def _of_model(device: Device, library: Library) -> list[Problem]:
    """What a device's keys say that its model does not know."""
    try:
        template = find(device.template, library)
    except SetupError as error:
        return [(("template",), str(error))]
    found: list[Problem] = [(("parameters",), text) for text in missing_parameters(
        template, [point.id for point in template.points], device.parameters)]
    may = sorted(point.id for point in template.points if point.write)
    found += [(("writable", n), (f"{name!r} is nothing that may be written; of {template.model} these may: "
                                f"{', '.join(may) or 'none'}")) for n, name in enumerate(device.writable)
              if name not in may]
    can = sorted(action.id for action in template.actions)
    found += [(("actions", n), f"{name!r} is no action of {template.model}; it has {', '.join(can) or 'none'}")
              for n, name in enumerate(device.actions) if name not in can]
    return found


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _settings(serial: Serial) -> str:
    return f"{serial.baud} 8{serial.parity[0].upper()}{serial.stop_bits}"
