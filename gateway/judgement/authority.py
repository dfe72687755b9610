"""Between alarms and outputs: what this box may do by itself, who was asked, and what is silenced.

Owns: the authority per object and colour, officers' answers, silences, and the demand on every output.
Promises: outside `in_service` nothing is demanded; a worse alarm never demands less than a milder one; a silence
ends by itself and is broken by a higher colour or a new alarm; strobes are not silenced; an output that serves
several objects follows the worst claim that is not silenced, of two alike the later.
Never: judges a reading, drives a pin.

Deeds: ``automatic`` demands at once · ``confirm`` lights the strobe and asks an officer; without an answer within
`confirm_s` the siren sounds or holds, as `unanswered` says · ``none`` demands nothing. The siren may always do what
is allowed for a milder colour: red that waits for an answer sounds as orange where orange is automatic.
Acknowledging stops the calling of people, not the siren and not the wait for an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config import Authority, Deed, Output
from gateway.judgement.alarms import Alarm, Ask, Watch
from gateway.judgement.outcome import Tray, colour_facts, milliseconds
from gateway.model import LEVELS, Colour, Demand

SILENCE_MAX_S = 3600.0


def _deed(authority: Authority | None, level: int) -> Deed:
    deed: Deed = "none" if authority is None else getattr(authority, LEVELS[level].value)
    return deed


def permit(watch: Watch, t_s: float, tray: Tray) -> None:
    """Work out which colour the object's siren and strobe may show now, and ask the officer where that is due."""
    alarm = watch.alarm
    if alarm is None:
        return
    authority = watch.config.authority
    armed = watch.status == "Actual"
    deeds = {level: _deed(authority if armed else None, level) for level in range(1, alarm.level + 1)}
    alarm.asks = {level: ask for level, ask in alarm.asks.items() if deeds.get(level) == "confirm"}
    automatic = max((level for level, deed in deeds.items() if deed == "automatic"), default=0)
    to_ask = max((level for level, deed in deeds.items() if deed == "confirm"), default=0)
    if authority is not None and to_ask > automatic and to_ask not in alarm.asks:
        alarm.asks[to_ask] = Ask(t_s)
        sound = authority.unanswered == "sound"
        tray.tell("alarm.confirm_asked", t_s,
                  {"object": watch.config.name, **colour_facts(to_ask), "for_s": f"{authority.confirm_s:g}",
                   "unanswered_zh": "鸣笛" if sound else "保持静默",
                   "unanswered_en": "sound without an answer" if sound else "stay silent without an answer"},
                  object=watch.config.id, alarm=alarm.id, level=to_ask, status=alarm.status,
                  why={"confirm_s": authority.confirm_s, "unanswered": authority.unanswered})
    answered = max((level for level, ask in alarm.asks.items() if ask.answer == "sound"), default=0)
    show = max((level for level, deed in deeds.items() if deed != "none"), default=0)
    _set(alarm, max(automatic, answered), show, t_s)
    if alarm.silenced_until_s is not None and alarm.level > alarm.silenced_level:
        end_silence(watch, t_s, tray)
    tray.demand_moved = True


def _set(alarm: Alarm, sound: int, show: int, t_s: float) -> None:
    """A burst counts from the moment the colour was last raised; going down does not start it anew."""
    if sound > alarm.sound:
        alarm.sound_since_s = t_s
    if show > alarm.show:
        alarm.show_since_s = t_s
    alarm.sound, alarm.show = sound, show


def due_s(watch: Watch) -> float:
    """When the clock next changes something here: a silence ends, an officer's time is over."""
    alarm = watch.alarm
    if alarm is None:
        return float("inf")
    due = float("inf") if alarm.silenced_until_s is None else alarm.silenced_until_s
    authority = watch.config.authority
    if authority is not None:
        for ask in alarm.asks.values():
            if not ask.answer:
                due = min(due, ask.at_s + authority.confirm_s)
    return due


def fire(watch: Watch, t_s: float, tray: Tray) -> None:
    """Do what the clock says is due at `t_s`."""
    alarm, authority = watch.alarm, watch.config.authority
    if alarm is None:
        return
    if alarm.silenced_until_s is not None and alarm.silenced_until_s <= t_s:
        end_silence(watch, t_s, tray)
    if authority is not None:
        late = [level for level, ask in alarm.asks.items() if not ask.answer and ask.at_s + authority.confirm_s <= t_s]
        if late:
            answer(watch, authority.unanswered, late, "", t_s, tray)


def answer(watch: Watch, choice: str, levels: Sequence[int], who: str, t_s: float, tray: Tray) -> None:
    """Take an officer's answer (`choice`: sound or hold) for the asked `levels`, or the lack of one (`who` empty)."""
    alarm = watch.alarm
    assert alarm is not None
    level = max(levels)
    for asked in levels:
        alarm.asks[asked].answer = choice
    sound = choice == "sound"
    if sound and who:
        alarm.waiting = False  # a person vouches for what the sensor has not said yet
    tray.tell("alarm.confirmed" if sound else "alarm.refused", t_s,
              {"object": watch.config.name, **colour_facts(level),
               "answer_zh": (f"{who}{'确认' if sound else '不同意'}" if who else "无人答复"),
               "answer_en": (f"{who} {'confirmed' if sound else 'refused'}" if who else "nobody answered")},
              object=watch.config.id, alarm=alarm.id, level=level, status=alarm.status, who=who,
              why={"unanswered": not who})
    tray.latch_moved = True
    permit(watch, t_s, tray)


def silence(watch: Watch, seconds: float, who: str, t_s: float, tray: Tray) -> None:
    """Stop the object's sound until `t_s + seconds` (at most an hour). There must be an alarm."""
    alarm = watch.alarm
    assert alarm is not None
    seconds = min(seconds, SILENCE_MAX_S)
    alarm.silenced_until_s = t_s + seconds
    alarm.silenced_level = alarm.level
    tray.demand_moved = tray.latch_moved = True
    tray.tell("alarm.silenced", t_s, {"object": watch.config.name, "who": who, "for_s": f"{seconds:g}"},
              object=watch.config.id, alarm=alarm.id, level=alarm.level, status=alarm.status, who=who,
              why={"for_s": seconds})


def end_silence(watch: Watch, t_s: float, tray: Tray) -> None:
    """Let the object be heard again."""
    alarm = watch.alarm
    assert alarm is not None
    alarm.silenced_until_s = None
    alarm.sound_since_s = t_s  # heard again means now, not when the next burst of the old sound is due
    tray.demand_moved = tray.latch_moved = True
    tray.tell("alarm.silence_ended", t_s, {"object": watch.config.name, **colour_facts(alarm.level)},
              object=watch.config.id, alarm=alarm.id, level=alarm.level, status=alarm.status)


def silence_s(watch: Watch, outputs: Sequence[Output]) -> float | None:
    """How long a silence lasts by default: the shortest of the object's sirens; None when it has none."""
    return min((o.silence_s for o in outputs if o.kind == "siren" and o.id in watch.config.outputs), default=None)


def demand(watches: Sequence[Watch], outputs: Sequence[Output]) -> tuple[Demand, ...]:
    """Return what every siren and strobe should be doing now, in the order of the configuration.

    Fault lamps are not among them: what they show is the health of the box, and no alarm.
    """
    return tuple(_claim(output, watches) for output in outputs if output.kind != "fault_lamp")


def _claim(output: Output, watches: Sequence[Watch]) -> Demand:
    siren = output.kind == "siren"
    best: tuple[bool, int, float] | None = None
    chosen = Demand(output=output.id, colour=Colour.NONE)
    for watch in watches:
        alarm = watch.alarm
        if alarm is None or output.id not in watch.config.outputs:
            continue
        level, since_s = (alarm.sound, alarm.sound_since_s) if siren else (alarm.show, alarm.show_since_s)
        if not level or (siren and alarm.waiting):
            continue
        until_s = alarm.silenced_until_s if siren else None
        # of two alike the later: a new alarm is heard at once, not in the next burst of an old one
        rank = (until_s is None, level, since_s)
        if best is None or rank > best:
            best = rank
            chosen = Demand(output=output.id, colour=LEVELS[level], alarm=alarm.id, since_ms=milliseconds(since_s),
                            silenced_until_ms=0 if until_s is None else milliseconds(until_s))
    return chosen
