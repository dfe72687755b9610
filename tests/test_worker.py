"""Worker: stop, heartbeat, patience, back-off, replacement; with real threads."""

import itertools
import logging
import threading
import time
from collections.abc import Callable

import pytest

from drivers import LinkError
from gateway.worker import BUGS_MAX, STUCK_MAX, Fault, Worker

FAST = (0.01, 0.05)


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.002)


class Part:
    """Something to run: says what was called, does what the test sets."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.on_step: Callable[[], None] = lambda: None
        self.on_open: Callable[[], None] = lambda: None
        self.steps = 0

    def step(self, timeout_s: float) -> None:
        assert 0 < timeout_s <= 1.0
        self.steps += 1
        self.on_step()
        time.sleep(0.001)

    def open(self) -> None:
        self.calls.append("open")
        self.on_open()

    def close(self) -> None:
        self.calls.append("close")

    def kinds(self) -> list[str]:
        return [f.kind for f in self.faults]


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
def make(part):
    made: list[Worker] = []
    release = threading.Event()

    def build(**keys) -> Worker:
        keys = {"patience_s": 5.0, "open": part.open, "close": part.close, "backoff_s": FAST,
                "on_fault": part.faults.append} | keys
        worker = Worker("bus-a", part.step, **keys)
        made.append(worker)
        return worker

    build.release = release
    yield build
    release.set()
    for worker in made:
        worker.stop()
        assert worker.join(5.0)


def fail_times(count: int, error: BaseException) -> Callable[[], None]:
    left = [count]

    def act() -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error
    return act


def test_opens_steps_and_closes_once(part, make):
    worker = make()
    worker.start()
    until(lambda: part.steps >= 3)
    assert worker.state == "running"
    assert worker.alive
    worker.stop()
    assert worker.join(2.0)
    assert part.calls == ["open", "close"]
    assert worker.state == "stopped"
    assert not worker.alive
    assert part.faults == []


def test_what_is_under_way_is_finished_at_a_stop_and_not_after_a_fault(part, make):
    part.on_step = fail_times(1, LinkError("gone"))
    worker = make(finish=lambda: part.calls.append("finish"))
    worker.start()
    until(lambda: part.steps >= 3)
    worker.stop()
    assert worker.join(2.0)
    assert part.calls == ["open", "close", "open", "finish", "close"]


def test_a_worker_that_never_started_is_joined_at_once(make):
    worker = make()
    worker.stop()
    assert worker.join(0.0)


def test_stop_interrupts_a_back_off(part, make):
    part.on_open = fail_times(1, LinkError("no such port"))
    worker = make(backoff_s=(60.0, 60.0))
    worker.start()
    until(lambda: worker.state == "waiting")
    began = time.monotonic()
    worker.stop()
    assert worker.join(2.0)
    assert time.monotonic() - began < 1.0
    assert part.calls == ["open", "close", "close"]


def test_a_dead_link_is_reopened_and_told_once(part, make, caplog):
    caplog.set_level(logging.INFO)
    part.on_open = fail_times(4, LinkError("no such port"))
    worker = make()
    worker.start()
    until(lambda: part.steps >= 2)
    assert part.calls == ["open", "close"] * 4 + ["open"]
    assert part.kinds() == ["link", "recovered"]
    assert worker.restarts == 4
    assert worker.last_error == "LinkError: no such port"
    assert sum("kind=link" in r.getMessage() for r in caplog.records) == 1
    assert sum("well again" in r.getMessage() for r in caplog.records) == 1


def test_a_link_lost_in_a_step_closes_before_it_opens(part, make):
    part.on_step = fail_times(1, LinkError("unplugged"))
    make().start()
    until(lambda: part.kinds() == ["link", "recovered"])
    assert part.calls == ["open", "close", "open"]


def test_back_off_doubles_to_its_limit(part, make):
    opened: list[float] = []

    def gone() -> None:
        opened.append(time.monotonic())
        raise LinkError("gone")
    part.on_open = gone
    make(backoff_s=(0.02, 0.08)).start()
    until(lambda: len(opened) >= 6)
    waits = [b - a for a, b in itertools.pairwise(opened)]
    for least, wait in zip([0.02, 0.04, 0.08, 0.08, 0.08], waits, strict=False):
        assert least <= wait < least + 1.0


def test_a_waiting_worker_still_beats(part, make):
    part.on_open = fail_times(99, LinkError("gone"))
    worker = make(backoff_s=(30.0, 30.0), patience_s=1.5)
    worker.start()
    until(lambda: worker.state == "waiting")
    for _ in range(24):
        worker.watch()
        assert worker.alive
        time.sleep(0.1)
    assert part.kinds() == ["link"]
    assert worker.tried.is_set()


def test_a_bug_is_shown_with_traceback_once_and_tried_again(part, make, caplog):
    part.on_step = fail_times(3, KeyError("crack"))
    worker = make()
    worker.start()
    until(lambda: part.steps >= 5)
    shown = [r for r in caplog.records if "worker failed" in r.getMessage()]
    assert [r.getMessage() for r in shown] == ["worker failed worker=bus-a times=1 error=KeyError: 'crack'"]
    assert shown[0].exc_info is not None
    assert part.kinds() == ["bug", "recovered"]
    assert worker.restarts == 3


def test_sys_exit_in_a_step_does_not_end_the_thread_silently(part, make):
    part.on_step = fail_times(1, SystemExit(3))
    worker = make()
    worker.start()
    until(lambda: worker.state == "running" and part.steps >= 3)
    assert part.kinds() == ["bug", "recovered"]


def test_a_failing_close_harms_nothing(part, make, caplog):
    def close() -> None:
        part.calls.append("close")
        raise OSError("EIO")
    part.on_step = fail_times(2, LinkError("unplugged"))
    worker = make(close=close)
    worker.start()
    until(lambda: part.steps >= 4)
    assert worker.state == "running"
    assert sum("close: OSError: EIO" in r.getMessage() for r in caplog.records) == 1


def test_a_gating_worker_that_only_fails_is_given_up(part, make):
    part.on_step = fail_times(BUGS_MAX, ValueError("broken invariant"))
    worker = make(gates=True)
    worker.start()
    until(lambda: worker.state == "given_up")
    assert worker.join(2.0)
    assert part.steps == BUGS_MAX
    assert part.kinds() == ["bug", "given_up"]
    assert not worker.alive


def test_a_gating_worker_with_good_steps_in_between_goes_on(part, make):
    turn = [0]

    def act() -> None:
        turn[0] += 1
        if turn[0] % 2:
            raise ValueError("poisonous")
    part.on_step = act
    worker = make(gates=True, backoff_s=(0.001, 0.001))
    worker.start()
    until(lambda: part.steps > 4 * BUGS_MAX)
    assert worker.state != "given_up"


def test_missing_hardware_never_gives_up_a_gating_worker(part, make):
    part.on_open = fail_times(3 * BUGS_MAX, LinkError("no gpiochip"))
    worker = make(gates=True, backoff_s=(0.001, 0.001))
    worker.start()
    until(lambda: part.kinds() == ["link", "recovered"])
    assert worker.state == "running"


def test_a_silent_thread_is_left_behind_and_replaced(part, make):
    first = threading.Event()

    def act() -> None:
        if not first.is_set():
            first.set()
            make.release.wait(20)
    part.on_step = act
    worker = make(patience_s=0.05)
    worker.start()
    assert first.wait(2)
    until(lambda: (worker.watch(), part.steps >= 4)[1])
    assert worker.replaced == 1
    assert part.calls == ["open", "close", "open"]
    until(lambda: part.kinds() == ["silent", "replaced", "recovered"])
    assert worker.report()["stuck"] == 1


def test_a_thread_that_comes_back_late_touches_nothing(part, make):
    stuck, calls_at_return = threading.Event(), []

    def act() -> None:
        if not stuck.is_set():
            stuck.set()
            make.release.wait(20)
    part.on_step = act
    worker = make(patience_s=0.05)
    worker.start()
    assert stuck.wait(2)
    until(lambda: (worker.watch(), worker.replaced == 1 and worker.state == "running")[1])
    calls_at_return = list(part.calls)
    make.release.set()
    until(lambda: (worker.watch(), worker.report()["stuck"] == 0)[1])
    assert part.calls == calls_at_return
    assert worker.state == "running"


def test_threads_left_behind_are_bounded_and_a_return_frees_a_place(part, make):
    part.on_step = lambda: make.release.wait(20)
    worker = make(patience_s=0.02)
    worker.start()
    until(lambda: (worker.watch(), worker.state == "given_up")[1])
    for _ in range(20):
        worker.watch()
    assert worker.replaced == STUCK_MAX
    assert worker.report()["stuck"] == STUCK_MAX
    assert part.kinds().count("given_up") == 1
    make.release.set()
    until(lambda: (worker.watch(), worker.state == "running")[1])
    assert part.kinds()[-1] == "recovered"


@pytest.mark.parametrize("keys", [{"replace": False}, {"gates": True}], ids=["writer", "gating"])
def test_a_worker_that_owns_a_file_or_the_siren_is_reported_but_not_doubled(part, make, keys):
    stuck = threading.Event()

    def act() -> None:
        if not stuck.is_set():
            stuck.set()
            make.release.wait(20)
    part.on_step = act
    worker = make(patience_s=0.05, **keys)
    worker.start()
    assert stuck.wait(2)
    until(lambda: (worker.watch(), worker.state == "silent")[1])
    for _ in range(10):
        worker.watch()
    assert not worker.alive
    assert worker.replaced == 0
    assert part.kinds() == ["silent"]
    make.release.set()
    until(lambda: part.kinds() == ["silent", "recovered"])
    assert worker.alive
    assert worker.state == "running"


def test_a_process_that_stood_still_accuses_nobody(part, make):
    clock = [0.0]
    worker = make(patience_s=5.0, now=lambda: clock[0], replace=False)
    part.on_step = lambda: make.release.wait(20)
    worker.start()
    until(lambda: part.steps == 1)
    clock[0] = 60.0
    worker.watch(late_s=59.0)
    assert worker.state == "starting"
    assert worker.beat_age_s == 1.0
    clock[0] = 64.5
    worker.watch()
    assert worker.state == "silent"


def test_beat_inside_a_long_step_is_a_sign_of_life(part, make):
    done = threading.Event()

    def act() -> None:
        for _ in range(20):
            time.sleep(0.02)
            worker.beat()
        done.set()
    part.on_step = act
    worker = make(patience_s=0.2)
    worker.start()
    until(lambda: (worker.watch(), done.is_set())[1])
    assert worker.replaced == 0


def test_a_listener_that_fails_does_not_end_the_worker(part, make, caplog):
    def on_fault(_: Fault) -> None:
        raise RuntimeError("queue gone")
    part.on_step = fail_times(1, LinkError("unplugged"))
    worker = make(on_fault=on_fault)
    worker.start()
    until(lambda: part.steps >= 3)
    assert worker.state == "running"
    assert sum("nobody could be told" in r.getMessage() for r in caplog.records) == 2
