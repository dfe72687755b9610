"""What is written to the card in a day: counted as the kernel counts, told once when it is too much."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from gateway import status
from gateway.journal.journal import Journal
from gateway.journal.rows import decode_events
from gateway.journal.wear import Wear, Worn, written_bytes
from gateway.model import SAMPLE, Door, Inventory

DAY = 86_400
POINTS = Inventory(0, ())


class Box:
    """A journal on a real disk, at a time of its own."""

    def __init__(self, folder, **settings):
        self.clock = 100.0
        self.journal = Journal(
            folder, folder / "run", "gw-1", boot="boot-1", now=lambda: self.clock, new_epoch=lambda: "e1", commit_s=1.0,
            **settings)
        self.journal.open()
        self.door, self.number = Door("boot-1", 20_000 * DAY * 1000, "synced"), self.journal.adopt(POINTS)

    def run(self, commits):
        for _ in range(commits):
            samples = np.zeros(50, SAMPLE)
            samples["t_ms"], samples["flag"] = round(self.clock * 1000), 1
            samples["value"] = np.random.default_rng(round(self.clock)).uniform(0, 1, 50)
            self.journal.record(self.door, self.number, samples)
            self.clock += 2.0
            self.journal.write(0.0)
        return self

    @property
    def flash(self):
        return self.journal.health()["flash"]

    def told(self):
        reader = self.journal.reader("county")
        events = [event for row in reader.pending(("event",)) for event in decode_events(row.body)]
        reader.close()
        return [event for event in events if event.kind == "journal.worn"]

    def end(self):
        assert self.journal.flush(5.0)
        self.journal.close()


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:   # never a tmpfs: a write is a write
        yield Path(made)


def test_what_the_journal_writes_is_what_the_kernel_counts(folder):
    box = Box(folder)
    before, box.journal._wear._last = written_bytes(), written_bytes()
    box.run(40)
    assert box.flash["today_bytes"] == written_bytes() - before
    # each commit: at least the page of the rows and that of the state
    assert box.flash["today_bytes"] >= 40 * 2 * 4096
    box.end()


def test_a_restart_goes_on_counting(folder):
    box = Box(folder).run(20)
    first = box.flash["today_bytes"]
    box.end()
    box = Box(folder)
    box.clock = 200.0
    box.run(1)
    assert box.flash["today_bytes"] >= first > 0
    box.end()


def test_too_much_is_told_once_a_day(folder):
    box = Box(folder, flash_bytes_day=100_000.0, platforms=("county",)).run(60)
    event, = box.told()
    assert event.why["budget_bytes"] == 100_000
    assert 100_000 < event.why["bytes"] <= box.flash["today_bytes"]
    assert "MB written to the card today, more than its 0.1 MB a day" in event.text_en
    assert "超过每天 0.1 MB 的预算" in event.text_zh
    box.end()
    box = Box(folder, flash_bytes_day=100_000.0, platforms=("county",))
    box.clock = 300.0
    assert len(box.run(60).told()) == 1   # a restart tells it no second time
    box.clock += DAY
    box.run(2)
    assert (len(box.told()), box.flash["before_bytes"] > 200_000) == (1, True)
    assert len(box.run(60).told()) == 2
    box.end()


@pytest.mark.parametrize(("looks", "expected"), [
    # (seconds since boot, UTC seconds or None, bytes written since the last look)
    ([(10, None, 5), (DAY - 1, None, 6)], Worn(None, 11, None)),
    ([(10, None, 5), (DAY, None, 6)], Worn(None, 6, 5)),
    ([(10, None, 5), (20, 3 * DAY, 6)], Worn(3, 11, None)),                       # the clock becomes known: same day
    ([(10, 3 * DAY, 5), (20, 4 * DAY - 1, 6), (21, 4 * DAY, 7)], Worn(4, 7, 11)),
    ([(10, 4 * DAY, 5), (20, 3 * DAY, 6)], Worn(4, 11, None)),                     # put back: no new day
    ([(10, 4 * DAY, 5), (20, 3 * DAY, 6), (30, 4 * DAY + 9, 7)], Worn(4, 18, None)),
])
def test_a_day_is_new_when_it_is_later_than_the_last(looks, expected):
    total = 0
    wear = Wear(None, lambda: total)
    for now_s, utc_s, more in looks:
        total += more
        assert not wear.look(now_s, utc_s)
    assert wear.worn == expected


def test_a_kernel_that_does_not_count_is_not_zero():
    wear = Wear(1.0, lambda: None)
    assert not wear.look(10, None)
    assert not wear.measured
    document = {"journal": {"bytes": 1000, "flash": {"today_bytes": None, "before_bytes": None,
                                                     "budget_bytes_day": 1e8}}}
    assert "written: not known" in "\n".join(status.lines(document, "en"))
    assert "写卡量未知" in "\n".join(status.lines(document, "zh"))
