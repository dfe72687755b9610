"""Clock: the offset, its trust and its steps; the kernel's real answer where there is one."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway import kernelclock
from gateway.clock import BOOT_ID, Clock
from gateway.kernelclock import OLD_S, Kernel, Timex, adjtimex, ask, tell
from gateway.model import Door

T0 = 1_800_000_000.0


class World:
    """Two clocks and a kernel the test moves by hand."""

    def __init__(self) -> None:
        self.mono_s, self.offset_s, self.kernel = 100.0, T0, Kernel(synced=False)
        self.refuse = False

    def ask(self) -> Kernel:
        if self.refuse:
            raise PermissionError(1, "Operation not permitted", "adjtimex")
        return self.kernel

    def clock(self, mark: Path = Path("/nonexistent/mark")) -> Clock:
        return Clock(mono=lambda: self.mono_s, wall=lambda: self.mono_s + self.offset_s, kernel=self.ask,
                     boot="b7e1f2a3-0000", synced_mark=mark)


@pytest.fixture
def world() -> World:
    return World()


SYNCED = Kernel(synced=True, error_ms=3.5)


def kinds(events) -> list[str]:
    return [e.kind for e in events]


def test_a_clock_nobody_vouches_for_is_unset(world):
    clock = world.clock()
    assert clock.door() == Door("b7e1f2a3-0000", 1_800_000_000_000, "unset")
    assert clock.tick() == []


def test_the_offset_makes_wall_time_of_monotonic_time(world):
    assert world.clock().utc_ms(100_000) == 1_800_000_100_000


def test_synced_from_the_start_tells_the_offset_once(world):
    world.kernel = SYNCED
    clock = world.clock()
    events = clock.tick()
    assert kinds(events) == ["clock.offset"]
    assert events[0].why == {"boot": "b7e1f2a3-0000", "offset_ms": 1_800_000_000_000, "trust": "synced",
                             "error_ms": 3.5, "source": "kernel"}
    assert clock.tick() == []


def test_first_sync_steps_trusts_and_tells_the_offset(world):
    world.offset_s = 0.0  # 1970
    clock = world.clock()
    world.offset_s, world.kernel = T0, SYNCED
    events = clock.tick()
    assert kinds(events) == ["clock.step", "clock.trust", "clock.offset"]
    assert clock.door() == Door("b7e1f2a3-0000", 1_800_000_000_000, "synced")
    assert events[0].why["was_ms"] == 0
    assert len({e.id for e in events}) == 3
    assert all(e.text_zh and e.text_en for e in events)


def test_sync_lost_is_holdover_then_synced_again(world):
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    world.kernel = Kernel(synced=False)
    world.mono_s += 40_000
    assert kinds(clock.tick()) == ["clock.trust"]
    assert clock.door().trust == "holdover"
    assert clock.report()["synced_ago_s"] == 40_000.0
    assert clock.error_ms == 3.5 + 4000   # 100 ppm of 40 000 s
    world.kernel = SYNCED
    assert kinds(clock.tick()) == ["clock.trust"]
    assert clock.door().trust == "synced"


@pytest.mark.parametrize(("age_s", "trust"), [(40.0, "holdover"), (0.0, "holdover"), (-5.0, "unset"), (101.0, "unset")])
def test_a_restarted_process_knows_of_this_boots_sync_by_timesyncds_mark(world, tmp_path, age_s, trust):
    mark = tmp_path / "synchronized"
    assert world.clock(mark).door().trust == "unset"
    mark.touch()
    os.utime(mark, (0, world.mono_s + world.offset_s - age_s))   # else it was set since
    clock = world.clock(mark)
    assert clock.door().trust == trust
    assert trust == "unset" or clock.error_ms == 1000 + age_s / 10


@pytest.mark.parametrize("by", ["journal", "mark"])
def test_what_this_boot_knew_is_believed_although_the_journal_lived_on_after_it_was_learnt(world, tmp_path, by):
    """The journal's last word is younger than the sync it goes by: both are held against each other as of now."""
    mark = tmp_path / "synchronized"
    if by == "mark":
        mark.touch()
        os.utime(mark, (0, world.mono_s + world.offset_s - 90.0))
    clock = world.clock(mark)
    clock.floor(round((world.mono_s + world.offset_s - 5.0) * 1000))
    if by == "journal":
        world.offset_s -= 1e6   # and somebody set the wall clock meanwhile
        assert clock.offer("kept", 1_800_000_000_000, 3.5, at_s=0.0)
    told = [event for event in clock.tick() if event.kind == "clock.offset"]
    assert len(told) == (0 if by == "journal" else 1)   # it is in the journal, and would be worse told again
    assert clock.door() == Door("b7e1f2a3-0000", 1_800_000_000_000, "holdover")
    assert clock.error_ms == (3.5 + 10 if by == "journal" else 1000 + 9)   # 100 ppm since


def test_a_holdover_ages_until_it_is_no_time_any_more(world):
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    world.kernel, world.offset_s = Kernel(synced=False), T0 - 1e6   # and somebody sets the wall clock
    clock.tick()
    world.mono_s += 2_900_000
    assert clock.tick() == []
    assert (clock.door().trust, clock.source) == ("holdover", "kept")
    world.mono_s += 100_000   # 3e6 s at 100 ppm are 300 s
    (event,) = clock.tick()
    assert (event.kind, event.why["trust"], event.why["error_ms"]) == ("clock.trust", "unset", pytest.approx(300_003.5))
    assert clock.door().offset_ms == 1_800_000_000_000   # still the best guess there is


def test_a_kernel_that_is_asked_seldom_by_its_ntp_client_stays_synced(world):
    """systemd-timesyncd asks every 2 048 s at the longest, and says 0 each time; the kernel adds 500 ppm: over 1 s."""
    clock = world.clock()
    for second in range(0, 5000, 10):
        world.kernel = Kernel(synced=True, error_ms=0.5 * (second % 2048))
        clock.tick()
        assert clock.door().trust == "synced"
        assert clock.error_ms <= 205
        world.mono_s += 10


@pytest.mark.parametrize("by_s", [-365 * 86400.0, -1.5, 1.5, 3 * 86400.0])
def test_a_step_over_a_second_is_an_event_and_moves_the_door(world, by_s):
    clock = world.clock()
    world.offset_s += by_s
    assert kinds(clock.tick()) == ["clock.step"]
    assert clock.door().offset_ms == round((T0 + by_s) * 1000)
    assert clock.tick() == []


@pytest.mark.parametrize(("by_s", "moved_ms"), [(0.004, 0), (-0.009, 0), (0.2, 200), (-1.0, -1000)])
def test_a_small_step_is_no_event_and_noise_leaves_the_door_alone(world, by_s, moved_ms):
    clock = world.clock()
    before = clock.door()
    world.offset_s += by_s
    assert clock.tick() == []
    assert clock.door().offset_ms - before.offset_ms == moved_ms
    assert (clock.door() is before) == (moved_ms == 0)


def test_many_noise_steps_cannot_add_up(world):
    clock = world.clock()
    for _ in range(100):
        world.offset_s += 0.004
        clock.tick()
        assert abs(clock.door().offset_ms - world.offset_s * 1000) < 10


def test_a_step_while_synced_gives_the_new_offset(world):
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    world.offset_s += 2.0
    assert kinds(clock.tick()) == ["clock.step", "clock.offset"]


@pytest.mark.parametrize("by_s", [-365 * 86400.0, 3 * 86400.0])
def test_after_a_sync_somebody_setting_the_wall_clock_moves_nothing(world, by_s):
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    world.kernel = Kernel(synced=False)
    clock.tick()
    world.offset_s += by_s
    world.mono_s += 10
    assert kinds(clock.tick()) == ["clock.step"]
    assert clock.door() == Door("b7e1f2a3-0000", 1_800_000_000_000, "holdover")
    assert clock.wall_off_ms == by_s * 1000


def test_another_source_dates_the_box_while_the_kernel_has_no_time(world):
    world.offset_s = 0.0   # 1970
    clock = world.clock()
    assert clock.offer("broker", 1_800_000_000_000, 120.0)
    events = clock.tick()
    assert kinds(events) == ["clock.trust", "clock.offset"]
    assert (events[1].why["source"], events[1].why["error_ms"]) == ("broker", 120.0)
    assert clock.door() == Door("b7e1f2a3-0000", 1_800_000_000_000, "synced")
    world.mono_s += 86_400
    clock.tick()
    assert clock.door().trust == "holdover"   # 100 ppm of a day are more than a second
    assert clock.offer("gnss", 1_800_000_000_100, 50.0)
    assert kinds(clock.tick()) == ["clock.trust"]   # within the drift of a day: rows of yesterday are dated well enough
    assert clock.report()["source"] == "gnss"
    world.mono_s += 3600
    clock.offer("broker", 1_800_000_030_000, 20.0)
    assert kinds(clock.tick()) == ["clock.quarrel"]
    world.mono_s += 9000   # the receiver has been silent too long: what was told of this boot is contradicted
    assert kinds(clock.tick()) == ["clock.offset"]
    assert clock.door() == Door("b7e1f2a3-0000", 1_800_000_030_000, "synced")


def test_the_wall_clock_may_be_wrong_while_the_time_is_known(world):
    world.offset_s = 0.0
    clock = world.clock()
    clock.offer("broker", 1_800_000_000_000, 20.0)
    clock.tick()
    assert clock.wall_off_ms == -1_800_000_000_000


def test_two_quarrels_of_one_look_are_two_events(world):
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    clock.offer("gnss", 1_800_000_600_000, 50.0)
    clock.offer("broker", 1_800_001_200_000, 50.0)
    events = [event for event in clock.tick() if event.kind == "clock.quarrel"]
    assert len({event.id for event in events}) == len(events) == 3
    assert events[0].why["apart_s"] in (-600.0, 600.0)


def test_a_clock_chip_alone_is_holdover_and_one_from_before_the_last_word_is_none(world):
    world.offset_s = 0.0
    clock = Clock(mono=lambda: world.mono_s, wall=lambda: world.mono_s, kernel=world.ask, boot="b",
                  synced_mark=Path("/nonexistent"), floor_ms=1_800_000_000_000)
    assert not clock.offer("rtc", 1_790_000_000_000, 1000.0)
    assert clock.door().trust == "unset"
    assert clock.offer("rtc", 1_800_000_000_000, 1000.0)
    clock.tick()
    assert clock.door() == Door("b", 1_800_000_000_000, "holdover")


def test_a_plausible_old_time_is_unset(world):
    """A fake clock chip restores the time of the last shutdown: plausible, and before what the journal has seen."""
    clock = world.clock()
    clock.floor(1_800_000_200_000)
    world.offset_s, world.kernel = T0, Kernel(synced=False)
    assert clock.tick() == []
    assert clock.door().trust == "unset"


def test_sources_that_quarrel_are_told_once_and_the_better_one_wins(world):
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    clock.offer("gnss", 1_800_000_600_000, 50.0)
    assert kinds(clock.tick()) == ["clock.offset", "clock.quarrel"]
    assert clock.door().offset_ms == 1_800_000_600_000
    assert clock.tick() == []


def test_what_was_told_is_told_again_only_when_it_is_better(world):
    world.offset_s = 0.0
    clock = world.clock()
    clock.offer("broker", 1_800_000_000_000, 900.0)
    clock.tick()
    clock.offer("broker", 1_800_000_000_100, 880.0)
    assert clock.tick() == []
    clock.offer("broker", 1_800_000_000_200, 40.0)
    assert kinds(clock.tick()) == ["clock.offset"]


def test_a_kernel_that_cannot_be_asked_never_makes_a_clock_synced(world, caplog):
    world.refuse = True
    assert world.clock().door().trust == "unset"
    world.refuse = False
    caplog.clear()
    world.kernel = SYNCED
    clock = world.clock()
    clock.tick()
    world.refuse = True
    assert kinds(clock.tick()) == ["clock.trust"]
    clock.tick()
    assert clock.door().trust == "holdover"
    assert sum("not readable" in r.getMessage() for r in caplog.records) == 1


def test_the_quickest_look_decides_the_offset():
    looks = iter([0.0, 5.0, 5.0, 5.001, 9.0, 9.5])  # before, after × 3: five seconds, one ms, half a second apart
    walls = iter([T0 + 1, T0 + 5.0005, T0 + 20])
    clock = Clock(mono=lambda: next(looks, 10.0), wall=lambda: next(walls), kernel=lambda: Kernel(synced=False),
                  boot="b", synced_mark=Path("/nonexistent/mark"))
    assert clock.door().offset_ms == round(T0 * 1000)


def test_the_real_kernel_answers_an_unprivileged_read():
    kernel = adjtimex()
    assert kernel.synced == (kernel.error_ms is not None)
    timex = Timex(modes=0)
    assert ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) >= 0
    assert abs(timex.time_s - time.time()) < 5  # the structure is laid out as the kernel writes it
    assert 9_000 <= timex.tick <= 11_000


def test_the_real_clock_is_now():
    clock = Clock()
    assert clock.door().boot == BOOT_ID.read_text().strip()
    assert abs(clock.utc_ms(round(clock.now() * 1000)) - time.time() * 1000) < 1000
    assert clock.report()["trust"] in ("synced", "holdover", "unset")


@pytest.fixture
def forbidden(monkeypatch):
    def refuse() -> Kernel:
        raise PermissionError(1, "Operation not permitted", "adjtimex")
    return lambda: monkeypatch.setattr(kernelclock, "adjtimex", refuse)


def test_what_is_told_is_what_the_kernel_says(tmp_path, forbidden):
    truth = adjtimex()
    tell(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o644
    forbidden()
    told = ask(tmp_path / "state")
    assert told.synced == truth.synced
    assert told.error_ms == pytest.approx(truth.error_ms, abs=1000) if truth.synced else told.error_ms is None


@pytest.mark.parametrize(("text", "why"), [
    (None, "is mingluo-clock.service running"), ("", "cannot be read"), ("1 x", "cannot be read"),
    ("1 3500 -100000", "s old"), ("1 3500 99999999999", "s old")])
def test_an_answer_that_is_missing_broken_or_old_is_none(tmp_path, forbidden, text, why):
    state = tmp_path / "state"
    if text is not None:
        state.write_text(text)
    forbidden()
    with pytest.raises(OSError, match=why):
        ask(state)


@pytest.mark.parametrize(("line", "expected"), [("1 3500 {now}", Kernel(synced=True, error_ms=3.5)),
                                                ("0 0 {now}", Kernel(synced=False))])
def test_a_fresh_answer_is_believed(tmp_path, forbidden, line, expected):
    (tmp_path / "state").write_text(line.format(now=time.monotonic() - OLD_S / 2))
    forbidden()
    assert ask(tmp_path / "state") == expected


def test_the_telling_process_is_small_and_tells(tmp_path):
    state = tmp_path / "state"
    process = subprocess.Popen([sys.executable, "-m", "gateway.kernelclock", str(state)])
    try:
        end = time.monotonic() + 10
        while not state.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert state.read_text().split()[0] in ("0", "1")
        rss = Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        assert int(rss) < 20_000  # kB: no numpy, no msgspec
    finally:
        process.kill()
        process.wait()
