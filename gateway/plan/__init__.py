"""What a site will cost before it runs: its wires' time, its SIM card, its memory card.

Owns: the budget and what exceeds it. Promises: pure reckoning over a configuration that is otherwise right; what is
exact and what is estimated stands in `upstream` and `flash`. Never: opens hardware, reads a clock, stops a box from
starting: the service runs on whatever it is given, these figures are for who sets it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

import drivers
from drivers import Library, PointInfo, SetupError, Wire
from drivers.load import SHARE, Request
from drivers.strictyaml import Path
from gateway.config import Config
from gateway.model import Inventory, InventoryPoint
from gateway.plan import flash
from gateway.plan.flash import Rows
from gateway.plan.timeline import Stream, Timeline, play, streams
from gateway.plan.upstream import MONTH_S, Site, Upstream, total, typical
from gateway.polls import polls

MB = 1e6
ALERT_COMMIT_S = 1.0
"""How often the journal commits from yellow up."""
KEYS = {"data": "report.every_s", "warn": "warn_every_s", "diag": "diag_every_s", "ping": "keepalive_s", "connect": ""}
"""What to turn to spend less on a part of the upstream."""


Ask = tuple[str, tuple[str, ...], float]
"""Device, points, period: what one read carries."""


class Load(Struct, frozen=True, kw_only=True):
    """A wire whose reads are planned."""

    wire: str
    port: str
    requests: tuple[Request, ...]

    @property
    def share(self) -> float:
        """Of the time of the line, or of the busiest host."""
        hosts: dict[str, float] = {}
        for request in self.requests:
            hosts[request.host] = hosts.get(request.host, 0.0) + request.ms / (1000 * request.poll_s)
        return max(hosts.values(), default=0.0)

    @property
    def cycle_ms(self) -> float:
        """Bus time of reading everything once."""
        return math.fsum(request.ms for request in self.requests)

    @property
    def exchanges_s(self) -> float:
        """Reads a second."""
        return math.fsum(1 / request.poll_s for request in self.requests)


class Excess(Struct, frozen=True, kw_only=True):
    """Something that takes more than 80 % of what there is."""

    path: Path
    zh: str
    en: str


class Way(Struct, frozen=True, kw_only=True):
    """What is known of one wire."""

    infos: Mapping[str, PointInfo]
    """device.point → what its template says."""
    asks: tuple[Ask, ...]
    load: Load | None = None
    excesses: tuple[Excess, ...] = ()


class Budget(Struct, frozen=True, kw_only=True):
    """The whole plan."""

    loads: tuple[Load, ...]
    upstreams: tuple[Upstream, ...]
    sim_mb_month: float | None
    flash_bytes_day: float
    flash_mb_day: float
    commits_day: float
    readings_day: float
    alert_bytes_day: float
    """Upstream in a day on which everything is yellow or worse: every reading is reported, each second."""
    excesses: tuple[Excess, ...]


def budget(config: Config, library: Library) -> Budget:
    """Reckon a site.

    Args:
        config: a configuration without errors.
        library: folders of sensor templates.

    Raises:
        SetupError: a driver or a template is missing; `check` says it with its line.
    """
    asked, ways = polls(config), list[Way]()
    for n, wire in enumerate(config.wires):
        ways.append(_way(n, wire, asked, library))
    infos = {read: info for way in ways for read, info in way.infos.items()}
    inventory = _inventory(config, infos)
    rows = Rows(typical(inventory, 1024))
    index = {point.point: n for n, point in enumerate(inventory.points)}
    wanted: dict[str, list[tuple[int, float]]] = {}
    for point in inventory.points:
        wanted.setdefault(point.read, []).append((index[point.point], point.report_every_s))
    loud = {read: [(n, 0.0) for n, _ in carried] for read, carried in wanted.items()}
    commit_s, taken = config.journal.commit_s, bool(config.platforms)
    timeline, alert = (
        play([stream for way in ways for stream in _streams(way.asks, reports)], len(index), every_s, taken)
        for reports, every_s in ((wanted, commit_s), (loud, min(ALERT_COMMIT_S, commit_s))))
    upstreams = _upstreams(config, inventory, timeline, rows)
    written = flash.day_bytes(timeline, rows)
    day = 86400 / timeline.seconds
    return Budget(loads=tuple(way.load for way in ways if way.load is not None), upstreams=upstreams,
                  sim_mb_month=config.gateway.sim_mb_month, flash_bytes_day=written,
                  flash_mb_day=config.journal.flash_mb_day,
                  alert_bytes_day=total(_upstreams(config, inventory, alert, rows)) * 86400 / MONTH_S,
                  commits_day=len(timeline.commits) * day, readings_day=float(timeline.reports.sum()) * day,
                  excesses=(*(excess for way in ways for excess in way.excesses), *_sim(config, upstreams),
                            *_flash(config, written)))


def _way(n: int, wire: Wire, asked: drivers.Polls, library: Library) -> Way:
    """Look at the n-th wire. Drivers that plan their reads have `requests` and `overload`; others cost no bus."""
    driver: Any = drivers.find(wire.driver)
    mine = driver.describe(wire, library)
    infos = {f"{device}.{name}": info for device, points in mine.items() for name, info in points.items()}
    here = {device: asked[device] for device in mine if device in asked}
    if not hasattr(driver, "requests"):
        return Way(infos=infos, asks=tuple((device, (name,), poll_s) for device, points in here.items()
                                           for name, poll_s in points.items()))
    requests: list[Request] = driver.requests(wire, here, library)
    hosts = list(dict.fromkeys(request.host for request in requests))
    port = hosts[0] if len(hosts) == 1 else f"{len(hosts)} × tcp://"
    return Way(infos=infos, load=Load(wire=wire.id, port=port, requests=tuple(requests)),
               asks=tuple((request.device, request.points, request.poll_s) for request in requests),
               excesses=tuple(Excess(path=("wires", n, *told.path), zh=told.zh, en=told.en)
                              for told in driver.overload(wire, here, library)))


def _upstreams(config: Config, inventory: Inventory, timeline: Timeline, rows: Rows) -> tuple[Upstream, ...]:
    site = Site(config, inventory, timeline, rows)
    return tuple(site.upstream(platform) for platform in config.platforms)


def _streams(reads: Sequence[Ask], wanted: Mapping[str, Sequence[tuple[int, float]]]) -> list[Stream]:
    """What is reported of the reads of one wire; reads of one period are spread over it."""
    periods: dict[float, list[list[tuple[int, float]]]] = {}
    for device, points, poll_s in reads:
        periods.setdefault(poll_s, []).append([c for name in points for c in wanted.get(f"{device}.{name}", ())])
    return [stream for poll_s, members in periods.items() for k, carried in enumerate(members, 1)
            for stream in streams(poll_s, poll_s * (k / len(members)) % poll_s, carried)]


def _inventory(config: Config, infos: Mapping[str, PointInfo]) -> Inventory:
    points = []
    for watched in config.objects:
        for point in watched.points:
            info = infos.get(point.read)
            if info is None:
                raise SetupError(f"{point.read}: nothing is known of this point")
            points.append(InventoryPoint(
                point=point.id, name=point.name, object=watched.id, unit=info.unit, resolution=info.resolution,
                poll_s=point.poll_s, report_every_s=point.report.every_s, report_change=point.report.change,
                low=info.low, high=info.high, counter=info.counter, model=info.model, read=point.read))
    return Inventory(1, tuple(points))


def _sim(config: Config, upstreams: tuple[Upstream, ...]) -> list[Excess]:
    limit = config.gateway.sim_mb_month
    if limit is None or total(upstreams) <= SHARE * limit * MB:
        return []
    spent = total(upstreams) / MB
    parts = {key: math.fsum(one.parts[key] for one in upstreams) / MB for key in KEYS}
    dearest = max((key for key in KEYS if KEYS[key]), key=parts.__getitem__)
    left = parts[dearest] - (spent - SHARE * limit)
    listed = ", ".join(f"{key} {mb:.1f}" for key, mb in parts.items())
    key, card = KEYS[dearest], spent / SHARE
    enough = 0 < parts[dearest] < 100 * left
    zh = f"把 {key} 放长到 {parts[dearest] / left:.1f} 倍" if enough else f"把 {key} 等各项间隔都放长"
    en = f"make {key} {parts[dearest] / left:.1f} times as long" if enough else f"make {key} and the others longer"
    return [Excess(
        path=("gateway", "sim_mb_month"),
        zh=(f"每月约 {spent:.1f} MB，超过 SIM 卡 {limit:g} MB 的 {SHARE:.0%}（{listed}）：{zh}，"
            f"或换每月 {card:.0f} MB 的卡"),
        en=(f"about {spent:.1f} MB a month, more than {SHARE:.0%} of the SIM's {limit:g} MB ({listed}): {en}, "
            f"or take a SIM of {card:.0f} MB a month"))]


def _flash(config: Config, written: float) -> list[Excess]:
    limit, commit_s = config.journal.flash_mb_day, config.journal.commit_s
    if written <= SHARE * limit * MB:
        return []
    over, day, bears = written / (SHARE * limit * MB), written / MB, math.ceil(written / SHARE / MB)
    longer = math.ceil(commit_s * over * 10) / 10
    zh = f"commit_s 改为 {longer:g}、" if longer <= 60 else ""
    en = f"make commit_s {longer:g}, " if longer <= 60 else ""
    return [Excess(
        path=("journal", "flash_mb_day"),
        zh=(f"每天约写 {day:.1f} MB，超过存储卡预算 {limit:g} MB 的 {SHARE:.0%}：{zh}上报间隔放长到 {over:.1f} 倍，"
            f"或换耐写的存储并把 flash_mb_day 设为 {bears}"),
        en=(f"about {day:.1f} MB written a day, more than {SHARE:.0%} of the card's {limit:g} MB: {en}report "
            f"{over:.1f} times more seldom, or take storage that bears it and set flash_mb_day to {bears}"))]
