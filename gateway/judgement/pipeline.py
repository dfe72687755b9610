"""Scan, Command, tick, scores, link in; demand, events, samples, latch and asks out.

Owns: the order of the parts, the judgement's clock (the latest moment it has been told of), buttons, poison.
Promises: any division of a stream into ticks gives the identical state: what falls due between two calls is done
as of its own moment, before what comes later; no Scan raises; the demand is worked out before anything is reported.
Never: reads a clock, does I/O, starts a thread.

Time: `scan` advances to the Scan's arrival, `tick` and `command` to `now_s`. Call `tick` at `next_due_s` (or within a
second of it, when nobody waits), once the Scans that have arrived until then have been judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from drivers import PointInfo, Scan
from gateway.config import Config
from gateway.judgement import alarms, authority, latch, notices, orders, service
from gateway.judgement.alarms import YELLOW, Watch
from gateway.judgement.bench import Bench, Benches, PoisonError
from gateway.judgement.buttons import Buttons
from gateway.judgement.detect.anomaly import Episodes, Scores
from gateway.judgement.limits import Array, Limits, limits_of
from gateway.judgement.notices import Known, Poison
from gateway.judgement.outcome import NOTHING, Feed, Outcome, Tray, milliseconds
from gateway.judgement.quality import KNOWN_NOTES, Quality
from gateway.judgement.report import Thinning
from gateway.model import (
    Command,
    Flag,
    Inventory,
    InventoryPoint,
    Present,
    Reason,
    Reply,
)

_GOOD, _SUSPECT = int(Flag.GOOD), int(Flag.SUSPECT)
AHEAD_S = 1.0
"""A Scan that claims to arrive later than this from now is poison: it would make every other point look silent."""
RESUME_S = 300.0
"""After a longer outage the siren waits for a believable reading."""
RELATCH_S = 60.0
"""While a maintenance, a silence or a question to an officer runs, the latch is written again: a power cut must not
start it anew, least of all a box that restarts again and again."""


class Pipeline:
    """The judgement of one box (or of a drill: a second instance with a state of its own)."""

    def __init__(self, site: Config, infos: Mapping[str, PointInfo], *, new_id: Callable[[], str],
                 now_s: float) -> None:
        """Set up.

        Args:
            site: the configuration.
            infos: "device.point" → what its template knows; a point without one is judged by the site's limits alone.
            new_id: gives ids that are never given again, also after a restart.
            now_s: monotonic seconds.
        """
        self._site = site
        points = [p for o in site.objects for p in o.points]
        known = [infos.get(p.read, PointInfo(unit="", resolution=0.0)) for p in points]
        self._watches: list[Watch] = []
        start = 0
        for config in site.objects:
            watch = Watch(config, range(start, start + len(config.points)))
            watch.limits = limits_of(config, len(self._watches), start,
                                     [(known[i].unit, known[i].resolution) for i in watch.points])
            self._watches.append(watch)
            start += len(config.points)
        owners = [w for w in self._watches for _ in w.points]
        self._known = [Known(*k) for k in zip(points, known, owners, strict=True)]
        self._limits = Limits([x for w in self._watches for x in w.limits])
        self._quality = Quality(list(zip(points, known, strict=True)), now_s)
        self._thinning = Thinning(points)
        self._episodes = Episodes(len(points), site.detector.level)
        self._devices = {w.id: [d.id for d in getattr(w, "devices", ())] for w in site.wires}
        self._benches = Benches([p.read for p in points], self._watches, [b.read for b in site.buttons],
                                [d for ids in self._devices.values() for d in ids],
                                self._quality, self._limits, self._thinning)
        self._buttons = Buttons(site.buttons)
        self._down: set[str] = set()
        self._poison = Poison()
        self._tray = Tray(new_id)
        self._feed: Feed | None = None
        self._demand = authority.demand(self._watches, site.outputs)
        self._now = now_s
        self._due = float("-inf")
        self._saved = now_s
        self.strangers = 0
        """Readings of points nobody configured, since the start."""

    # --- in

    def scan(self, scan: Scan, now_s: float) -> Outcome:
        """Judge what one exchange said. Never raises: what cannot be judged is an event and a count."""
        try:
            self._scan(scan, now_s)
        except Exception as error:
            self._poison.tell(scan, error, now_s, self._tray)
        return self._finish()

    def tick(self, now_s: float) -> Outcome:
        """Do what only the clock can notice."""
        self._advance(now_s)
        if now_s - self._saved >= RELATCH_S and any(
                w.until_s is not None or authority.due_s(w) < float("inf") for w in self._watches):
            self._tray.latch_moved = True
        return self._finish()

    def command(self, command: Command, now_s: float) -> tuple[Outcome, Reply]:
        """Do what a person asks; the reply says what became of it."""
        self._advance(now_s)
        reply = self._do(command, now_s)
        self._advance(now_s)
        return self._finish(), reply

    def link(self, wire: str, up: bool, why: str, now_s: float) -> Outcome:
        """Take note that a wire went away or came back; its points are lost at once and return with their readings."""
        self._advance(now_s)
        if up == (wire not in self._down):
            return self._finish()
        self._tray.tell("wire.up" if up else "wire.down", now_s, {"wire": wire, "reason_en": why},
                        why={"wire": wire, "reason": why})
        if up:
            self._down.discard(wire)
            return self._finish()
        self._down.add(wire)
        for device in self._devices.get(wire, ()):
            names = self._benches.points_of(device)
            if names:
                bench = self._benches.find(device, names)
                self._judge(bench, np.full(len(bench.indices), np.nan), [Reason.LINK] * len(bench.indices), now_s)
        self._due = float("-inf")
        self._advance(now_s)
        return self._finish()

    def scores(self, scores: Scores, now_s: float) -> Outcome:
        """Take the detector's scores: an episode is told once, and that is all a score can do."""
        self._advance(now_s)
        for k in self._episodes.opened(scores):
            known = self._known[int(scores.indices[k])]
            if known.watch.service != "maintenance":
                notices.unusual(scores, k, known, self._tray)
        return self._finish()

    # --- out

    @property
    def next_due_s(self) -> float:
        """When the clock next has something to say: call `tick` then. Never late; may be early."""
        return self._due

    @property
    def poisoned(self) -> int:
        """Scans that could not be judged (or not wholly), since the start."""
        return self._poison.count

    def inventory(self) -> Inventory:
        """Return the list of points as the county needs to know it; its number is the journal's to give."""
        return Inventory(n=0, points=tuple(
            InventoryPoint(point=p.id, name=p.name, object=w.config.id, unit=i.unit, resolution=i.resolution,
                           poll_s=p.poll_s, report_every_s=p.report.every_s, report_change=p.report.change,
                           low=i.low, high=i.high, counter=i.counter, model=i.model, read=p.read)
            for p, i, w in self._known))

    def infos(self) -> tuple[PointInfo, ...]:
        """What the templates know of every point, in the order of the inventory (for the detector)."""
        return tuple(k.info for k in self._known)

    def present(self, now_s: float) -> Present:
        """Return the box as it stands."""
        return Present(t_ms=milliseconds(now_s), demand=self._demand,
                       objects=tuple(alarms.present(w, self._quality.lost) for w in self._watches))

    def latch(self) -> bytes:
        """Return what must survive a restart."""
        return latch.encode(self._watches, np.flatnonzero(self._quality.told).tolist(), self._now)

    def restore(self, blob: bytes, now_s: float, outage_s: float | None, *, same_boot: bool,
                age_s: float | None = None) -> Outcome:
        """Go on where `latch` was taken; call once, before anything else. A damaged latch is an event.

        Args:
            blob: what `latch` gave.
            now_s: monotonic seconds of this boot.
            outage_s: seconds from the last sign of life until now; None = unknown.
            same_boot: the monotonic clock has gone on, so kept times are right as they stand.
            age_s: seconds since the latch was taken, which may be long before the last sign of life; None = unknown.

        Returns:
            The demand to follow at once: after an outage of at most `RESUME_S` the siren goes on unless it is
            silenced; after a longer or unknown one the strobe, and the siren with the first believable reading.
        """
        try:
            kept = latch.decode(blob)
        except ValueError as error:
            self._poison.tell(None, error, now_s, self._tray)
            return self._finish()
        self._now = max(self._now, now_s)
        shift_s = 0.0 if same_boot else now_s - kept.saved_s - max(age_s or 0.0, outage_s or 0.0)
        lost = latch.apply(kept, self._watches, self._limits, now_s, shift_s=shift_s,
                           aged=same_boot or age_s is not None or outage_s is not None)
        if lost:
            self._quality.remember_lost(np.array(lost, np.int64))
        for watch in self._watches:
            alarm = watch.alarm
            if alarm is not None and alarm.status != watch.status:
                self._limits.put(watch.limits, on=False)
                alarms.close(watch, now_s, self._tray, "", "配置变更", "the configuration changed", alarm.level)
                watch.vote = 0
            elif alarm is not None:
                alarm.waiting |= outage_s is None or outage_s > RESUME_S
                self._settle(watch, now_s)
        self._benches.clear()
        self._tray.demand_moved = self._tray.latch_moved = True
        self._due = float("-inf")
        self._advance(now_s)
        return self._finish()

    # --- one Scan

    def _scan(self, scan: Scan, now_s: float) -> None:
        at_s = scan.at_s
        if not -1e12 < at_s <= now_s + AHEAD_S:
            raise PoisonError(f"arrived at {at_s}, and now it is {now_s}")
        self._advance(at_s)
        bench = self._benches.find(scan.device, scan.points)
        values = np.array(scan.values, np.float64)  # None becomes NaN
        if values.shape != (bench.width,):
            raise PoisonError(f"{len(scan.values)} values for {bench.width} points")
        notes: Sequence[str] = scan.notes
        if notes:
            if len(notes) != bench.width:
                raise PoisonError(f"{len(notes)} notes for {bench.width} points")
            strange = set(notes) - KNOWN_NOTES
            if strange:
                self._poison.tell(scan, PoisonError(f"unknown remarks {sorted(strange)}"), now_s, self._tray)
        self.strangers += bench.strangers
        v = values
        if bench.cols is not None:
            v = values[bench.cols]
            notes = [notes[c] for c in bench.cols.tolist()] if notes else notes
        if bench.table.n:
            self._judge(bench, v, notes, at_s)
        if bench.buttons:
            self._press(bench, values, at_s)
        if self._due <= self._now:
            self._advance(self._now)

    def _judge(self, bench: Bench, v: Array, notes: Sequence[str], t_s: float, *, heard: bool = True) -> None:
        """Quality, rules, alarms; then what is worth reporting. `v` is ours to change."""
        verdict = self._quality.judge(bench.table, v, notes, t_s, heard=heard)
        if verdict is None:
            judged, flags, doubtful = v, None, None
        else:
            judged, flags = verdict.judged, verdict.flags
            doubtful = (flags == _SUSPECT) & ~np.isinf(judged)
        if bench.limits is not None:
            off, ask = self._limits.read(bench.limits, judged, t_s, flags, doubtful, v)
            for owner in dict.fromkeys(x.owner for x in off):
                self._settle(self._watches[owner], t_s)
            if self._limits.due_s <= t_s:
                self._fire(t_s)
            if ask:
                notices.ask(ask, self._known, t_s, self._tray)
            self._due = min(self._due, self._limits.due_s)
        samples = bench.proto.copy()
        samples["t_ms"] = round(t_s * 1000)
        samples["value"] = v
        if verdict is None:
            reported = self._thinning.quiet(bench.sel, samples, t_s, by_change=bench.by_change)
            good = bench.entering
            feed_indices = bench.feed
        else:
            samples["flag"] = flags
            samples["reason"] = verdict.reasons
            reported = self._thinning.uneven(bench.sel, samples, verdict.changed, t_s)
            good = verdict.flags == _GOOD
            if bench.entering is not None:
                good &= bench.entering
            feed_indices = bench.indices[good]
            notices.remark(bench, verdict, self._known, t_s, self._tray)
            if verdict.changed.any():
                self._due = float("-inf")  # a point that was given up as silent may be waited for again
        self._release(bench, flags, t_s)
        if reported is not None:
            self._tray.samples.append(reported)
        if heard and len(feed_indices):
            self._feed = Feed(feed_indices, t_s, v if good is None else v[good])

    def _release(self, bench: Bench, flags: Array | None, t_s: float) -> None:
        """A believable reading of an input lets a restored siren speak."""
        for w in bench.watches:
            watch = self._watches[w]
            if watch.alarm is not None and watch.alarm.waiting:
                believed = bench.indices if flags is None else bench.indices[flags <= _SUSPECT]
                if not set(believed.tolist()).isdisjoint(watch.inputs):
                    watch.alarm.waiting = False
                    watch.alarm.sound_since_s = max(watch.alarm.sound_since_s, t_s)  # its first burst begins here
                    self._tray.demand_moved = self._tray.latch_moved = True

    def _press(self, bench: Bench, values: Array, t_s: float) -> None:
        for col, k in bench.buttons:
            button = self._buttons.pressed(k, float(values[col]))
            if button is not None:
                for deed in button.does:
                    self._do(Command(id=self._tray.new_id(), kind=deed, object=button.object, who=button.who), t_s)

    # --- clock

    def _advance(self, t_s: float) -> None:
        """Do everything that is due until `t_s`, each at its own moment."""
        while self._due <= t_s:
            at_s = max(self._due, self._now)
            self._now = at_s
            self._step(at_s)
            self._due = min(self._limits.due_s, self._quality.next_stale_s(),
                            *(authority.due_s(w) for w in self._watches),
                            *(w.until_s for w in self._watches if w.until_s is not None))
        self._now = max(self._now, t_s)

    def _step(self, t_s: float) -> None:
        for watch in self._watches:
            if watch.until_s is not None and watch.until_s <= t_s:
                service.expire(watch, t_s, self._limits, self._tray)
                self._served(watch, t_s)
        silent = self._quality.silent(t_s)
        if len(silent):
            bench = self._benches.over(silent.tolist())
            self._judge(bench, np.full(len(silent), np.nan), [Reason.STALE] * len(silent), t_s, heard=False)
        self._fire(t_s)
        for watch in self._watches:
            authority.fire(watch, t_s, self._tray)

    def _fire(self, t_s: float) -> None:
        for owner in dict.fromkeys(x.owner for x in self._limits.fire(t_s)):
            self._settle(self._watches[owner], t_s)

    def _settle(self, watch: Watch, t_s: float, who: str = "") -> None:
        alarms.settle(watch, t_s, self._tray, who)
        authority.permit(watch, t_s, self._tray)
        self._thinning.alert(watch.points, on=watch.concern >= YELLOW)
        self._due = float("-inf")

    def _served(self, watch: Watch, t_s: float) -> None:
        """After a change of service state: benches and motion state are of the old one."""
        self._benches.clear()
        self._quality.forget_motion(np.arange(watch.points.start, watch.points.stop))
        self._settle(watch, t_s)

    def _do(self, command: Command, t_s: float) -> Reply:
        watch = next((w for w in self._watches if w.config.id == command.object), None)
        word = orders.refusal(watch, command, self._site.outputs)
        if not word and watch is not None:
            orders.carry_out(watch, command, t_s, self._site.outputs, self._limits, self._tray)
            if command.kind == "service":
                self._served(watch, t_s)
            else:
                self._settle(watch, t_s, command.who)
        return orders.reply(watch, command, word)

    # --- results

    def _finish(self) -> Outcome:
        tray, feed = self._tray, self._feed
        demand = blob = None
        if tray.demand_moved:
            found = authority.demand(self._watches, self._site.outputs)
            tray.demand_moved = False
            if found != self._demand:
                demand = self._demand = found
        if tray.latch_moved:
            blob = self.latch()
            tray.latch_moved = False
            self._saved = self._now
        if feed is None and demand is None and blob is None and not tray.events and not tray.samples and not tray.ask:
            return NOTHING
        samples = tray.samples[0] if len(tray.samples) == 1 else np.concatenate(tray.samples) if tray.samples else None
        done = Outcome(demand, tuple(tray.ask), blob, tuple(tray.events), samples, feed)
        if tray.events or tray.ask:
            tray.events, tray.ask = [], []
        tray.samples = []
        self._feed = None
        return done
