"""What polls cost a wire: the requests they become, and where they want more time than there is.

Owns: the reckoning of load. Promises: exact for the wire's settings, the turnaround being the one estimate; nothing
here touches hardware. Never: keeps time or state, decides when to read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct, structs

from drivers import Library, Polls
from drivers.modbus_wire import Device, ModbusWire, target_of
from drivers.planner import Block, Cost, Hole, characters, plan, silence_ms
from drivers.sensor import Point, Template
from drivers.template import find

SHARE = 0.8
"""Share of a wire's time that polls may fill: the rest is for failures, confirming reads and slow answers."""


ASCII: Mapping[str, int] = {"framing_chars": 28, "byte_chars": 2}
"""Of `Cost`: ":" and address, function, counts, LRC as two characters each, CR and LF; twice."""


class Request(Struct, frozen=True, kw_only=True):
    """One read that comes again and again."""

    host: str
    """The port it goes through: one exchange at a time."""
    device: str
    address: int
    function: int
    first: int
    count: int
    points: tuple[str, ...]
    ms: float
    """Bus time."""
    poll_s: float


class Overload(Struct, frozen=True, kw_only=True):
    """Polls that want more time than there is."""

    path: tuple[str | int, ...]
    """Below the wire."""
    en: str
    zh: str


def cost_of(wire: ModbusWire, device: Device, template: Template) -> Cost:
    """Return what an exchange with this device costs on this wire.

    The device's own rest is bus time only where it is alone on its line or behind its host: elsewhere the others are
    asked meanwhile.

    Raises:
        ValueError: the port is none.
    """
    target = target_of(wire, device)
    alone = sum(target_of(wire, other) == target for other in wire.devices) == 1
    rest_ms = template.min_gap_ms if alone else 0.0
    if target is not None:
        return Cost(0.0, 1.0 if wire.turnaround_ms is None else wire.turnaround_ms, 0.0, rest_ms)
    settings = device.serial or wire.serial or template.serial
    char_ms = characters(settings.baud, settings.parity, settings.stop_bits)
    return Cost(char_ms, 10.0 if wire.turnaround_ms is None else wire.turnaround_ms,
                silence_ms(char_ms, settings.baud), rest_ms, **(ASCII if wire.framing == "ascii" else {}))


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


class _Planned(Struct, frozen=True):
    """One device, looked at."""

    place: int
    """In the wire's list."""
    device: Device
    template: Template
    cost: Cost
    blocks: list[tuple[float, list[Point], Block]]

    @property
    def share(self) -> float:
        """Of its line's or host's time."""
        return sum(self.cost.exchange_ms(block.function, block.count) / (1000 * poll_s)
                   for poll_s, _, block in self.blocks)


def _planned(wire: ModbusWire, polls: Polls, library: Library) -> list[_Planned]:
    """Devices and points that do not exist are left out: `problems` says so."""
    found: list[_Planned] = []
    for n, device in enumerate(wire.devices):
        try:
            template = find(device.template, library)
            cost = cost_of(wire, device, template)
            found.append(_Planned(n, device, template, cost, blocks_of(template, polls.get(device.id, {}), cost)))
        except (ValueError, KeyError):   # SetupError is a ValueError
            continue
    return found


def requests(wire: ModbusWire, polls: Polls, library: Library) -> list[Request]:
    """Every read that these polls become, device by device, the most frequent first."""
    return [Request(host=one.device.port or wire.port, device=one.device.id, address=one.device.address,
                    function=block.function, first=block.first, count=block.count,
                    points=tuple(point.id for point in points), ms=one.cost.exchange_ms(block.function, block.count),
                    poll_s=poll_s)
            for one in _planned(wire, polls, library) for poll_s, points, block in one.blocks]


def overload(wire: ModbusWire, polls: Polls, library: Library) -> list[Overload]:
    """Say where polls want more than 80 % of a line's or a host's time, or a device more than its rest allows.

    Apart from `problems` because it needs the polls. An overloaded wire still works: late polls are skipped.
    """
    found: list[Overload] = []
    hosts: dict[str, list[_Planned]] = {}
    for one in _planned(wire, polls, library):
        hosts.setdefault(one.device.port or wire.port, []).append(one)
        if _busy(one.blocks, one.cost, one.template) > 1:
            found.append(_tired(one))
    for host, members in hosts.items():
        total = sum(one.share for one in members)
        if total > SHARE:
            found.append(_full(wire.id if len(hosts) == 1 else f"{wire.id} {host}", members, total, len(hosts) == 1))
    return found


def _tired(one: _Planned) -> Overload:
    name, reads, rest_ms = one.device.id, len(one.blocks), one.template.min_gap_ms
    busy = _busy(one.blocks, one.cost, one.template)
    ms = max(one.cost.exchange_ms(block.function, block.count) for _, _, block in one.blocks)
    return Overload(
        path=("devices", one.place),
        en=(f"{name} is polled faster than it can answer: {reads} reads of {ms:.0f} ms with {rest_ms:.0f} ms of rest "
            f"after each fill {busy:.0%} of its time; make poll_s at least {busy:.1f} times as long"),
        zh=(f"{name} 轮询太密，来不及应答：{reads} 次读取，每次 {ms:.0f} ms，读后休息 {rest_ms:.0f} ms，"
            f"共占它 {busy:.0%} 的时间；poll_s 至少放长到 {busy:.1f} 倍"))


def _full(name: str, members: list[_Planned], total: float, whole: bool) -> Overload:
    most = max(members, key=lambda one: one.share)
    seldom = total / SHARE
    return Overload(
        path=("devices",) if whole else ("devices", most.place),
        en=(f"polls fill {total:.0%} of the wire's time, more than {SHARE:.0%}: {most.device.id} alone takes "
            f"{most.share:.0%}; poll {seldom:.1f} times more seldom, raise the baud rate, or move devices to another "
            "wire"),
        zh=(f"线路 {name} 轮询占用 {total:.0%}，超过 {SHARE:.0%}：{most.device.id} 一台就占 {most.share:.0%}；"
            f"轮询间隔放长到 {seldom:.1f} 倍，或提高波特率，或把设备分到别的线路"))
