"""What people ask of the box: acknowledge, silence, clear, confirm, refuse, service.

Owns: what is refused and why, and which part does the rest.
Promises: a refusal changes nothing and says what to do instead; an acknowledgement stops no sound.
Never: judges a reading.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config import Output
from gateway.judgement import alarms, authority, service, words
from gateway.judgement.alarms import Watch
from gateway.judgement.limits import Limits
from gateway.judgement.outcome import Tray
from gateway.model import Command, Reply


def refusal(watch: Watch | None, command: Command, outputs: Sequence[Output]) -> str:
    """Return why the command cannot be done (a key of words.REPLIES), or "" when it can."""
    if watch is None:
        return "no_object"
    if command.for_s is not None and not 0 < command.for_s < float("inf"):
        return "bad_time"
    if command.kind == "service":
        return service.refusal(watch, command)
    alarm = watch.alarm
    if alarm is None:
        return "no_alarm"
    if command.alarm and command.alarm != alarm.id:
        return "other_alarm"
    if command.kind == "silence" and authority.silence_s(watch, outputs) is None:
        return "no_siren"
    if command.kind == "clear" and watch.vote >= alarm.level:
        return "cause_persists"
    if command.kind in {"confirm", "refuse"} and not alarm.asks:
        return "nothing_asked"
    return ""


def carry_out(watch: Watch, command: Command, t_s: float, outputs: Sequence[Output], limits: Limits,
              tray: Tray) -> None:
    """Do a command that was not refused; the caller settles the object afterwards."""
    if command.kind == "service":
        service.order(watch, command, t_s, limits, tray)
        return
    alarm = watch.alarm
    assert alarm is not None
    if command.kind == "acknowledge":
        alarms.acknowledge(watch, command.who, t_s, tray)
    elif command.kind == "silence":
        seconds = command.for_s or authority.silence_s(watch, outputs)
        assert seconds is not None
        authority.silence(watch, seconds, command.who, t_s, tray)
    elif command.kind == "clear":
        alarm.latched = 0
    else:
        authority.answer(watch, "sound" if command.kind == "confirm" else "hold", list(alarm.asks), command.who,
                         t_s, tray)


def reply(watch: Watch | None, command: Command, word: str) -> Reply:
    """Return what became of the command; `word` is its refusal or ""."""
    vote = watch.vote if watch else 0
    zh, en = words.reply(word or "done", {"object": watch.config.name if watch else command.object,
                                          "alarm": command.alarm, "colour_zh": words.COLOURS_ZH[vote],
                                          "colour_en": words.COLOURS_EN[vote]})
    return Reply(id=command.id, ok=not word, text_en=en, text_zh=zh)
