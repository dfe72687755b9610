"""What polls cost a wire: the requests they become, and where they want more time than there is.

Owns: the reckoning of load. Promises: exact for the wire's settings, the turnaround being the one estimate; nothing
here touches hardware. Never: keeps time or state, decides when to read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct, structs

from drivers import Library, Polls, SetupError
from drivers.modbus_wire import Device, ModbusWire, Problem
from drivers.planner import Block, Cost, Hole, characters, plan, silence_ms
from drivers.sensor import Point, Template
from drivers.template import find

SHARE = 0.8
"""Share of a wire's time that polls may fill: the rest is for failures, confirming reads and slow answers."""


class Request(Struct, frozen=True, kw_only=True):
    """One read that comes again and again."""

    device: str
    address: int
    function: int
    first: int
    count: int
    points: tuple[str, ...]
    ms: float
    """Bus time."""
    poll_s: float


def cost_of(wire: ModbusWire, device: Device, template: Template) -> Cost:
    """Return what an exchange with this device costs on this wire.

    The device's own rest is bus time only where it is alone: on a shared wire the others are asked meanwhile.
    """
    rest_ms = template.min_gap_ms if len(wire.devices) == 1 else 0.0
    if "://" in wire.port:
        return Cost(0.0, 1.0 if wire.turnaround_ms is None else wire.turnaround_ms, 0.0, rest_ms)
    settings = device.serial or wire.serial or template.serial
    char_ms = characters(settings.baud, settings.parity, settings.stop_bits)
    return Cost(char_ms, 10.0 if wire.turnaround_ms is None else wire.turnaround_ms,
                silence_ms(char_ms, settings.baud), rest_ms)


def blocks_of(template: Template, points: Mapping[str, float], cost: Cost,
              apart: Collection[Hole] = ()) -> list[tuple[float, list[Point], Block]]:
    """Plan the block reads of one device: what shares a poll period shares blocks.

    Where the rest between them keeps the device from being on time, it is counted: the wire has time, the device has
    not. `apart`: where the device refused to be read over.
    """
    cheapest = _blocks(template, points, cost, apart)
    if _busy(cheapest, cost, template) <= 1:
        return cheapest
    rested = structs.replace(cost, rest_ms=max(cost.rest_ms, template.min_gap_ms))
    return min(cheapest, _blocks(template, points, rested, apart), key=lambda planned: _busy(planned, cost, template))


def _blocks(template: Template, points: Mapping[str, float], cost: Cost,
            apart: Collection[Hole]) -> list[tuple[float, list[Point], Block]]:
    periods: dict[float, list[Point]] = {}
    for name, poll_s in points.items():
        periods.setdefault(poll_s, []).append(template.point(name))
    return [(poll_s, [members[n] for n in block.spans], block) for poll_s, members in sorted(periods.items())
            for block in plan([point.span() for point in members], cost, template.max_registers, template.contiguous,
                              apart)]


def _busy(planned: list[tuple[float, list[Point], Block]], cost: Cost, template: Template) -> float:
    """Share of the device's own time that its reads fill, the rest it wants included."""
    once = structs.replace(cost, rest_ms=max(cost.rest_ms, template.min_gap_ms))
    return sum(once.exchange_ms(block.function, block.count) / (1000 * poll_s) for poll_s, _, block in planned)


def requests(wire: ModbusWire, polls: Polls, library: Library) -> list[Request]:
    """Every read that these polls become, device by device, the most frequent first.

    Devices and points that do not exist are left out: `problems` says so.
    """
    found: list[Request] = []
    for device in wire.devices:
        try:
            template = find(device.template, library)
            cost = cost_of(wire, device, template)
            planned = blocks_of(template, polls.get(device.id, {}), cost)
        except (SetupError, KeyError):
            continue
        found += [Request(device=device.id, address=device.address, function=block.function, first=block.first,
                          count=block.count, points=tuple(point.id for point in points),
                          ms=cost.exchange_ms(block.function, block.count), poll_s=poll_s)
                  for poll_s, points, block in planned]
    return found


def overload(wire: ModbusWire, polls: Polls, library: Library) -> list[Problem]:
    """Say where polls want more than 80 % of the wire's time, or a device more than its rest allows; with numbers.

    Apart from `problems` because it needs the polls. An overloaded wire still works: late polls are skipped.
    """
    found: list[Problem] = []
    shares: dict[str, float] = {}
    for n, device in enumerate(wire.devices):
        try:
            template = find(device.template, library)
            cost = cost_of(wire, device, template)
            planned = blocks_of(template, polls.get(device.id, {}), cost)
        except (SetupError, KeyError):
            continue   # said elsewhere
        times = [(cost.exchange_ms(block.function, block.count), 1000 * poll_s) for poll_s, _, block in planned]
        shares[device.id] = sum(ms / poll_ms for ms, poll_ms in times)
        busy = _busy(planned, cost, template)
        if busy > 1:
            found.append((("devices", n), (f"{device.id} is polled faster than it can answer: {len(times)} reads of "
                          f"{max(ms for ms, _ in times):.0f} ms with {template.min_gap_ms:.0f} ms of rest after "
                          f"each fill {busy:.0%} of its time; make poll_s at least {busy:.1f} times as long")))
    total = sum(shares.values())
    if total > SHARE:
        most = max(shares, key=lambda device: shares[device])
        found.append((("devices",), (f"polls fill {total:.0%} of the wire's time, more than {SHARE:.0%}: "
                      f"{most} alone takes {shares[most]:.0%}; poll {total / SHARE:.1f} times more seldom, raise the "
                      "baud rate, or move devices to another wire")))
    return found
