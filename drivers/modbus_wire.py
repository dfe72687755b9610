"""A Modbus wire as configured: its keys and what cannot work.

Owns: the structs of a wire and its devices, their cross-checks. Promises: nothing here touches hardware.
Never: keeps time or state, reckons time (`load`).
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from drivers import Id, Library, SetupError
from drivers import Wire as AnyWire
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


class ModbusWire(AnyWire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A serial port (``/dev/ttyUSB0``, or any path) or a host (``tcp://host:port``) with Modbus devices."""

    port: Annotated[str, Meta(min_length=1, max_length=200)]
    serial: Serial | None = None
    mixed_settings: bool = False
    """Devices of different speed or parity share this wire on purpose."""
    answer_timeout_ms: Annotated[float, Meta(ge=20, le=10000)] = 300.0
    """From the last byte of a request to the first of its answer."""
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


def problems(wire: ModbusWire, library: Library) -> list[Problem]:
    """What cannot work in this set-up: (path below the wire, message)."""
    found: list[Problem] = []
    try:
        target = host_port(wire.port)
    except ValueError as error:
        found.append((("port",), str(error)))
        target = None
    if target and wire.serial:
        found.append((("serial",), "a TCP wire has no serial settings; set them in the converter, delete them here"))
    ours = wire.serial or Serial()
    addresses: dict[int, str] = {}
    seen: set[str] = set()
    for n, device in enumerate(wire.devices):
        where = ("devices", n)
        if device.id in seen:
            found.append(((*where, "id"), f"a second device called {device.id!r}; ids must differ"))
        seen.add(device.id)
        if device.address in addresses:
            found.append(((*where, "address"), (f"address {device.address} is taken by {addresses[device.address]!r} "
                          "on the same wire: both would answer at once; give one of them another address")))
        addresses.setdefault(device.address, device.id)
        if device.serial and target:
            found.append(((*where, "serial"), "a TCP wire has no serial settings; set them in the converter"))
        elif device.serial and device.serial != ours and not wire.mixed_settings:
            found.append(((*where, "serial"), (f"{_settings(device.serial)} on a wire of {_settings(ours)}: set the "
                          "device to the wire's, or write mixed_settings: true if this is meant")))
        try:
            find(device.template, library)
        except SetupError as error:
            found.append(((*where, "template"), str(error)))
    return found


def _settings(serial: Serial) -> str:
    return f"{serial.baud} 8{serial.parity[0].upper()}{serial.stop_bits}"
