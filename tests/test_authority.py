import itertools

import msgspec
import pytest

from gateway.config import Authority
from gateway.model import Colour
from tests.judgement_site import EVERYTHING, Box, point, rule, site, slope

LEVELS_3 = {"yellow": 20, "orange": 40, "red": 60}
VALUES = {"yellow": 25.0, "orange": 45.0, "red": 65.0}


def allow(**deeds):
    nothing = {"blue": "none", "yellow": "none", "orange": "none", "red": "none"}
    return Authority(approved_by="县应急局", approved_on="2026-05-01", **nothing | deeds)


def box(authority, **more):
    patient = (point("crack", "dev.x", stale_s=1e5),)
    return Box(site(slope(rule(**LEVELS_3), authority=authority, points=patient, **more)))


TRUTH = [
    # authority, colour of the alarm → siren, strobe, asked
    (allow(red="automatic"), "red", "red", "red", []),
    (allow(red="automatic"), "orange", "none", "none", []),
    (allow(orange="confirm", red="automatic"), "orange", "none", "orange", ["orange"]),
    (allow(orange="confirm", red="automatic"), "red", "red", "red", []),
    (allow(orange="automatic", red="confirm"), "red", "orange", "red", ["red"]),
    (allow(orange="automatic", red="none"), "red", "orange", "orange", []),
    (allow(orange="confirm", red="confirm"), "red", "none", "red", ["red"]),
    (allow(), "red", "none", "none", []),
    (EVERYTHING, "yellow", "yellow", "yellow", []),
    (None, "red", "none", "none", []),
]


@pytest.mark.parametrize(("authority", "colour", "siren", "strobe", "asked"), TRUTH)
def test_truth_table_of_authority(authority, colour, siren, strobe, asked):
    b = box(authority).say(1, VALUES[colour])
    assert (b.siren, b.sounds("strobe").colour.value) == (siren, strobe)
    assert [e.colour.value for e in b.events if e.kind == "alarm.confirm_asked"] == asked
    assert b.held == colour


@pytest.mark.parametrize("deeds", [dict(zip(("yellow", "orange", "red"), d, strict=True))
                                   for d in itertools.product(("automatic", "confirm", "none"), repeat=3)])
def test_a_worse_alarm_never_demands_less(deeds):
    order = ["none", "yellow", "orange", "red"]
    b = box(allow(**deeds))
    ranks = []
    for t, value in enumerate((25.0, 45.0, 65.0)):
        b.say(t, value)
        ranks.append((order.index(b.siren), order.index(b.sounds("strobe").colour.value)))
    assert ranks == sorted(ranks)
    assert [s for s, _ in ranks] == sorted(s for s, _ in ranks)


ASKING = allow(orange="confirm", red="automatic", confirm_s=120.0)


def test_confirmed_sounds_and_refused_holds():
    b = box(ASKING).say(1, 45)
    assert b.ask_for("confirm", 5, who="王五").ok
    assert (b.siren, b.events[-1].kind, b.events[-1].who) == ("orange", "alarm.confirmed", "王五")
    b = box(ASKING).say(1, 45)
    assert b.ask_for("refuse", 5).ok
    b.tick(500)
    assert (b.siren, b.sounds("strobe").colour.value) == ("none", "orange")
    assert b.kinds("alarm.") == ["alarm.raised", "alarm.confirm_asked", "alarm.refused"]
    assert b.ask_for("confirm", 501).ok
    assert b.siren == "orange"


@pytest.mark.parametrize(("unanswered", "siren", "kind"), [("sound", "orange", "alarm.confirmed"),
                                                           ("hold", "none", "alarm.refused")])
def test_no_answer_does_as_written_at_its_exact_moment(unanswered, siren, kind):
    b = box(msgspec.structs.replace(ASKING, unanswered=unanswered)).say(1, 45).tick(120.999)
    assert (b.siren, b.events[-1].kind) == ("none", "alarm.confirm_asked")
    assert b.pipeline.next_due_s <= 121
    b.tick(121)
    assert (b.siren, b.events[-1].kind, b.events[-1].why) == (siren, kind, {"unanswered": True})


def test_acknowledging_is_no_answer():
    b = box(ASKING).say(1, 45)
    b.ask_for("acknowledge", 2)
    assert b.siren == "none"
    b.tick(121)
    assert b.siren == "orange"


def test_an_older_question_running_out_does_not_answer_a_younger_one():
    b = box(allow(orange="confirm", red="confirm", confirm_s=100.0, unanswered="sound")).say(0, 45).say(60, 65)
    b.tick(100)
    assert b.siren == "orange"
    b.tick(160)
    assert b.siren == "red"


def test_an_answer_falls_with_its_colour():
    b = box(ASKING).say(1, 45)
    b.ask_for("confirm", 2)
    b.say(3, 25).say(4, 45)
    assert (b.siren, b.kinds("alarm.confirm_asked")) == ("none", ["alarm.confirm_asked"] * 2)


def test_nothing_asked_nothing_answered():
    b = box(EVERYTHING).say(1, 45)
    assert (b.ask_for("confirm", 2).ok, b.ask_for("confirm", 2, alarm="x").ok) == (False, False)


def test_silence_stops_the_siren_alone_and_ends_by_itself():
    b = box(EVERYTHING).say(1, 45)
    assert b.ask_for("silence", 10).ok
    assert (b.siren, b.sounds().silenced_until_ms, b.sounds("strobe").silenced_until_ms) == ("none", 610000, 0)
    assert b.sounds("strobe").colour == Colour.ORANGE
    b.tick(609.999)
    assert b.siren == "none"
    b.tick(610)
    assert (b.siren, b.events[-1].kind, b.held) == ("orange", "alarm.silence_ended", "orange")


def test_silence_is_broken_by_a_higher_colour_not_by_coming_back_to_the_same():
    b = box(EVERYTHING).say(1, 45)
    b.ask_for("silence", 2)
    b.say(3, 25).say(4, 45)
    assert b.siren == "none"
    b.say(5, 65)
    assert (b.siren, b.events[-1].kind) == ("red", "alarm.silence_ended")


def test_silence_ends_with_its_alarm():
    b = box(EVERYTHING).say(1, 45)
    b.ask_for("silence", 2)
    b.say(3, 5).say(4, 45)
    assert b.siren == "orange"


def test_silence_lasts_as_asked_and_at_most_an_hour():
    b = box(EVERYTHING).say(1, 45)
    b.ask_for("silence", 1, for_s=29.0)
    assert b.sounds().silenced_until_ms == 30000
    b.ask_for("silence", 2, for_s=86400.0)
    assert b.sounds().silenced_until_ms == 3602000


def test_since_is_kept_so_that_bursts_count_right():
    b = box(EVERYTHING).say(1, 45)
    assert b.sounds().since_ms == 1000
    b.say(2, 46)
    b.ask_for("acknowledge", 3)
    b.say(4, 25)
    assert (b.siren, b.sounds().since_ms) == ("yellow", 1000)
    b.say(5, 65)
    assert (b.siren, b.sounds().since_ms) == ("red", 5000)


def shared():
    return Box(site(slope(rule(**LEVELS_3)),
                    slope(rule(**LEVELS_3), id_="gas", points=(point("crack", "other.x"),))))


def test_a_shared_siren_follows_the_worst_claim_that_is_not_silenced():
    b = shared().say(1, 45).say(2, 65, device="other")
    assert (b.siren, b.sounds().alarm) == ("red", b.object(1).alarm)
    b.ask_for("silence", 3, "gas")
    assert (b.siren, b.sounds().alarm) == ("orange", b.object(0).alarm)
    b.ask_for("silence", 4, "slope")
    assert (b.sounds().colour.value, b.siren) == ("red", "none")


def test_a_new_alarm_on_a_shared_siren_is_heard_at_once_not_in_the_next_burst_of_the_old_one():
    b = shared().say(1, 65).say(201, 65, device="other")
    assert (b.sounds().alarm, b.sounds().since_ms) == (b.object(1).alarm, 201000)


def test_a_siren_heard_again_begins_its_burst_anew():
    b = box(allow(orange="automatic", red="confirm")).say(1, 45)
    b.ask_for("silence", 2)
    b.say(300, 65)                                     # a higher colour; it waits for an answer and sounds as orange
    assert (b.siren, b.sounds().since_ms) == ("orange", 300000)
    b.ask_for("silence", 310, for_s=30.0)
    b.tick(340)
    assert (b.siren, b.sounds().since_ms) == ("orange", 340000)


def test_faults_move_no_siren_and_no_strobe():
    b = box(EVERYTHING).say(1, 5).fail(2, "quarantined")
    b.take(b.pipeline.link("bus", False, "", 3.0)).tick(500)
    assert [(d.output, d.colour.value) for d in b.demand] == [("siren", "none"), ("strobe", "none")]


@pytest.mark.parametrize("service", ["commissioning", "trial", "maintenance", "retired"])
def test_outside_service_everything_is_a_test_and_nothing_sounds(service):
    b = box(EVERYTHING, service=service).say(1, 65)
    assert (b.colour, b.held, b.object().status) == ("red", "red", "Test")
    assert {d.colour.value for d in b.demand} == {"none"}
    assert {e.status for e in b.events} == {"Test"}
    assert [s[4] for s in b.samples] == [2]


def test_test_gas_in_maintenance_is_judged_as_test_and_expiry_arms_again():
    b = box(EVERYTHING).say(1, 5)
    assert b.ask_for("service", 10, service="maintenance", for_s=100.0).ok
    b.say(20, 65)
    assert (b.held, b.siren, b.object().status) == ("red", "none", "Test")
    assert [e.status for e in b.events if e.kind == "alarm.raised"] == ["Test"]
    b.tick(109.999)
    assert b.object().service == "maintenance"
    b.tick(110)
    assert (b.object().service, b.held, b.siren) == ("in_service", "none", "none")
    assert [(e.kind, e.t_ms, e.who) for e in b.events if e.kind == "object.service"] == [
        ("object.service", 10000, "张三"), ("object.service", 110000, "")]
    b.say(111, 65)
    assert (b.siren, b.events[-1].status) == ("red", "Actual")


def test_a_reading_after_the_end_of_maintenance_is_judged_in_service_without_a_tick():
    b = box(EVERYTHING)
    b.ask_for("service", 0, service="maintenance", for_s=10.0)
    b.say(5, 65).say(10.5, 65)
    assert (b.siren, [s[4] for s in b.samples]) == ("red", [2, 0])


def test_maintenance_lasts_two_hours_by_default_and_returns_to_what_was():
    b = box(EVERYTHING, service="trial")
    b.ask_for("service", 0, service="maintenance")
    b.ask_for("service", 100, service="maintenance")
    b.tick(7299)
    assert b.object().service == "maintenance"
    b.tick(7300)
    assert b.object().service == "trial"


def test_entering_maintenance_ends_a_real_alarm_by_name():
    b = box(EVERYTHING).say(1, 65)
    b.ask_for("service", 2, service="maintenance", who="赵六")
    cleared = next(e for e in b.events if e.kind == "alarm.cleared")
    assert (cleared.who, cleared.status, b.siren) == ("赵六", "Actual", "none")


def test_nobody_puts_an_object_without_authority_in_service():
    b = box(None, service="trial")
    assert not b.ask_for("service", 1, service="in_service").ok
    assert not b.ask_for("service", 1).ok
    assert b.object().service == "trial"


def test_maintenance_readings_reach_no_detector():
    b = box(EVERYTHING).say(1, 5)
    b.ask_for("service", 2, service="maintenance", for_s=10.0)
    b.say(3, 65).say(13, 6)
    assert b.fed == [(0, 1, 5.0), (0, 13, 6.0)]
