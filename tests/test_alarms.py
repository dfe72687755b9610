import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import PointInfo
from gateway.judgement.limits import CONFIRM_S
from gateway.model import LEVELS, Colour
from tests.judgement_site import INFO, Box, point, rule, site, slope

LEVELS_3 = {"yellow": 20, "orange": 40, "red": 60}


def box(*rules, infos=None, **more):
    return Box(site(slope(*rules, **more)), infos)


def walk(b, story):
    """Each step: (time, value | note | None for a tick) → the colour the rules say afterwards."""
    said = []
    for t, what in story:
        if what is None:
            b.tick(t)
        elif isinstance(what, str):
            b.fail(t, what)
        else:
            b.say(t, what)
        said.append(b.colour)
    return said


TRUTH = [
    # name, rule, story of (time, value) → colours
    ("reaching the limit counts", rule(**LEVELS_3), [(1, 19.9), (2, 20), (3, 40), (4, 60), (5, 99)],
     ["none", "yellow", "orange", "red", "red"]),
    ("a limit in decimals is reached by a scaled reading", rule(yellow=0.3), [(1, 0.1 * 3 - 1e-16)], ["yellow"]),
    ("at once through all colours", rule(**LEVELS_3), [(1, 70)], ["red"]),
    ("below", rule(below={"yellow": 20, "red": 10}), [(1, 30), (2, 20), (3, 10), (4, 15), (5, 20.1)],
     ["none", "yellow", "red", "yellow", "none"]),
    ("hysteresis holds inside the band", rule(yellow=20, hysteresis=2), [(1, 20), (2, 18.01), (3, 18), (4, 17.99)],
     ["yellow", "yellow", "yellow", "none"]),
    ("hysteresis of below", rule(below={"yellow": 20}, hysteresis=2), [(1, 20), (2, 22), (3, 22.01)],
     ["yellow", "yellow", "none"]),
    ("each colour has its own band", rule(**LEVELS_3, hysteresis=2), [(1, 60), (2, 58), (3, 57), (4, 38), (5, 37)],
     ["red", "red", "orange", "orange", "yellow"]),
    ("on-delay ends by a reading", rule(yellow=20, on_delay_s=2), [(1, 20), (2.9, 20), (3, 20)],
     ["none", "none", "yellow"]),
    ("on-delay ends by the clock at its exact moment", rule(yellow=20, on_delay_s=2),
     [(1, 20), (2.999, None), (3.0, None)], ["none", "none", "yellow"]),
    ("on-delay starts anew after a reading below", rule(yellow=20, on_delay_s=2),
     [(1, 20), (2, 19), (2.5, 20), (3, None), (4.4, None), (4.5, None)], ["none"] * 5 + ["yellow"]),
    ("on-delay goes on when the sensor dies", rule(yellow=20, on_delay_s=2),
     [(0.5, 1), (1, 20), (2, "bad_crc"), (3, None)], ["none", "none", "none", "yellow"]),
    ("off-delay", rule(yellow=20, off_delay_s=5), [(1, 20), (2, 19), (6.9, 19), (7, 19)],
     ["yellow", "yellow", "yellow", "none"]),
    ("off-delay starts anew after a reading above", rule(yellow=20, off_delay_s=5),
     [(1, 20), (2, 19), (6, 20), (7, 19), (11, 19), (12, 19)], ["yellow"] * 5 + ["none"]),
    ("off-delay starts anew inside the band", rule(yellow=20, off_delay_s=5, hysteresis=2),
     [(1, 20), (2, 17), (6, 19), (7, 17), (11, 17), (12, 17)], ["yellow"] * 5 + ["none"]),
    ("silence clears nothing, a reading does", rule(yellow=20, off_delay_s=5),
     [(1, 20), (2, 19), (9, None), (900, None), (901, 19)], ["yellow"] * 4 + ["none"]),
    ("failed readings hold and never clear", rule(yellow=20, off_delay_s=0),
     [(1, 20), (2, "no_answer"), (3, "no_answer"), (4, "sensor_fault"), (5, "quarantined"), (6, 19)],
     ["yellow"] * 5 + ["none"]),
    ("a reading out of range fails and holds", rule(yellow=20), [(1, 20), (2, -5), (3, -5)], ["yellow"] * 3),
]


@pytest.mark.parametrize(("one", "story", "colours"), [t[1:] for t in TRUTH], ids=[t[0] for t in TRUTH])
def test_truth_table_of_rules(one, story, colours):
    b = box(one)
    assert walk(b, story) == colours
    assert b.pipeline.poisoned == 0


DOUBT = point("crack", "dev.x", rate_per_s=5.0)


@pytest.mark.parametrize(("story", "colours", "asked"), [
    # a real collapse: the next reading says so too
    ([(0, 5), (1, 70), (1.1, 71)], ["none", "none", "red"], 1),
    ([(0, 5), (1, 70), (1.1, 90)], ["none", "none", "red"], 1),
    # a spike: the next reading says otherwise
    ([(0, 5), (1, 70), (1.1, 5), (60, None)], ["none"] * 3 + ["unknown"], 1),
    # the sensor was torn off: the confirming read fails
    ([(0, 5), (1, 70), (1.1, "no_answer")], ["none", "none", "red"], 1),
    ([(0, 5), (1, 70), (1.1, "sensor_fault")], ["none", "none", "red"], 1),
    # the confirming read never comes
    ([(0, 5), (1, 70), (1 + CONFIRM_S - 0.001, None), (1 + CONFIRM_S, None)], ["none"] * 3 + ["red"], 1),
])
def test_a_suspect_crossing_asks_at_once_and_then_counts(story, colours, asked):
    b = box(rule(**LEVELS_3), points=(DOUBT,))
    assert walk(b, story) == colours
    reads = [a for a in b.ask if a.deadline_s == 1 + CONFIRM_S]
    assert [(a.kind, a.device, a.points) for a in reads] == [("read_now", "dev", ("x",))] * asked


def test_a_suspect_fall_clears_only_when_the_next_reading_agrees():
    story = [(0, 50), (20, 70), (20.5, 72), (21, 5), (22, "no_answer"), (30, None), (31, 5)]
    b = box(rule(red=60), points=(DOUBT,))
    assert walk(b, story) == ["none", "red", "red", "red", "red", "red", "none"]


def test_saturation_on_the_dangerous_side_counts_at_once_also_without_a_number():
    for value, note in ((None, "over_range"), (120.0, "")):
        b = box(rule(red=60)).say(0, 5.0).say(1, value, notes=[note])
        assert (b.colour, len(b.ask)) == ("red", 1)
        assert b.object().why[0].value == (None if value is None else 120.0)
        assert "超上量程" in b.events[-1].text_zh or value


def test_saturation_on_the_safe_side_is_no_crossing():
    infos = {"dev.x": PointInfo(unit="mm", resolution=0.1, low=10.0, high=100.0, beyond_low="saturated",
                                beyond_high="saturated")}
    b = box(rule(red=60), infos=infos).say(1, 5.0)
    assert b.colour == "none"
    b = box(rule(below={"red": 12}), infos=infos).say(1, None, notes=["under_range"])
    assert b.colour == "red"


def test_latched_red_stands_until_a_person_clears_it():
    b = box(rule(**LEVELS_3, latch=("red",))).say(1, 70).say(2, 5)
    assert (b.colour, b.held) == ("none", "red")
    assert b.ask_for("clear", 3, who="李四").ok
    assert (b.held, b.kinds("alarm.")) == ("none", ["alarm.raised", "alarm.cleared"])
    assert b.events[-1].who == "李四"


def test_clearing_is_refused_while_the_cause_stands_also_when_the_sensor_is_dead():
    b = box(rule(**LEVELS_3, latch=("red",))).say(1, 70)
    assert not b.ask_for("clear", 2).ok
    b.fail(3).fail(4)
    refused = b.ask_for("clear", 5)
    assert (refused.ok, b.held) == (False, "red")
    assert "检修" in refused.text_zh


def test_clearing_falls_back_to_what_still_is_the_case():
    b = box(rule(**LEVELS_3, latch=("red",))).say(1, 70).say(2, 45)
    assert (b.colour, b.held) == ("orange", "red")
    assert b.ask_for("clear", 3).ok
    assert (b.held, b.events[-1].kind) == ("orange", "alarm.lowered_to")


def test_orange_and_below_clear_by_themselves():
    b = box(rule(**LEVELS_3, latch=("red",))).say(1, 45).say(2, 5)
    assert (b.held, b.kinds("alarm.")) == ("none", ["alarm.raised", "alarm.cleared"])


def test_one_alarm_keeps_its_id_through_its_life_and_each_step_has_its_own():
    b = box(rule(**LEVELS_3))
    for t, v in enumerate((25, 45, 70, 45, 25, 5, 25)):
        b.say(t, v)
    steps = [e for e in b.events if e.kind.startswith("alarm.")]
    assert [(e.kind, e.colour.value, e.was.value) for e in steps] == [
        ("alarm.raised", "yellow", "none"), ("alarm.raised_to", "orange", "yellow"),
        ("alarm.raised_to", "red", "orange"), ("alarm.lowered_to", "orange", "red"),
        ("alarm.lowered_to", "yellow", "orange"), ("alarm.cleared", "none", "yellow"),
        ("alarm.raised", "yellow", "none")]
    assert len({e.alarm for e in steps[:6]}) == 1
    assert steps[6].alarm != steps[0].alarm
    assert len({e.id for e in b.events}) == len(b.events)


def test_an_event_says_what_crossed_what_in_both_languages():
    b = box(rule(**LEVELS_3, id_="crack-level"),
            points=(msgspec.structs.replace(point("crack", "dev.x"), name="1号裂缝位移"),)).say(1.5, 41.2)
    e = b.events[-1]
    assert e.text_zh == "雷家山后山滑坡：1号裂缝位移 41.2 mm，超过橙色 40 mm，橙色预警"
    assert e.text_en == "雷家山后山滑坡: 1号裂缝位移 41.2 mm, above orange 40 mm: orange alarm"
    assert e.why == {"rule": "crack-level", "point": "crack", "value": 41.2, "limit": 40.0, "unit": "mm"}
    assert (e.t_ms, e.object, e.point, e.status, b.lanes[-1]) == (1500, "slope", "crack", "Actual", "alarm")


def test_an_acknowledgement_stands_until_a_higher_colour_and_ends_nothing():
    b = box(rule(**LEVELS_3)).say(1, 25)
    assert b.ask_for("acknowledge", 2, who="张三").ok
    assert (b.object().acknowledged, b.held, b.siren, b.events[-1].who) == (True, "yellow", "yellow", "张三")
    b.say(3, 45)
    assert not b.object().acknowledged
    b.ask_for("acknowledge", 4)
    b.say(5, 25)
    assert b.object().acknowledged


TWO = (point("crack", "dev.x"), point("tilt", "other.y"), point("rain", "dev.z"))


def test_unknown_never_none_when_an_input_is_lost_and_a_worse_vote_stands():
    b = box(rule(**LEVELS_3), rule("tilt", "tilt", blue=5, yellow=10), points=TWO)
    assert b.colour == "unknown"                                        # nothing has been read yet
    b.say(1, 5, 0, points=("x", "z")).say(1, 1, device="other", points=("y",))
    assert b.colour == "none"
    b.fail(2, "quarantined", "other", ("y",))
    assert (b.colour, b.object().lost) == ("unknown", ("tilt",))
    b.say(3, 25)
    assert b.colour == "yellow"
    b.say(4, 5).say(5, 6, device="other", points=("y",))
    assert b.colour == "blue"
    b.fail(6, "quarantined", "other", ("y",))
    assert b.colour == "unknown"


def test_a_point_without_rules_is_lost_without_making_the_object_unknown():
    b = box(rule(**LEVELS_3), points=TWO).say(1, 5, 0, points=("x", "z"))
    assert (b.colour, b.object().lost) == ("none", ("tilt",))


def test_lost_in_alarm_keeps_the_vote_and_says_so():
    b = box(rule(**LEVELS_3)).say(1, 45).fail(2).fail(3).fail(4)
    assert (b.colour, b.held) == ("orange", "orange")
    assert b.kinds() == ["alarm.raised", "point.lost", "alarm.input_lost"]
    assert b.lanes == ["alarm", "event", "alarm"]
    quiet = box(rule(**LEVELS_3)).say(1, 5).fail(2).fail(3)
    assert (quiet.kinds(), quiet.colour) == (["point.lost"], "unknown")
    assert quiet.say(4, 5).kinds() == ["point.lost", "point.returned"]


def test_a_point_without_rules_that_is_lost_in_an_alarm_costs_no_vote():
    b = box(rule(**LEVELS_3), points=TWO).say(1, 45, 0, points=("x", "z")).fail(2, "quarantined", points=("z",))
    assert b.kinds() == ["alarm.raised", "point.lost"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 100), st.sampled_from(["no_answer", "no_data", "quarantined", "warm_up"])),
                min_size=1, max_size=40))
def test_quality_never_clears(stream):
    """Whatever fails, a colour goes down only at a reading, and never below the worst believable one's due."""
    b = box(rule(**LEVELS_3, off_delay_s=3))
    held = 0
    for t, what in enumerate(stream):
        if isinstance(what, str):
            b.fail(t, what)
            assert LEVELS.index(Colour(b.held)) == held
            assert b.colour == LEVELS[held].value if held >= 2 else b.colour != "red"
        else:
            b.say(t, what)
            held = LEVELS.index(Colour(b.held))
    assert b.pipeline.poisoned == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_division_into_ticks_gives_the_identical_state(data):
    stream = data.draw(st.lists(
        st.tuples(st.floats(0.01, 8), st.one_of(st.floats(0, 100), st.sampled_from(["no_answer", "no_data"])),
                  st.sampled_from(["dev", "other"])), min_size=1, max_size=25))
    people = data.draw(st.lists(st.tuples(st.integers(0, 24), st.sampled_from(
        ["silence", "acknowledge", "confirm", "refuse", "clear"])), max_size=4))
    ticks = data.draw(st.lists(st.floats(0, 200), max_size=40))
    config = site(slope(
        rule(**LEVELS_3, on_delay_s=1.5, off_delay_s=4, hysteresis=3, latch=("red",)),
        rule("tilt", "tilt", orange=50, on_delay_s=0.7), points=(
            point("crack", "dev.x", rate_per_s=9.0, flat_s=20.0), point("tilt", "other.x", every_s=5.0)),
        authority=msgspec.structs.replace(slope().authority, orange="confirm", confirm_s=10.0)), silence_s=12.0)

    def run(extra):
        b, at = Box(config), 0.0
        times = sorted(set(extra))
        for k, (step, what, device) in enumerate(stream):
            before, at = at, at + step
            for t in times:
                if before <= t < at:
                    b.tick(t)
            b.fail(at, what, device) if isinstance(what, str) else b.say(at, what, device=device)
            for n, kind in people:
                if n == k:
                    b.ask_for(kind, at)
        b.tick(at + 30)
        seen = [msgspec.structs.replace(e, id="") for e in b.events]
        return b.pipeline.latch(), seen, repr(b.samples), b.demand, b.pipeline.present(0.0), b.pipeline.poisoned

    assert run(ticks) == run([])


def test_next_due_is_when_the_siren_is_due():
    b = box(rule(red=60, on_delay_s=1.5)).say(10, 70)
    assert (b.pipeline.next_due_s, b.siren) == (11.5, "none")
    b.tick(11.4999)
    assert b.siren == "none"
    b.tick(11.5)
    assert (b.siren, b.events[-1].t_ms) == ("red", 11500)


def test_a_late_tick_dates_what_was_due_at_its_own_moment():
    b = box(rule(red=60, on_delay_s=1.5)).say(10, 70).tick(14)
    assert (b.events[-1].kind, b.events[-1].t_ms) == ("alarm.raised", 11500)


def test_many_rules_vote_and_the_worst_wins():
    rules = [rule(f"r{k}", "crack", **{c: limit}) for k, (c, limit) in enumerate(
        itertools.product(("blue", "yellow"), (10, 30)))]
    b = box(*rules).say(1, 12)
    assert b.colour == "yellow"
    assert [(w.rule, w.limit) for w in b.object().why] == [("r2", 10.0), ("r0", 10.0)]
    assert INFO.unit == b.object().why[0].unit
