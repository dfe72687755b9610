"""The day's budget and the backlog's pace: what passes, what waits, and that nothing passes twice for one price."""

import random

import pytest

from gateway.config import Link
from gateway.uplink.budget import DAY_S, SAVER_EVERY_S, Bucket, Budget
from gateway.uplink.spent import Spent
from hil.broker import Broker
from tests.uplink_site import Memory, event, listener, samples, until, uplink

KINDS = ("alarm", "event", "live", "backlog", "warn", "diag")
UTC = 20_000 * DAY_S


def allowed(budget, now_s=0.0, size=100):
    return [kind for kind in KINDS if budget.allows(kind, size, now_s)]


def test_without_a_cap_everything_passes_always():
    budget = Budget(None)
    budget.spent(10**15)
    assert (budget.mode, allowed(budget)) == ("normal", list(KINDS))


def test_what_gives_way_in_which_order():
    budget = Budget(1_000_000)
    assert (budget.mode, allowed(budget)) == ("normal", list(KINDS))
    budget.spent(799_999)
    assert (budget.mode, allowed(budget)) == ("normal", list(KINDS))
    budget.spent(1)
    assert (budget.mode, allowed(budget)) == ("saver", ["alarm", "event", "live", "warn", "diag"])
    budget.spent(200_000)
    assert (budget.mode, allowed(budget)) == ("alarm_only", ["alarm", "event", "warn"])
    budget.spent(10_000_000)
    assert allowed(budget) == ["alarm", "event", "warn"], "an alarm has no price"


def test_saver_lets_live_pass_once_a_minute_and_diag_once_an_hour():
    budget = Budget(1_000_000)
    budget.spent(800_000)
    passed = {kind: [s for s in range(7201) if budget.allows(kind, 10, float(s))]
              for kind in ("live", "diag", "backlog")}
    assert passed["live"] == list(range(0, 7201, 60))
    assert passed["diag"] == [0, 3600, 7200]
    assert passed["backlog"] == []


def test_a_message_that_would_break_the_cap_waits():
    budget = Budget(1_000_000)
    budget.spent(790_000)
    assert not budget.allows("live", 210_001, 0.0)
    assert budget.allows("live", 210_000, 0.0)
    assert budget.allows("alarm", 10**9, 0.0)


def test_a_new_day_begins_anew():
    budget = Budget(1000)
    assert not budget.turn(10.0, UTC + 5)
    budget.spent(2000)
    assert not budget.turn(100.0, UTC + DAY_S - 1)
    assert budget.mode == "alarm_only"
    assert budget.turn(101.0, UTC + DAY_S)
    assert (budget.mode, budget.kept) == ("normal", (20_001, 0))


def test_without_a_clock_the_boots_days_count():
    budget = Budget(1000)
    budget.turn(10.0, None)
    budget.spent(2000)
    assert not budget.turn(DAY_S - 1.0, None)
    assert budget.turn(DAY_S + 1.0, None)
    assert budget.mode == "normal"


def test_a_clock_that_is_set_or_put_back_gives_no_new_day():
    budget = Budget(1000)
    budget.turn(10.0, None)
    budget.spent(1000)
    assert not budget.turn(20.0, UTC), "the first time it is known"
    assert not budget.turn(30.0, UTC - 5 * DAY_S), "put back"
    assert not budget.turn(40.0, None), "lost again, within the same day of the boot"
    assert budget.mode == "alarm_only"
    assert budget.turn(50.0, UTC - 4 * DAY_S)


def test_a_restart_forgets_neither_day_nor_bytes():
    budget = Budget(1000)
    budget.turn(10.0, UTC)
    budget.spent(900)
    again = Budget(1000, *budget.kept)
    again.turn(5.0, None)
    assert again.mode == "saver", "the clock is not known yet"
    again.turn(6.0, UTC + 10)
    assert again.mode == "saver"
    assert again.turn(7.0, UTC + DAY_S)


@pytest.mark.parametrize(("cap_mb", "live_bytes", "every_s"), [(5, 300, 10), (1, 2000, 10), (20, 500, 1)])
def test_a_day_stays_below_its_cap_but_for_what_must_pass(cap_mb, live_bytes, every_s):
    budget, cap = Budget(cap_mb * 1_000_000), cap_mb * 1_000_000
    must = total = 0
    for second in range(0, DAY_S, every_s):
        budget.turn(float(second), UTC + second)
        alarms = (("alarm", 400),) if second % 3600 == 0 else ()
        for kind, size in (("live", live_bytes), ("backlog", 20_000), *alarms):
            price = size + 300
            if budget.allows(kind, price, float(second)):
                budget.spent(price)
                total += price
                must += price if kind == "alarm" else 0
    assert total <= cap + must
    assert total > 0.8 * cap, "and it is used"


def test_a_link_that_is_not_metered_costs_nothing_and_holds_nothing_back():
    budget = Budget(1000)
    budget.spent(2000)
    budget.metered = False
    budget.spent(5000)
    assert (budget.mode, allowed(budget), budget.kept[1]) == ("normal", list(KINDS), 2000)
    budget.metered = True
    assert budget.mode == "alarm_only"


def drain(bucket, sizes, limit_s):
    """When each message goes, as fast as the bucket lets."""
    now, went = 0.0, []
    for size in sizes:
        while (wait_s := bucket.wait_s(now)) > 0:
            now += wait_s
            if now > limit_s:
                return went
        bucket.take(size)
        went.append((now, size))
    return went


def test_a_bucket_keeps_both_paces():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for messages_per_s, bytes_per_s in ((20, None), (20, 4000), (3, 100_000), (0.5, 500)):
        sizes = [rng.randrange(20, 32_000) for _ in range(5000)]
        went = drain(Bucket(messages_per_s, bytes_per_s, 0.0), sizes, 600.0)
        assert len(went) > 2
        for n in range(len(went)):
            later = went[n:n + 200]
            span_s = later[-1][0] - later[0][0]
            assert len(later) <= span_s * messages_per_s + max(1, messages_per_s / 4) + 0.01
            if bytes_per_s is not None:  # the last one may be paid for afterwards
                assert sum(size for _, size in later[:-1]) <= (span_s + 0.25) * bytes_per_s + 1e-3


def test_a_bucket_uses_its_pace():
    went = drain(Bucket(20, None, 0.0), [100] * 5000, 100.0)
    assert len(went) == pytest.approx(2000, abs=10)
    went = drain(Bucket(1000, 8000, 0.0), [1000] * 5000, 100.0)
    assert len(went) == pytest.approx(800, abs=5)


def test_a_message_larger_than_the_pace_goes_and_is_paid_for_afterwards():
    went = drain(Bucket(20, 1000, 0.0), [32_000] * 4, 100.0)
    assert [round(at_s) for at_s, _ in went] == [0, 32, 64, 96]


def test_time_that_stands_still_or_runs_back_gives_nothing():
    bucket = Bucket(1, None, 100.0)
    assert bucket.wait_s(100.0) == 0
    bucket.take(10)
    assert bucket.wait_s(100.0) == bucket.wait_s(50.0) == 1
    assert bucket.wait_s(100.5) == 0.5


def test_the_saver_has_a_pace_for_what_it_thins():
    assert set(SAVER_EVERY_S) == {"live", "diag"}


def test_a_platform_over_its_cap_still_gets_alarms_and_loses_nothing(tmp_path):
    memory = Memory()
    memory.commit(*(samples(*range(200)) for _ in range(40)))  # some 17 kB each
    with Broker(folder=tmp_path / "b") as broker, listener(broker.port) as got, \
            uplink(memory, broker.port, cap_mb_day=0.2) as (up, _):
        until(lambda: up.health().mode == "saver")
        stopped = until(lambda: not up.health().in_flight and memory.count_settled())
        memory.commit(event(1), lane="alarm")
        until(lambda: memory.count_settled("alarm") == 1)
        assert memory.count_settled() <= stopped + 1, "the backlog waits"
        waits, wait = [], memory.wait
        memory.wait = lambda timeout_s: (waits.append(timeout_s), wait(timeout_s))[1]
        until(lambda: len(waits) >= 4)
        assert waits[1:] == [0.2] * (len(waits) - 1), "in peace: the uplink's turn is as long as it may be"
        until(lambda: got.of("birth")[-1]["link"] == "saver")
        up._budget.spent(200_000)
        memory.commit(event(2), lane="alarm")
        memory.commit(samples(1))
        until(lambda: memory.count_settled("alarm") == 2 and up.health().mode == "alarm_only")
        until(lambda: got.of("birth")[-1]["link"] == "alarm_only")
        kept = up._budget.kept
        up._budget._cap, up._budget._spent = 1e9, 0  # a new day, and a kinder one
        until(lambda: memory.count_settled() == 41)
        print("spent when the backlog stopped:", kept)


def test_a_link_without_a_meter_is_not_counted(tmp_path):
    memory = Memory()
    memory.commit(*(samples(*range(200)) for _ in range(20)))
    with Broker(folder=tmp_path / "b") as broker, \
            uplink(memory, broker.port, cap_mb_day=0.05, links=(Link(interface="lo"),)) as (up, _):
        until(lambda: memory.count_settled() == 20)
        assert (up.health().mode, up._budget.kept[1]) == ("normal", 0)


def test_in_saver_mode_the_minutes_message_is_the_newest_and_the_rest_follows_the_next_day(tmp_path):
    memory = Memory()
    with Broker(folder=tmp_path / "b") as broker, listener(broker.port) as got, \
            uplink(memory, broker.port, cap_mb_day=1.0) as (up, _):
        until(lambda: up.health().connected)
        until(lambda: not up.health().in_flight)
        up._budget._spent = 850_000
        memory.commit(samples(1))
        until(lambda: memory.count_settled() == 1)
        for value in range(2, 10):
            memory.commit(samples(value))
        up._budget._passed_s.clear()   # a minute later
        until(lambda: memory.count_settled() == 2)
        assert [row["seq"] for body in got.of("data") for row in body["rows"]] == [1, 9]
        memory.commit(samples(10))
        up._budget._passed_s.clear()
        until(lambda: memory.count_settled() == 3)
        up._budget._spent = 0          # a new day
        until(lambda: memory.count_settled() == 10)
        assert [row["seq"] for body in got.of("data") for row in body["rows"]] == [1, 9, 10]
        assert [row["seq"] for body in got.of("backlog") for row in body["rows"]] == [2, 3, 4, 5, 6, 7, 8]


def test_what_the_day_has_cost_is_kept_in_a_file(tmp_path):
    spent = Spent(tmp_path, "county")
    assert spent.read() == (None, 0)
    kept, memory = [], Memory()
    with Broker(folder=tmp_path / "b") as broker:
        with uplink(memory, broker.port, cap_mb_day=1.0, sources={"keep_spent": spent.write}) as (up, _):
            until(lambda: up.health().connected)
        assert spent.read()[1] == up._budget.kept[1] > 0
        with uplink(memory, broker.port, cap_mb_day=1.0,
                    sources={"spent": spent.read(), "keep_spent": kept.append}) as (up, _):
            until(lambda: kept)
        assert kept[-1][1] > spent.read()[1]
    (tmp_path / "spent-county.json").write_bytes(b"[20000, ")
    assert spent.read() == (None, 0)
    Spent(tmp_path / "nowhere", "county").write((1, 2))   # a disk that is gone costs nothing but the count
