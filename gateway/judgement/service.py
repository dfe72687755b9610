"""Service states of an object: commissioning, trial, in service, maintenance, retired.

Owns: who may change them, and the way back from maintenance.
Promises: maintenance ends by itself, and that is an event; test gas never wakes the village; an object that enters
or leaves service starts with rules at rest, so nothing measured as a test sounds later, and what is still the case
is found again by the next readings, with their full delays.
Never: judges a reading.
"""

from __future__ import annotations

from gateway.judgement import alarms, words
from gateway.judgement.alarms import Watch
from gateway.judgement.limits import Limits
from gateway.judgement.outcome import Tray
from gateway.model import Command, Service

MAINTENANCE_S = 7200.0
MAINTENANCE_MAX_S = 86400.0


def refusal(watch: Watch, command: Command) -> str:
    """Return why the command cannot be done (a key of words.REPLIES), or "" when it can."""
    if command.service is None:
        return "no_service"
    if command.service == "in_service" and watch.config.authority is None:
        return "no_authority"
    return ""


def order(watch: Watch, command: Command, t_s: float, limits: Limits, tray: Tray) -> None:
    """Do what a person asked; maintenance lasts `for_s` (at most a day) and a second order prolongs it."""
    assert command.service is not None
    until_s = None
    if command.service == "maintenance":
        until_s = t_s + min(command.for_s or MAINTENANCE_S, MAINTENANCE_MAX_S)
        if watch.service != "maintenance":
            watch.back = watch.service
    change(watch, command.service, until_s, command.who, t_s, limits, tray)


def expire(watch: Watch, t_s: float, limits: Limits, tray: Tray) -> None:
    """Maintenance is over."""
    change(watch, watch.back, None, "", t_s, limits, tray)


def change(watch: Watch, service: Service, until_s: float | None, who: str, t_s: float, limits: Limits,
           tray: Tray) -> None:
    """Enter `service`; `who` is empty when the clock did it."""
    was, was_status = watch.service, watch.status
    watch.service, watch.until_s = service, until_s
    tray.latch_moved = tray.demand_moved = True
    if was == service and until_s is None:
        return
    tray.tell("object.service", t_s,
              {"object": watch.config.name, "was_service": was, "service": service,
               "was_service_zh": words.SERVICES_ZH[was], "service_zh": words.SERVICES_ZH[service],
               "who_zh": who or "到期自动恢复", "who_en": who or "its time is over"},
              object=watch.config.id, status=watch.status, who=who,
              why={"was": was, "service": service, "expired": not who,
                   **({} if until_s is None else {"for_s": round(until_s - t_s, 3)})})
    if watch.status != was_status:
        limits.put(watch.limits, on=False)
        if watch.alarm is not None:
            alarms.close(watch, t_s, tray, who, f"转为{words.SERVICES_ZH[service]}", f"service state {service}",
                         watch.alarm.level)
        watch.vote = 0
