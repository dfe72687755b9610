import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import Note, PointInfo, Scan
from gateway.judgement.detect.anomaly import Anomaly, Scores
from gateway.judgement.pipeline import RESUME_S
from gateway.model import SAMPLE, Inventory, InventoryPoint
from tests.judgement_site import BUTTON, EVERYTHING, INFO, Box, point, rule, site, slope

LEVELS_3 = {"yellow": 20, "orange": 40, "red": 60}
LATCHED = rule(**LEVELS_3, latch=("red",))
PATIENT = (point("crack", "dev.x", stale_s=1e5),)


def box(*rules, buttons=(), **more):
    return Box(site(slope(*(rules or (LATCHED,)), **more), buttons=buttons))


# --- samples: polling is not reporting


def reported(b):
    return [(s[0] / 1000, s[2]) for s in b.samples]


def test_every_reading_is_reported_when_every_s_is_zero():
    b = box().say(1, 5).say(1.5, 5).say(1.7, 5)
    assert b.samples == [(1000, 0, 1, 0, 0, 5.0), (1500, 0, 1, 0, 0, 5.0), (1700, 0, 1, 0, 0, 5.0)]
    assert b.last.samples.dtype == SAMPLE


def test_a_quiet_reading_goes_out_once_in_every_s_also_with_polls_that_come_early():
    b = box(points=(point("crack", "dev.x", every_s=10.0),))
    for k in range(31):
        b.say(k - (0.01 if k in (10, 30) else 0.0), 5)
    assert [t for t, _ in reported(b)] == [0, 9.99, 20, 29.99]


def test_a_step_goes_out_at_once():
    b = box(points=(point("crack", "dev.x", every_s=100.0, change=1.0),))
    for t, v in enumerate((5, 5.5, 5.9, 6.0, 6.5, 5.0)):
        b.say(t, v)
    assert [(s[0], s[5]) for s in b.samples] == [(0, 5.0), (3000, 6.0), (5000, 5.0)]


def test_everything_goes_out_from_yellow_up_beginning_with_the_reading_that_crossed():
    b = box(rule(**LEVELS_3), points=(point("crack", "dev.x", every_s=100.0), point("rain", "dev.y", every_s=100.0)))
    for t, v in enumerate((5, 6, 25, 26, 27, 5, 5)):
        b.say(t, v, 0)
    assert [t for t, _ in reported(b)] == [0, 0, 2, 2, 3, 3, 4, 4]


def test_flag_changes_and_the_ends_of_a_missing_episode_always_go_out():
    b = box(points=(point("crack", "dev.x", every_s=100.0),))
    b.say(0, 5).say(1, 5)
    for t in range(2, 8):
        b.fail(t)
    b.say(8, 5).say(9, 5)
    assert reported(b) == [(0, 1), (2, 9), (7, 9), (8, 1)]
    assert [math.isnan(s[5]) for s in b.samples] == [False, True, True, False]


def test_the_last_missing_reading_is_not_told_twice_nor_kept_for_the_next_episode():
    b = box(points=(point("crack", "dev.x", every_s=3.0), point("rain", "dev.y", every_s=100.0)))
    for t in range(5):
        b.fail(t, points=("x", "y"))
    b.say(5, 5, 6)
    b.fail(6, points=("x", "y")).say(7, 5, 6)
    assert [(t, p) for t, p in ((s[0] // 1000, s[1]) for s in b.samples)] == [
        (0, 0), (0, 1), (3, 0), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0), (6, 1), (7, 0), (7, 1)]


def test_a_point_that_falls_silent_is_reported_once_with_its_reason():
    b = box().say(1, 5).tick(10.9)
    assert len(b.samples) == 1
    b.tick(11).tick(60).tick(600)
    assert [s[:5] for s in b.samples[1:]] == [(11000, 0, 9, 20, 0)]
    assert (b.kinds(), b.events[0].t_ms, b.colour) == (["point.lost"], 11000, "unknown")


def test_a_sensor_that_failed_and_then_fell_silent_is_reported_as_silent_once():
    b = box().say(1, 5).fail(2, "sensor_fault").tick(11.9).tick(12).tick(900)
    assert [s[:4] for s in b.samples[1:]] == [(2000, 0, 4, 11), (12000, 0, 9, 20)]
    assert b.kinds() == ["point.lost"]


# --- what is handed back


def test_demand_and_latch_come_only_when_they_change():
    b = box().say(1, 5)
    assert (b.last.demand, b.last.latch) == (None, None)
    b.say(2, 70)
    assert b.last.demand is not None
    assert b.last.latch == b.pipeline.latch()
    b.say(3, 71)
    assert (b.last.demand, b.last.latch, b.last.events) == (None, None, ())
    assert b.pipeline.present(4.0).demand == b.demand
    assert b.pipeline.present(4.0).t_ms == 4000


def test_the_detector_is_fed_good_readings_alone():
    b = box().say(1, 5).say(2, 120).fail(3).say(4, math.nan).say(5, 6)
    assert b.fed == [(0, 1, 5.0), (0, 5, 6.0)]


def test_points_may_come_in_any_selection_and_order_and_serve_two_objects():
    b = Box(site(slope(points=(point("a", "dev.x"), point("b", "dev.z")), id_="one"),
                 slope(points=(point("c", "dev.x"), point("d", "dev.y")), id_="two")))
    b.say(1, 3.0, 1.0, points=("z", "x"))
    b.say(2, 2.0, points=("y",))
    assert [(s[0], s[1], s[5]) for s in b.samples] == [(1000, 1, 3.0), (1000, 0, 1.0), (1000, 2, 1.0), (2000, 3, 2.0)]


def test_inventory_names_every_point_in_the_order_of_samples():
    b = Box(site(slope(points=(point("a", "dev.x", every_s=60.0, change=2.0), point("b", "dev.z")))),
            {"dev.x": msgspec.structs.replace(INFO, model="LR-1", counter=True)})
    assert b.pipeline.inventory() == Inventory(n=0, points=(
        InventoryPoint(point="a", name="测点a", object="slope", unit="mm", resolution=0.1, poll_s=1.0,
                       report_every_s=60.0, report_change=2.0, low=0.0, high=100.0, counter=True, model="LR-1",
                       read="dev.x"),
        InventoryPoint(point="b", name="测点b", object="slope", unit="mm", resolution=0.1, poll_s=1.0,
                       report_every_s=0.0, low=0.0, high=100.0, read="dev.z")))


def test_a_point_without_template_is_judged_by_its_rules():
    b = Box(site(slope(LATCHED)))
    b = Box(site(slope(LATCHED)), {"dev.x": PointInfo(unit="", resolution=0.0)}).say(1, 1e6)
    assert (b.colour, b.samples[0][2]) == ("red", 1)


# --- poison


@pytest.mark.parametrize("scan", [
    Scan("dev", 1.0, ("x",), ()),
    Scan("dev", 1.0, ("x",), (1.0, 2.0)),
    Scan("dev", 1.0, ("x", "x"), (1.0, 2.0)),
    Scan("dev", 1.0, ("x",), (1.0,), ("", "")),
    Scan("nobody", 1.0, ("x",), (1.0,)),
    Scan("dev", math.nan, ("x",), (1.0,)),
    Scan("dev", math.inf, ("x",), (1.0,)),
    Scan("dev", 5000.0, ("x",), (1.0,)),
    Scan("dev", 1.0, ("x",), ("wet",)),
    Scan("dev", 1.0, ("x",), (10**400,)),
    Scan("dev", 1.0, ("x",), ((1.0, 2.0),)),
    Scan("dev", None, ("x",), (1.0,)),
    Scan("dev", 1.0, None, (1.0,)),
    Scan(["dev"], 1.0, ("x",), (1.0,)),
])
def test_a_poisonous_scan_is_an_event_and_harms_only_itself(scan):
    b = box().say(0.5, 70)
    b.take(b.pipeline.scan(scan, 1.0))
    assert (b.pipeline.poisoned, b.events[-1].kind, b.lanes[-1]) == (1, "box.poison", "event")
    b.take(b.pipeline.scan(scan, 2.0))
    assert (b.pipeline.poisoned, b.kinds("box.")) == (2, ["box.poison"])
    b.say(3, 71)
    assert (b.siren, len(b.samples)) == ("red", 2)


def test_poison_is_told_again_after_an_hour():
    b = box()
    for t in (0.0, 3599.0, 3600.0):
        b.take(b.pipeline.scan(Scan("nobody", t, ("x",), (1.0,)), t))
    assert b.kinds("box.") == ["box.poison"] * 2


def test_an_unknown_remark_is_poison_and_the_reading_still_counts():
    b = box().say(1, 70, notes=["bewitched"])
    assert (b.pipeline.poisoned, b.siren, b.kinds("box.")) == (1, "red", ["box.poison"])


def test_points_nobody_configured_are_counted():
    b = box().say(1, 5, 6, 7)
    assert (b.pipeline.strangers, len(b.samples), b.pipeline.poisoned) == (2, 1, 0)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=4), st.floats(), st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=2)), max_size=4),
       st.lists(st.sampled_from([*Note, "", "?"]), max_size=4))
def test_no_scan_raises(device, at_s, values, notes):
    b = box()
    for name in (device, "dev"):
        b.take(b.pipeline.scan(Scan(name, at_s, ("x", "y", "z")[:len(values)], tuple(values), tuple(notes)), 1.0))
    b.say(2, 70)
    assert b.siren == "red"


# --- buttons


def press(b, t, *states):
    for k, state in enumerate(states):
        b.say(t + k, state, device="pad", points=("state",))


def test_a_press_is_what_the_configuration_says():
    b = box(buttons=(BUTTON,)).say(1, 70)
    press(b, 2, 0.0, 1.0, 1.0, 0.0)
    assert b.kinds("alarm.") == ["alarm.raised", "alarm.acknowledged", "alarm.silenced"]
    assert (b.events[-1].who, b.events[-1].t_ms, b.siren, b.object().acknowledged) == ("责任人", 3000, "none", True)


def test_a_button_held_since_the_start_or_over_a_gap_is_no_press():
    b = box(buttons=(BUTTON,)).say(1, 70)
    press(b, 2, 1.0, 1.0)
    b.fail(5, "no_answer", "pad", ("state",))
    press(b, 6, 1.0)
    assert b.kinds("alarm.") == ["alarm.raised"]
    press(b, 8, 0.0)
    b.fail(9, "no_answer", "pad", ("state",))
    press(b, 10, 1.0)
    assert "alarm.silenced" in b.kinds()


# --- wires


def test_a_wire_that_goes_takes_its_points_at_once_and_is_told_once():
    b = box().say(1, 5)
    for t in (2.0, 3.0):
        b.take(b.pipeline.link("bus", False, "拔出", t))
    assert (b.kinds(), b.colour) == (["wire.down", "point.lost"], "unknown")
    assert b.samples[-1][:4] == (2000, 0, 9, 6)
    b.take(b.pipeline.link("bus", True, "", 4.0)).say(5, 5)
    assert b.kinds() == ["wire.down", "point.lost", "wire.up", "point.returned"]


def test_a_wire_that_goes_in_an_alarm_clears_nothing():
    b = box(rule(**LEVELS_3)).say(1, 45)
    b.take(b.pipeline.link("bus", False, "", 2.0)).tick(5000)
    assert (b.siren, b.kinds("alarm.")) == ("orange", ["alarm.raised", "alarm.input_lost"])


# --- commands


def test_commands_for_nobody_or_an_older_alarm_are_refused_with_a_reason():
    b = box()
    for reply in (b.ask_for("silence", 1, "nowhere"), b.ask_for("acknowledge", 1), b.ask_for("service", 1)):
        assert not reply.ok
        assert reply.text_zh != reply.text_en
    b.say(2, 70)
    assert not b.ask_for("silence", 3, alarm="old").ok
    assert b.ask_for("silence", 3, alarm=b.object().alarm).ok


# --- scores


def score(z, t=1.0):
    return Scores(np.array([0]), np.array([t]), np.array([9.0]), np.array([5.0]), np.array([z]))


def test_a_score_is_told_once_and_moves_no_output():
    b = box().say(1, 5)
    before = b.demand
    for t in (2.0, 3.0):
        b.take(b.pipeline.scores(score(1e9, t), t))
    e = b.events[-1]
    assert (b.kinds(), b.lanes, b.demand, b.last.demand) == (["anomaly"], ["event"], before, None)
    assert e.why == {"value": 9.0, "expected": 5.0, "score": 1e9, "unit": "mm", "hint_zh": "疑似异常",
                     "hint_en": "possibly unusual"}
    assert "疑似异常" in e.text_zh


def test_the_detector_reads_what_the_pipeline_feeds():
    b, d = box(points=PATIENT), Anomaly(np.array([0.1]), np.array([False]))
    rng = np.random.default_rng(3)
    for t in range(80):
        b.say(t, float(5 + rng.normal(0, 0.1)) if t != 70 else 15.0)
        b.take(b.pipeline.scores(d.score(*b.last.feed), float(t)))
    assert [(e.kind, e.t_ms) for e in b.events] == [("anomaly", 70000)]


def test_maintenance_hears_no_anomaly():
    b = box()
    b.ask_for("service", 1, service="maintenance")
    b.take(b.pipeline.scores(score(99.0, 2.0), 2.0))
    assert "anomaly" not in b.kinds()


def test_a_flat_line_is_counted_from_the_end_of_maintenance():
    b = box(points=(point("crack", "dev.x", flat_s=20.0, stale_s=1e5),)).say(0, 5)
    b.ask_for("service", 1, service="maintenance", for_s=100.0)
    b.say(50, 5).say(102, 5).say(121.9, 5).say(122, 5)
    assert [s[2] for s in b.samples] == [1, 1, 1, 1, 3]


# --- restart


def again(b, now_s, outage_s, *, same_boot=False, config=None):
    new = Box(config or b.config, b.infos, now_s=now_s, prefix="b")
    return new.take(new.pipeline.restore(b.latch, now_s, outage_s, same_boot=same_boot))


def test_the_siren_goes_on_at_once_after_a_short_outage_before_any_reading():
    b = box().say(100, 70)
    for new in (again(b, 110, 9.0, same_boot=True), again(b, 3.0, RESUME_S)):
        assert (new.siren, new.sounds().alarm, new.held) == ("red", b.object().alarm, "red")
        assert new.sounds().since_ms in (110000, 3000)
        assert new.last.latch is not None


@pytest.mark.parametrize("outage_s", [None, RESUME_S + 1])
def test_after_a_long_or_unknown_outage_the_strobe_at_once_and_the_siren_with_the_first_reading(outage_s):
    new = again(box().say(100, 70), 3.0, outage_s)
    assert (new.siren, new.sounds("strobe").colour.value) == ("none", "red")
    new.fail(4)
    assert new.siren == "none"
    newer = again(new, 5.0, 1.0)                       # a second, short cut does not make it speak
    assert newer.siren == "none"
    new.say(5, 65)
    assert new.siren == "red"
    new = again(box().say(100, 70), 3.0, outage_s).say(4, 5)
    assert (new.siren, new.held) == ("red", "red")     # latched: a person clears it


def test_an_unlatched_colour_stands_after_the_cut_until_a_reading_clears_it():
    new = again(box(rule(**LEVELS_3)).say(100, 45), 3.0, None).tick(5000)
    assert (new.held, new.siren) == ("orange", "none")
    new.say(5001, 5)
    assert (new.held, new.siren) == ("none", "none")


def test_no_step_is_told_twice_and_ids_go_on():
    b = box().say(100, 70).fail(101).fail(102)
    new = again(b, 110, 8.0, same_boot=True).say(111, 70).say(112, 71)
    assert new.kinds() == ["point.returned"]


def test_silence_acknowledgement_and_answers_survive():
    b = Box(site(slope(LATCHED, authority=msgspec.structs.replace(EVERYTHING, red="confirm"), points=PATIENT)))
    b.say(100, 70)
    b.ask_for("confirm", 101)
    b.ask_for("acknowledge", 102)
    b.ask_for("silence", 103)
    new = again(b, 203, 50.0, same_boot=True)
    assert (new.siren, new.sounds().silenced_until_ms, new.object().acknowledged) == ("none", 703000, True)
    new.tick(703)
    assert new.siren == "red"
    rebooted = again(b, 10.0, 100.0)                   # 600 s less 100 s of outage
    assert rebooted.sounds().silenced_until_ms == 510000
    assert rebooted.object().since_ms == -93000


def test_an_alarm_keeps_its_age_where_that_is_known_and_begins_now_where_not():
    b = box().say(100, 70)
    found = [again(b, now, outage, same_boot=same).object().since_ms
             for now, outage, same in ((110, 5.0, True), (7.0, 50.0, False), (7.0, None, False))]
    assert found == [100000, -43000, 7000]


def test_maintenance_ends_also_when_the_box_was_off_meanwhile():
    b = box(points=PATIENT)
    b.ask_for("service", 100, service="maintenance", for_s=1000.0)
    on = again(b, 600, 10.0, same_boot=True)
    assert on.object().service == "maintenance"
    assert on.tick(1100).object().service == "in_service"
    assert again(b, 5.0, 2000.0).object().service == "in_service"
    unknown = again(b, 5.0, None)
    assert (unknown.object().service, unknown.tick(1005).object().service) == ("maintenance", "in_service")


def test_the_latch_is_renewed_while_maintenance_runs():
    b = box(points=PATIENT)
    b.ask_for("service", 100, service="maintenance", for_s=5000.0)
    b.latch = None
    assert b.tick(159).latch is None
    assert b.tick(160).latch is not None
    assert again(b, 5.0, 0.0).tick(4944.9).object().service == "maintenance"
    assert again(b, 5.0, 0.0).tick(4945.0).object().service == "in_service"


def test_a_latch_ages_from_its_own_moment_not_from_the_last_sign_of_life():
    b = box(rule(orange=40, latch=("orange",)), points=PATIENT).say(100, 45)
    b.ask_for("silence", 103)                          # written at 103; alive until 603, then a cut of 60 s
    new = Box(b.config, b.infos, now_s=5.0, prefix="b")
    new.take(new.pipeline.restore(b.latch, 5.0, 60.0, same_boot=False, age_s=560.0))
    assert new.sounds().silenced_until_ms == 45000     # 600 s less 560 s
    assert new.object().since_ms == -558000


def test_a_box_that_restarts_again_and_again_neither_stays_silent_nor_stays_in_maintenance():
    asking = msgspec.structs.replace(EVERYTHING, orange="confirm", confirm_s=600.0)
    silenced = box(points=PATIENT).say(100, 70)
    silenced.ask_for("silence", 100)
    asked = Box(site(slope(rule(**LEVELS_3), authority=asking, points=PATIENT))).say(100, 45)
    served = box(points=PATIENT)
    served.ask_for("service", 100, service="maintenance", for_s=600.0)
    t = 100.0
    for b, over in ((silenced, lambda x: x.siren == "red"), (asked, lambda x: not x.pipeline._watches[0].alarm.waiting
                    and x.siren == "orange"), (served, lambda x: x.object().service == "in_service")):
        lives = 0
        while not over(b):
            for s in range(1, 91):
                b.tick(t + s)
            b = again(b, 1000.0, 5.0)                  # every 90 s of work end in a power cut of 5 s
            t = 1000.0
            lives += 1
            assert lives < 15


def test_a_waiting_siren_begins_its_burst_with_the_reading_that_frees_it():
    new = again(box(points=PATIENT).say(100, 70), 3.0, None)
    new.say(400, 70)
    assert (new.siren, new.sounds().since_ms) == ("red", 400000)


def test_an_officer_who_says_sound_is_heard_although_the_sensor_is_gone_since_the_cut():
    asking = msgspec.structs.replace(EVERYTHING, orange="none", red="confirm", yellow="none")
    b = Box(site(slope(LATCHED, authority=asking, points=PATIENT))).say(100, 70)
    new = again(b, 3.0, None)
    assert new.siren == "none"
    assert new.ask_for("confirm", 10).ok
    assert new.siren == "red"


@pytest.mark.parametrize(("key", "value"), [("level", 7), ("level", 0), ("latched", -1), ("since_s", float("nan")),
                                            ("silenced_until_s", float("inf"))])
def test_a_latch_with_impossible_content_does_not_keep_the_box_from_starting(key, value):
    b = box().say(100, 70)
    raw = msgspec.msgpack.decode(b.latch)
    raw["watches"][0]["alarm"][key] = value
    new = box()
    new.take(new.pipeline.restore(msgspec.msgpack.encode(raw), 1.0, None, same_boot=False))
    assert (new.kinds(), new.say(2, 70).siren) == (["box.poison"], "red")


@pytest.mark.parametrize("for_s", [float("nan"), float("inf"), -5.0, 0.0])
@pytest.mark.parametrize(("kind", "more"), [("silence", {}), ("service", {"service": "maintenance"})])
def test_a_time_that_is_none_is_refused_and_changes_nothing(kind, more, for_s):
    b = box().say(100, 70)
    assert not b.ask_for(kind, 101, for_s=for_s, **more).ok
    assert (b.siren, b.object().service) == ("red", "in_service")


def test_a_test_alarm_never_comes_back_as_a_real_one():
    b = box(service="trial").say(100, 70)
    armed = again(b, 110, 1.0, config=site(slope(LATCHED)))
    assert (armed.siren, armed.held, armed.kinds("alarm.")) == ("none", "none", ["alarm.cleared"])
    assert armed.events[-1].status == "Test"


def test_a_rule_that_is_gone_takes_its_vote_with_it_and_says_so():
    b = box(rule(yellow=20)).say(100, 25)
    new = again(b, 110, 1.0, config=site(slope(rule("other", red=99))))
    assert (new.held, new.kinds()) == ("none", ["alarm.cleared"])


@pytest.mark.parametrize("blob", [b"", b"\xff", b"nonsense", msgspec.msgpack.encode({"version": 1})])
def test_a_damaged_latch_is_an_event_and_the_box_starts(blob):
    b = box()
    b.take(b.pipeline.restore(blob, 1.0, None, same_boot=False))
    assert (b.kinds(), b.say(2, 70).siren) == (["box.poison"], "red")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 100), st.just("no_answer")), min_size=1, max_size=15), st.integers(0, 14))
def test_a_restart_between_two_readings_changes_no_colour(stream, cut):
    """Votes, alarms and demands are those of a box that never stopped (delays on their way excepted: none here)."""
    whole, cut_box = box(), box()
    for t, what in enumerate(stream):
        for b in (whole, cut_box):
            b.fail(t, what) if isinstance(what, str) else b.say(t, what)
        if t == cut and cut_box.latch is not None:
            cut_box = again(cut_box, t + 0.5, 0.5, same_boot=True)
        assert (cut_box.held, cut_box.siren) == (whole.held, whole.siren)


# --- memory


def test_state_does_not_grow_with_the_stream():
    b = box(points=(point("crack", "dev.x", every_s=5.0, rate_per_s=2.0, flat_s=3.0),))
    rng = np.random.default_rng(11)
    sizes = []
    for k in range(1500):
        roll = rng.random()
        b.pipeline.scan(Scan("dev", float(k), ("x",), (None,) if roll < 0.2 else (float(rng.uniform(0, 110)),),
                             ("no_answer",) if roll < 0.2 else ()), float(k))
        b.pipeline.scan(Scan(f"ghost{k}", float(k), (f"p{k}",), (1.0,)), float(k))
        if k in (499, 1499):
            p = b.pipeline
            sizes.append((len(p._benches._kept), len(p._poison._told), len(p._tray.events), len(p._tray.samples),
                          len(p._limits._pending) <= 3))
    assert sizes[0] == sizes[1]
