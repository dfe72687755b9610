"""What the county holds after each mishap of a box: the reference subscriber against all that was ever produced.

A value says which sensor it is of and which of its readings, so one on another sensor, twice, or swallowed for a
duplicate is seen. One thread drives journal, uplink and subscriber; the journal's clock is moved by hand, the broker is
real.
"""

import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

import numpy as np
import pytest

from gateway import client
from gateway.config import Filter, Platform
from gateway.county import errands
from gateway.county.database import connect
from gateway.county.rates import rates
from gateway.county.store import GONE, Store
from gateway.county.subscriber import Address, Subscriber
from gateway.journal.gaps import LESS
from gateway.journal.journal import Journal
from gateway.journal.rows import decode, decode_events
from gateway.model import SAMPLE, Door, Event, Inventory, InventoryPoint
from gateway.uplink import profiles
from gateway.uplink.selection import Selection
from gateway.uplink.uplink import Sources, Uplink
from hil.audit import Reading, compare
from hil.broker import Broker
from hil.rig import Rig
from tests.sites import site
from tests.test_county_reference import county

SENSORS = {name: 1_000_000 * n for n, name in enumerate(
    ("crack-1", "crack-2", "tilt-1", "rain-1", "level-1", "gas-1"), 1)}
"""Point → what its values begin with."""
OBJECTS = {"crack": "slope", "tilt": "slope", "rain": "slope", "level": "dam", "gas": "pipe"}
HAZARDS = {"slope": "slope", "dam": "reservoir", "pipe": "gas"}
FIRST = ("crack-1", "crack-2", "level-1")
SOAK = bool(os.environ.get("MINGLUO_SOAK"))
COMMIT_S = 10.0


def watched(point):
    return OBJECTS[point.partition("-")[0]]


def inventory(points):
    return Inventory(0, tuple(InventoryPoint(point=p, name=p, object=watched(p), unit="mm", resolution=1.0, poll_s=0.1,
                                             report_every_s=0) for p in points))


def sensor(value):
    return next(name for name, base in SENSORS.items() if base <= value < base + 1_000_000)


class World:
    """A county with its boxes, and everything they ever produced."""

    def __init__(self, folder, port, root):
        self.folder, self.port, self.root = folder, port, root
        self.ahead_s = self.waited_s = 0.0
        """How far the clock of journals and county, and that of uplinks, is ahead."""
        self.boxes, self.produced, self.alarms = [], {}, []
        """Rows by (gateway, epoch, seq): their readings."""
        self.counts = Counter()
        self.epochs = iter(range(1000))
        self.objects, self.lanes = set(HAZARDS), {"alarm", "event", "data"}
        """What the county's filter lets through."""
        self.noisy, self.odd = False, 0
        """Readings with digits nobody is told, so that they take room; every so manieth is suspect, so nothing of it
        is given up before all of it is."""
        seed = random.randrange(1 << 30)
        print("seed", seed)
        self.rng = random.Random(seed)
        self.where = folder / "county.sqlite"
        self.office = Subscriber(Address(port=port, root=root, client_id=root), Store(connect(str(self.where))),
                                 now=self.now).start()

    def wants(self, point):
        return "data" in self.lanes and watched(point) in self.objects

    def now(self):
        return time.monotonic() + self.ahead_s

    def turn(self):
        for box in self.boxes:
            box.turn()
        self.office.step(0.002)

    def until(self, condition, what, timeout_s=20.0):
        """Let time pass until it is so; the county's errands have waits of their own."""
        end_s, n = time.monotonic() + timeout_s, 0
        while not condition():
            assert time.monotonic() < end_s, f"not within {timeout_s} s: {what}; holes {self.holes()}"
            self.turn()
            n += 1
            if n % 20 == 0:
                self.ahead_s, self.waited_s = self.ahead_s + 2.5, self.waited_s + 2.5

    def holes(self):
        births = {name: said for name, _, _, said in self.office.store.present("birth")}
        return errands.holes(self.office.store.accounted(), births, self.office.store.written_off())

    def settle(self):
        """All boxes have told what they have, and the county knows of nothing that it misses."""
        for box in self.boxes:
            if box.up is not None:
                self.until(lambda box=box: box.up.health().connected, "connected")
                box.journal.flush(5)
        self.until(lambda: not any(box.up.health().in_flight or box.journal.health()["backlog"]["county"]
                                   for box in self.boxes if box.up is not None), "nothing is left to send")
        self.until(lambda: not self.holes(), "nothing is missing")

    def ask(self, sql, *values):
        with sqlite3.connect(self.where) as db:
            return db.execute(sql, values).fetchall()

    def close(self):
        for box in self.boxes:
            box.die()
        self.office.stop()
        self.office.store.db.close()


class Box:
    """The journal and the uplink of one box; each `say` is one row when it is committed at once."""

    def __init__(self, world, name="gw-1", *, folder=None, points=FIRST, max_bytes=1 << 26, fresh=None, **platform):
        self.world, self.name, self.folder = world, name, folder or world.folder / name
        self.points, self.max_bytes, self.platform = points, max_bytes, platform
        self.fresh = fresh or (lambda: f"e{next(world.epochs)}")
        self.journal = self.up = None
        self.boots, self.each, self.staging_bytes = 0, 1, 16 << 20
        world.boxes.append(self)

    # a life of its process

    def start(self, reboot=False, points=None):
        self.boots += reboot
        if reboot:
            shutil.rmtree(self.folder / "run", ignore_errors=True)
        self.points = points or self.points
        boot = f"{self.folder.name}-b{self.boots}"
        self.door = Door(boot, time.time_ns() // 1_000_000 - round(self.world.now() * 1000), "synced")
        journal = self.journal = Journal(self.folder / "state", self.folder / "run", self.name, boot=boot,
                                         now=self.world.now, new_epoch=self.fresh, platforms=("county",),
                                         commit_s=COMMIT_S, max_bytes=self.max_bytes,
                                         staging_bytes=self.staging_bytes)
        self.found = journal.open()
        self.n = journal.adopt(inventory(self.points))
        self.epoch, self.growing = self.found.epoch, False
        self.seq = max((seq for name, epoch, seq in self.world.produced if (name, epoch) == (self.name, self.epoch)),
                       default=0) if not self.found.reason else 0
        journal.record(self.door, self.n, events=self.found.events)
        return self

    def connect(self):
        platform = Platform(**{"id": "county", "host": "127.0.0.1", "port": self.world.port, "warn_every_s": 5,
                               "backlog_messages_per_s": 5000, **self.platform})
        self.reader = self.journal.reader("county")
        self.up = Uplink(platform, profiles.make(platform, self.world.root, self.name, {}), Sources(
            reader=self.reader, decode=lambda row: (decode if row.lane == "data" else decode_events)(row.body),
            present=lambda: None, door=lambda: self.door, health=dict, hazards=HAZARDS,
            birth=lambda: {"streams": self.journal.epochs(), "promises": {}, "nonce": "n1"}, report=self.report),
            None, lambda: time.monotonic() + self.world.waited_s, random.Random(1))
        return self

    def report(self, kind, why):
        self.world.counts[kind] += 1
        self.journal.record(self.door, self.n, events=[Event(
            id=f"{self.epoch}-{kind}-{self.world.counts[kind]}", kind=kind, t_ms=1, why=why)])

    def disconnect(self):
        if self.up is not None:
            self.up.close()
            self.reader.close()
            self.up = None

    def die(self):
        """Killed: nothing is said goodbye, nothing flushed."""
        if self.up is not None and self.up._connection is not None:
            self.up._connection.abandon()
            self.up._connection = None
        self.disconnect()
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def turn(self):
        if self.journal is not None:
            self.journal.write(0.0)
        if self.up is not None:
            self.up.step(0.002)

    # what it produces

    def say(self, rows=1, commit=True):
        """`each` readings of every point a row."""
        world, each = self.world, self.each
        for _ in range(rows):
            samples = np.zeros(each * len(self.points), SAMPLE)
            samples["point"] = np.tile(np.arange(len(self.points)), each)
            samples["flag"], samples["t_ms"] = 1, round(world.now() * 1000) + 100 * np.repeat(np.arange(each), len(
                self.points))
            said = []
            for _ in range(each):
                for point in self.points:
                    said.append((point, float(SENSORS[point] + world.counts[point])))
                    world.counts[point] += 1
            samples["value"] = [value for _, value in said]
            if world.noisy:
                samples["value"] += [0.4 * world.rng.random() for _ in said]
            if world.odd:
                samples["flag"][::world.odd] = 3
            if not self.growing:
                self.seq, self.growing = self.seq + 1, True
            world.produced.setdefault((self.name, self.epoch, self.seq), []).extend(said)
            self.journal.record(self.door, self.n, samples)
            if commit:
                world.ahead_s += COMMIT_S + 1
                self.journal.write(0.0)
                self.growing = False

    def alarm(self):
        for watch in HAZARDS:
            name = f"alarm-{len(self.world.alarms)}"
            self.world.alarms.append((name, watch))
            self.journal.record(self.door, self.n, events=[Event(id=name, kind="alarm.raised", t_ms=1, object=watch)])

    def tell(self, rows=5):
        """Some rows, all the way to the county."""
        if self.up is None:
            self.connect()
        self.say(rows)
        self.alarm()
        self.world.settle()

    def fill(self, full=True):
        """The disk has no room for another page, or has again."""
        store = self.journal._disk.store
        store.connection.execute(f"PRAGMA max_page_count = {1 if full else store.shares.cap}")


class Judged:
    """What the county holds, against what was produced. Raises AssertionError where they contradict each other."""

    def __init__(self, world, forgotten=frozenset()):
        """`forgotten`: rows nobody can know of any more."""
        came = {}
        for name, epoch, seq, point, value, low, high, mean in world.ask(
                "SELECT gateway, epoch, seq, point, value, low, high, mean FROM readings"):
            for number in (value, low, high, mean):
                assert number is None or sensor(number) == point, f"{number} on {point}"
            assert world.wants(point), f"{point} is not this county's"
            came.setdefault((name, epoch, seq), []).append(value)
        values = Counter(v for row in came.values() for v in row)
        assert max(values.values(), default=1) == 1, "a reading is there twice"
        shrunk = {(n, e, s): t for n, e, s, t in world.ask(
            "SELECT gateway, epoch, seq, thinned FROM rows WHERE lane = 'data'")}
        assert set(came) <= set(world.produced), "a row nobody produced"
        gaps = world.ask("SELECT gateway, epoch, first, last, records, reason FROM gaps WHERE lane = 'data'")
        gone = {(n, e, s) for n, e, a, b, _, why in gaps if why in GONE | {"gone"} for s in range(a, b + 1)}
        merged = {(n, e, s // 16 * 16 + k) for (n, e, s), step in shrunk.items() if step == "aggregate"
                  for k in range(16)}
        self.reasons = {why for *_, why in gaps}
        self.missing = 0
        for identity, said in world.produced.items():
            wanted = [value for point, value in said if world.wants(point)]
            self.missing += len(wanted) - len(came.get(identity, ()))
            if identity not in shrunk:
                assert identity in gone | merged | forgotten or not wanted, f"{identity} is missing and not told"
            elif shrunk[identity] == "aggregate":
                block = [(*identity[:2], seq) for seq in range(identity[2] // 16 * 16, identity[2] // 16 * 16 + 16)]
                assert set(came.get(identity, ())) <= {v for row in block for _, v in world.produced.get(row, ())}
            elif shrunk[identity]:
                assert set(came.get(identity, ())) <= set(wanted)
            else:
                assert came.get(identity, []) == wanted, f"{identity} came with other content"
        self.forgotten = sum(world.wants(point) for identity in forgotten for point, _ in world.produced[identity])
        self.less = sum(n or 0 for *_, n, why in gaps if why in LESS)
        events = [i for (i,) in world.ask("SELECT id FROM events WHERE kind = 'alarm.raised'")]
        assert sorted(events) == sorted(i for i, watch in world.alarms
                                        if watch in world.objects and "alarm" in world.lanes), "an alarm, once"
        now_ms = time.time_ns() // 1_000_000 + round(world.ahead_s * 1000)
        self.lost = sum(one.lost_records for one in rates(world.office.store.db, 0, now_ms))


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Broker(folder=tmp_path_factory.mktemp("broker"), prefer="mosquitto") as running:
        yield running


@pytest.fixture
def world(broker, tmp_path, request):
    with ExitStack() as stack:
        made = World(tmp_path, broker.port, f"m{time.monotonic_ns()}")
        stack.callback(made.close)
        yield made


class Told(NamedTuple):
    """What the county is to be told: reasons of its gaps; rows nobody can know of any more."""

    reasons: AbstractSet[str] = frozenset()
    forgotten: AbstractSet[tuple[str, str, int]] = frozenset()
    epochs: int = 1
    """Runs of numbering that it sees."""


def state_of(box):
    return box.folder / "state"


def copied(box):
    """Yesterday's copy of the card."""
    copy = box.folder.parent / f"{box.folder.name}-yesterday"
    copy.mkdir()
    with closing(sqlite3.connect(state_of(box) / "journal.sqlite")) as source, \
            closing(sqlite3.connect(copy / "journal.sqlite")) as target:
        source.backup(target)
    return copy


def unsent(box, first):
    return {(box.name, box.epoch, seq) for seq in range(first, box.seq + 1)}


# ---- the journal is lost, damaged, exchanged


def deleted_while_running(world, box):
    box.tell()
    box.disconnect()
    box.say(3)
    for path in state_of(box).iterdir():
        path.unlink()
    box.say(2)
    box.alarm()
    box.tell()
    return Told()


def deleted_and_rebooted(world, box):
    box.tell()
    box.disconnect()
    box.say(3)
    lost = unsent(box, 6)
    box.die()
    shutil.rmtree(state_of(box))
    box.start(reboot=True).tell()
    return Told(epochs=2, forgotten=lost)   # as after the loss of a whole card: nobody ever heard of those rows


def deleted_and_restarted(world, box):
    """/run still knows how far it was, and has what was not committed."""
    box.die()
    box.staging_bytes = 32768   # small segments: the older ones are gone
    box.start().tell(40)
    box.disconnect()
    box.say(40)
    box.say(commit=False)
    box.die()
    shutil.rmtree(state_of(box))
    box.start().tell()
    return Told({"journal_lost"}, epochs=2)


def overtaken(world, box):
    """Live readings reach the county, and of the backlog only the beginning; then the box dies."""
    box.disconnect()
    box.say(24)
    box.platform["backlog_bytes_per_s"] = 1e-6
    box.connect()
    world.until(lambda: box.up.health().connected, "connected")
    box.say(2)
    if "data" in world.lanes:
        world.until(lambda: world.ask("SELECT * FROM rows WHERE seq = ?", box.seq), "live")
    del box.platform["backlog_bytes_per_s"]
    box.die()


def deleted_while_backlog_is_behind(world, box):
    """The county sees the hole, and is told that it stays."""
    box.each = 60
    box.tell()
    overtaken(world, box)
    shutil.rmtree(state_of(box))
    box.start(reboot=True).tell()
    return Told({"gone"}, epochs=2)


def restored_while_backlog_is_behind(world, box):
    """The copy ends before the hole: its rows were never heard of, and never will be."""
    box.each = 60
    box.tell()
    copy = copied(box)
    overtaken(world, box)
    shutil.rmtree(state_of(box))
    shutil.copytree(copy, state_of(box))
    box.start(reboot=True).tell()
    return Told({"gone"}, epochs=2)


def torn(world, box, pages, holding, but=b"extent/"):
    """Overwrite some pages of a stopped journal that hold certain bytes."""
    path = state_of(box) / "journal.sqlite"
    raw = bytearray(path.read_bytes())
    found = [at for at in range(4096, len(raw), 4096)
             if holding in raw[at:at + 4096] and but not in raw[at:at + 4096]]
    for at in world.rng.sample(found, pages):
        raw[at:at + 4096] = world.rng.randbytes(4096)
    path.write_bytes(raw)


def damaged(world, box):
    """Pages of rows, told and not told yet, are torn."""
    box.each = 20
    box.tell(100)
    box.disconnect()
    box.say(100)
    box.die()
    torn(world, box, 10, holding=box.door.boot.encode())
    box.start(reboot=True).tell()
    return Told({"damaged"}, epochs=2)


def restored(world, box, reboot=True):
    """Yesterday's copy: the county has rows that the box has never heard of."""
    box.tell()
    copy = copied(box)
    box.tell()
    box.disconnect()
    box.say(3)
    lost = unsent(box, 11)
    box.say(commit=False)
    lost |= unsent(box, 14)
    box.die()
    shutil.rmtree(state_of(box))
    shutil.copytree(copy, state_of(box))
    box.start(reboot=reboot).tell()
    return Told(epochs=2, forgotten=lost)


def restored_and_restarted(world, box):
    """Nobody rebooted; what /run has is of this box and boot, but not of this journal."""
    box.tell()
    copy = copied(box)
    box.tell()
    box.die()
    box.start().die()   # by now /run has nothing of the rows that are committed
    shutil.rmtree(state_of(box))
    shutil.copytree(copy, state_of(box))
    box.start().tell()
    return Told(epochs=2)


def restored_while_running(world, box):
    box.tell()
    copy = copied(box)
    box.tell()
    box.disconnect()
    box.say(3)
    shutil.copyfile(copy / "journal.sqlite", copy / "j")
    (copy / "j").rename(state_of(box) / "journal.sqlite")
    box.say(2)
    box.tell()
    return Told()


# ---- the disk is full


def disk_full_during_an_alarm(world, box, killed=False):
    box.each, world.noisy = 60, True
    box.tell()
    box.fill()
    box.alarm()
    box.say(3)
    assert box.journal.fault
    if killed:
        box.die()
        box.start()
    else:
        box.fill(False)
    box.tell()
    return Told()


def disk_full_and_killed(world, box):
    return disk_full_during_an_alarm(world, box, killed=True)


def disk_full_for_long(world, box):
    """Memory is bounded: the oldest readings go, counted, never an alarm."""
    box.die()
    box.staging_bytes, box.each = 1 << 17, 60
    box.start().tell()
    box.fill()
    for _ in range(5):
        box.say(12)
        box.alarm()
    box.fill(False)
    box.tell()
    return Told({"overload"})


# ---- the configuration changes in the middle of an outage


def reconfigured(world, box):
    """Points are added, moved, removed; each time rows of the old list wait in the journal and in /run."""
    box.tell()
    box.disconnect()
    for points in (("level-1", "rain-1", *FIRST[:2]), ("gas-1", "crack-2"), FIRST[::-1], FIRST):
        box.say(3)
        box.say(commit=False)
        box.die()
        box.start(points=points)
    box.tell()
    return Told()


def reconfigured_and_damaged(world, box):
    """The list that the old rows name is torn with them; the county still has it."""
    box.each = 10
    box.tell(40)
    box.disconnect()
    box.say(40)
    box.die()
    torn(world, box, 1, holding=b"level-1")
    box.start(reboot=True, points=("level-1", "rain-1", *FIRST[:2])).tell()
    return Told(epochs=2)


# ---- room is small: thin, aggregate, drop


def room_is_small(world, box, times):
    box.die()
    box.max_bytes, box.each, world.noisy = 112 * 4096, 60, True
    box.start().tell(2)
    box.disconnect()
    box.say(times)
    box.tell(2)


def room_for_less(world, box):
    room_is_small(world, box, 200)
    return Told({"thinned"})


def room_for_much_less(world, box):
    room_is_small(world, box, 500)
    return Told({"thinned", "aggregated"})


def room_for_nothing(world, box):
    world.odd = 5
    room_is_small(world, box, 400)
    return Told({"thinned", "aggregated", "quota"})


# ---- two boxes of one name


def clone_of(world, box):
    clone = Box(world, box.name, folder=world.folder / "clone", **box.platform)
    shutil.copytree(state_of(box), state_of(clone))
    clone.boots = 100
    return clone


def cloned(world, box):
    """Both have the same rows to tell, each has its own since."""
    box.tell()
    box.disconnect()
    box.say(3)
    box.die()
    clone = clone_of(world, box)
    clone.start(reboot=True).tell()
    clone.say(2)
    box.start().say(2)
    box.connect()
    # an old mosquitto does not say why it hangs up
    world.until(lambda: world.counts["uplink.taken_over"] or world.counts["uplink.flapping"], "one of them is told")
    clone.die()
    box.tell()
    box.disconnect()
    clone.start().tell()
    return Told(epochs=2)


def cloned_while_backlog_is_behind(world, box):
    """The clone says that it has not what the other one still holds."""
    box.each = 60
    box.tell()
    box.die()
    clone = clone_of(world, box)
    box.start()
    overtaken(world, box)
    clone.start(reboot=True).tell()
    clone.die()
    box.start().tell()
    return Told({"gone"}, epochs=2)


CASES = {f.__name__: f for f in (
    deleted_while_running, deleted_and_rebooted, deleted_and_restarted, deleted_while_backlog_is_behind, damaged,
    restored, restored_and_restarted, restored_while_running, restored_while_backlog_is_behind,
    disk_full_during_an_alarm, disk_full_and_killed, disk_full_for_long, reconfigured, reconfigured_and_damaged,
    room_for_less, room_for_much_less, room_for_nothing, cloned, cloned_while_backlog_is_behind)}
FORMS = {"plain": {}, "compact": {"compact": True, "compress": True}}


# ---- a county that sees a part


FILTERS = {"object": Filter(objects=("dam",)), "class": Filter(hazards=("slope", "gas")),
           "lanes": Filter(lanes=("alarm", "event")), "data alone": Filter(lanes=("data",))}


def filtered(world, box, kind, name):
    world.lanes = set(FILTERS[kind].lanes)
    world.objects = set(FILTERS[kind].objects) or {o for o, h in HAZARDS.items() if h in FILTERS[kind].hazards} or \
        set(HAZARDS)
    box.platform["filter"] = FILTERS[kind]
    return CASES[name](world, box)


COMPACT = {"reconfigured", "reconfigured_and_damaged", "room_for_much_less", "restored"}
"""Where it matters in which form readings come."""
PARTS = {"room_for_nothing": {"data alone"}, "room_for_less": {"object"}, "damaged": {"class", "data alone"},
         "disk_full_for_long": {"object", "lanes"}, "reconfigured": {"object", "class"}, "restored": {"lanes"},
         "deleted_while_running": {"object"}, "restored_while_backlog_is_behind": {"object"}}


def held(world, told):
    judged = Judged(world, told.forgotten)
    print(vars(judged), world.office.counts)
    assert judged.reasons == told.reasons
    assert len(world.ask("SELECT DISTINCT epoch FROM rows WHERE lane = 'data'")) == told.epochs
    assert world.office.counts["unreadable"] == 0
    return judged


@pytest.mark.parametrize(("name", "form"), [(name, form) for form in FORMS for name in CASES
                                            if SOAK or form == "plain" or name in COMPACT])
def test_what_the_county_holds_after(world, name, form):
    judged = held(world, CASES[name](world, Box(world, **FORMS[form]).start()))
    assert judged.missing == judged.lost + judged.less + judged.forgotten


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in PARTS.items() for kind in FILTERS
                                            if SOAK or kind in kinds])
def test_what_a_county_that_sees_a_part_holds_after(world, kind, name):
    told = filtered(world, Box(world).start(), kind, name)
    judged = Judged(world, told.forgotten)
    print(vars(judged))
    if "data" not in world.lanes:
        assert (judged.reasons, judged.lost) == (set(), 0)
    elif "event" not in world.lanes:
        assert judged.reasons <= {"gone"}
    else:
        assert judged.reasons == told.reasons
    if not name.startswith("room"):
        assert judged.missing == judged.lost + judged.forgotten
    elif name == "room_for_less":
        assert judged.lost == 0


def test_a_loss_counts_when_it_became_known(world):
    disk_full_for_long(world, Box(world).start())
    (told_ms,), = world.ask("SELECT DISTINCT arrived_ms FROM gaps")
    db = world.office.store.db
    lost = [rates(db, since_ms, told_ms + 1)[0].lost_records for since_ms in (0, told_ms, told_ms + 1)]
    assert lost[0] == lost[1] == Judged(world).missing > lost[2] == 0


# ---- the check can fail


HARMS = {
    "a reading is gone": "DELETE FROM readings WHERE value = 1000001",
    "a reading is there twice": "INSERT INTO readings SELECT * FROM readings WHERE value = 1000001",
    "a value is on another sensor": "UPDATE readings SET point = 'crack-2' WHERE value = 1000001",
    "a value is another reading's": "UPDATE readings SET value = 1000999 WHERE value = 1000001",
    "a row is gone": "DELETE FROM rows WHERE lane = 'data' AND seq = 2",
    "a loss is not told": "DELETE FROM gaps",
    "an alarm is gone": "DELETE FROM events WHERE id = 'alarm-1'"}


def test_a_gap_is_told_to_those_who_miss_it():
    def left(wanted=None, platform="county", **why):
        said = Event(id="g", kind="journal.gap", t_ms=1, why={"lane": "data", "from": 1, "to": 2, "count": 9, **why})
        return [event.why["count"] for event in Selection(platform, wanted or Filter(), HAZARDS).row([said], None)]

    assert left(platforms=["county", "city"]) == [9]
    assert left(platforms=["city"]) == left(platforms=[]) == []
    assert left(Filter(objects=("dam",)), platforms=["county"]) == [None], "of the dam perhaps none"
    assert left(Filter(lanes=("alarm", "event")), platforms=["county"]) == []


@pytest.mark.parametrize("harm", HARMS)
def test_a_county_that_holds_something_else_is_found_out(world, harm):
    disk_full_for_long(world, Box(world).start())
    Judged(world)
    with closing(sqlite3.connect(world.where)) as db, db:
        assert db.execute(HARMS[harm]).rowcount
    with pytest.raises(AssertionError):
        Judged(world)


def test_a_box_that_numbers_as_before_is_found_out(world):
    """What a random epoch is for: the county drops new readings as rows that it has."""
    told = deleted_and_rebooted(world, Box(world, fresh=lambda: "always the same").start())
    assert world.office.counts["duplicates"]
    with pytest.raises(AssertionError, match="other content"):
        Judged(world, told.forgotten)


# ---- the real process


class Ordinals(list):
    """The log of a rig's wires; each answer is followed by another value."""

    def __init__(self, rig, first_mm):
        self.rig, self.first_mm = rig, first_mm

    def append(self, said):
        super().append(said)
        self.rig.slaves["crack"].set("displacement", round(self.first_mm + 0.01 * len(self), 2))


@contextmanager
def rig_of(folder, first_mm, broker=None):
    """A box whose readings are all different; `broker`: of another rig, instead of its own."""
    rig = Rig(site(folder / "site"), folder / "box", turnaround_s=0.002)
    rig.said = Ordinals(rig, first_mm)
    with rig:
        rig.slaves["crack"].set("displacement", first_mm)
        if broker is not None:
            rig.network.target = ("127.0.0.1", broker.port)
        yield rig


def audited(where, *rigs):
    with closing(sqlite3.connect(where)) as db:
        held = [Reading(point, t / 1000, value) for point, t, value in db.execute(
            "SELECT point, t, value FROM readings WHERE value IS NOT NULL")]
        reasons = {why for (why,) in db.execute("SELECT reason FROM gaps")}
    audit = compare([answer for rig in rigs for answer in rig.answers()], held)
    return audit, reasons


def error(rig):
    try:
        return backlog(rig)["error"]
    except OSError:
        return ""


def connected(rig):
    try:
        return backlog(rig)["connected"]
    except OSError:
        return False


def backlog(rig):
    return client.ask(rig.folder / "run/control.sock", {"do": "status"}, 10.0)["platforms"][0]


def kinds(where):
    with closing(sqlite3.connect(where)) as db:
        return {kind for (kind,) in db.execute("SELECT kind FROM events")}


@pytest.mark.long
@pytest.mark.timing
def test_a_process_whose_journal_is_deleted_restored_and_cloned(tmp_path):
    where = tmp_path / "county.sqlite"
    with rig_of(tmp_path / "one", 3.0) as rig, rig_of(tmp_path / "two", 12.0, rig.broker) as clone, \
            county(rig.broker, where):
        state, twin = rig.folder / "state", clone.folder / "state"
        rig.start()
        rig.wait("a reading", lambda: audited(where)[0].invented)
        yesterday = tmp_path / "yesterday"
        yesterday.mkdir()
        with closing(sqlite3.connect(state / "journal.sqlite")) as source, \
                closing(sqlite3.connect(yesterday / "journal.sqlite")) as target:
            source.backup(target)

        rig.network.cut()   # deleted while it runs, and has something to tell
        rig.wait("rows wait", lambda: backlog(rig)["rows"] > 1)
        for path in state.iterdir():
            path.unlink()
        said = len(rig.said)
        rig.wait("it goes on", lambda: len(rig.said) > said + 10)
        rig.network.restore()
        rig.wait("it was written back", lambda: "journal.rescued" in kinds(where))
        assert rig.stop() == 0
        rig.wait("the county has all", lambda: not audited(where, rig)[0].lost)

        for gone in (state, rig.folder / "run/staging"):   # yesterday's card, after a reboot
            shutil.rmtree(gone)
        shutil.copytree(yesterday, state)
        said = len(rig.said)
        rig.start()
        rig.wait("it goes on", lambda: len(rig.said) > said + 10)

        shutil.copytree(yesterday, twin)   # and a second box with that card
        clone.start()
        # an old mosquitto does not say why it hangs up
        told = {"taken_over", "flapping"}
        rig.wait("one of them is told", lambda: told & {error(one) for one in (rig, clone)}, 60)
        assert (rig.stop(), clone.stop()) == (0, 0)
        for one in (rig, clone):   # each alone tells what is its own
            one.start()
            one.wait("all is told", lambda one=one: connected(one) and backlog(one)["rows"] <= 1)
            assert one.stop() == 0
        rig.wait("the county has all", lambda: not audited(where, rig, clone)[0].lost)
        audit, reasons = audited(where, rig, clone)
        assert (audit.lost, audit.invented, reasons) == ([], [], set())
        assert {f"uplink.{kind}" for kind in told} & kinds(where)
        with closing(sqlite3.connect(where)) as db:
            epochs = db.execute("SELECT count(DISTINCT epoch) FROM rows WHERE lane = 'data'").fetchone()[0]
        db = connect(str(where))
        (one,) = rates(db, 0, time.time_ns() // 1_000_000)
        db.close()
        assert epochs == 3   # before the copy, after it, the clone's
        assert (one.delivered, one.lost_records) == (1.0, 0)
        print(f"{audit.matched} readings of two boxes, 0 lost, {epochs} epochs")
