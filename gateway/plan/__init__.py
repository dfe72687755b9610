"""What a site will cost before it runs: its wires' time, its SIM card, its memory card.

Owns: the budget and what exceeds it. Promises: pure reckoning over a configuration that is otherwise right; what is
exact and what is estimated stands in `upstream` and `flash`. Never: opens hardware, reads a clock, stops a box from
starting: the service runs on whatever it is given, these figures are for who sets it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

import drivers
from drivers import Library, PointInfo, SetupError, Wire
from drivers.load import SHARE, Request
from drivers.strictyaml import Path
from gateway.config import Config
from gateway.model import Inventory, InventoryPoint
from gateway.plan import flash
from gateway.plan.flash import Rows
from gateway.plan.timeline import Stream, play, streams
from gateway.plan.upstream import Site, Upstream, total, typical
from gateway.polls import polls

MB = 1e6
KEYS = {"data": "report.every_s", "warn": "warn_every_s", "diag": "diag_every_s", "ping": "keepalive_s", "connect": ""}
"""What to turn to spend less on a part of the upstream."""


class Load(Struct, frozen=True, kw_only=True):
    """A wire whose reads are planned."""

    wire: str
    port: str
    serial: bool
    requests: tuple[Request, ...]

    @property
    def share(self) -> float:
        """Of the wire's time."""
        return math.fsum(request.ms / (1000 * request.poll_s) for request in self.requests)

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


class Budget(Struct, frozen=True, kw_only=True):
    """The whole plan."""

    loads: tuple[Load, ...]
    upstreams: tuple[Upstream, ...]
    sim_mb_month: float | None
    flash_bytes_day: float
    flash_mb_day: float
    commits_day: float
    readings_day: float
    excesses: tuple[Excess, ...]


def budget(config: Config, library: Library) -> Budget:
    """Reckon a site.

    Args:
        config: a configuration without errors.
        library: folders of sensor templates.

    Raises:
        SetupError: a driver or a template is missing; `check` says it with its line.
    """
    asked = polls(config)
    excesses: list[Excess] = []
    loads: list[Load] = []
    infos: dict[str, PointInfo] = {}
    found: list[Stream] = []
    index = {point.id: n for n, point in enumerate(p for w in config.objects for p in w.points)}
    wanted: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for point in (p for watched in config.objects for p in watched.points):
        device, _, name = point.read.partition(".")
        wanted.setdefault(device, {}).setdefault(name, []).append((index[point.id], point.report.every_s, point.poll_s))
    for n, wire in enumerate(config.wires):
        driver = drivers.find(wire.driver)
        mine = driver.describe(wire, library)
        infos |= {f"{device}.{name}": info for device, points in mine.items() for name, info in points.items()}
        here = {device: asked[device] for device in mine if device in asked}
        reads = _reads(driver, wire, here, library)
        if reads is not None:
            loads.append(Load(wire=wire.id, port=getattr(wire, "port", ""), requests=tuple(reads),
                              serial="://" not in getattr(wire, "port", "")))
            excesses += [Excess(path=("wires", n, *below), zh=zh, en=en)
                         for below, zh, en in _overload(driver, wire, here, library)]
        found += _streams([(r.device, r.points, r.poll_s) for r in reads] if reads is not None else [
            (device, (name,), poll_s) for device, points in here.items() for name, poll_s in points.items()], wanted)
    inventory = _inventory(config, infos)
    rows = Rows(typical(inventory, 1024))
    timeline = play(found, len(index), config.journal.commit_s, bool(config.platforms))
    site = Site(config, inventory, timeline, rows)
    upstreams = tuple(site.upstream(platform) for platform in config.platforms)
    written = flash.day_bytes(timeline, rows)
    excesses += [*_sim(config, upstreams), *_flash(config, written)]
    day = 86400 / timeline.seconds
    return Budget(loads=tuple(loads), upstreams=upstreams, sim_mb_month=config.gateway.sim_mb_month,
                  flash_bytes_day=written, flash_mb_day=config.journal.flash_mb_day,
                  commits_day=len(timeline.commits) * day, readings_day=float(timeline.reports.sum()) * day,
                  excesses=tuple(excesses))


def _reads(driver: type[drivers.Driver], wire: Wire, here: drivers.Polls, library: Library) -> list[Request] | None:
    """None for a driver whose reads are not planned."""
    planned = getattr(driver, "requests", None)
    found: list[Request] | None = planned(wire, here, library) if planned is not None else None
    return found


def _overload(driver: type[drivers.Driver], wire: Wire, here: drivers.Polls,
              library: Library) -> list[tuple[Path, str, str]]:
    told = getattr(driver, "overload", None)
    return [] if told is None else [(path, f"线路 {wire.id} 轮询过密，时间不够用：{text}", text)
                                    for path, text in told(wire, here, library)]


def _streams(reads: list[tuple[str, tuple[str, ...], float]],
             wanted: Mapping[str, Mapping[str, list[tuple[int, float, float]]]]) -> list[Stream]:
    """What is reported of the reads of one wire; reads of one period are spread over it."""
    periods: dict[float, list[list[tuple[int, float]]]] = {}
    for device, points, poll_s in reads:
        carried = [(n, every_s) for name in points for n, every_s, _ in wanted.get(device, {}).get(name, ())]
        periods.setdefault(poll_s, []).append(carried)
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
