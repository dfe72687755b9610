"""Slaves on a bus: what they hear, and what they say.

Owns: which slave a frame is for. Promises: silence for a foreign address, a broken frame and a broadcast; a logged
answer went out whole, on time and unspoilt. Never: is imported by the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from hil.bus import Bus, Reply
from hil.device import Answer, Log, Outcome, Slave
from hil.faults import DOUBTFUL, spoilt
from hil.framing import FRAMINGS, Name
from hil.waveform import Settings, settings


class RtuStation:
    """Slaves behind one transceiver of a Bus: two of one address answer both, and garble each other."""

    def __init__(self, slaves: Iterable[Slave], log: Log | None = None, name: str = "slaves",
                 framing: Name = "rtu") -> None:
        """Make a station.

        Args:
            slaves: at least one, all with the same serial settings (else give each its own station, see `attach`).
            log: gets the answers.
            name: in the bus's log, and for `Bus.cut`.
            framing: rtu or ascii.

        Raises:
            ValueError: the slaves have different settings.
        """
        self.name, self.slaves = name, list(slaves)
        self.log: Log = [] if log is None else log
        self._framing = FRAMINGS[framing]
        self.end = self._framing.end
        own = {slave.serial for slave in self.slaves}
        if len(own) > 1:
            raise ValueError(f"{name}: one transceiver has one setting, these slaves have {len(own)}; use hil.station."
                             "attach, which gives each setting its own station")
        serial = own.pop() if own else None
        self.settings: Settings | None = settings(serial) if serial else None
        self._pauses: dict[str, float] = {}

    def hear(self, frame: bytes, at_s: float) -> Iterator[Reply]:
        """Answer what is a sound request to one of ours; keep silent otherwise."""
        for slave in self.slaves:
            if (raw := slave.act(frame, at_s)) is not None:
                yield Reply(slave.turnaround_s, raw)
                return
        request = self._framing.open(frame)
        if request is None:
            return
        for slave in [s for s in self.slaves if request.unit in (0, s.address)]:
            done = slave.exchange(request.pdu, at_s, broadcast=request.unit == 0)
            if done is not None:
                out = spoilt(done.fault, self._framing.wrap(done.unit, done.pdu, 0))
                yield Reply(done.delay_s, out,
                            partial(_keep, self.log, slave.name, done, at_s) if done.told else None)

    def unasked(self, now_s: float) -> Reply | None:
        """Babble, where a slave's fault wants it; asked only while this station does not talk."""
        for n, slave in enumerate(self.slaves):
            key = f"{n}/{slave.name}"
            if slave.burst_due:
                slave.burst_due = False
            elif slave.fault != "babbling":
                self._pauses.pop(key, None)
                continue
            elif now_s < self._pauses.setdefault(key, now_s + slave.babble_s):
                continue
            self._pauses.pop(key, None)
            return Reply(0.0, slave.rng.randbytes(slave.babble_bytes))
        return None


def attach(bus: Bus, slaves: Iterable[Slave], log: Log | None = None, framing: Name = "rtu") -> None:
    """Put slaves on a bus, each as a station called by the slave's name: settings may differ, wires be cut singly."""
    for slave in slaves:
        bus.attach(RtuStation([slave], log, slave.name, framing))


def _keep(log: Log, device: str, done: Outcome, asked_s: float, at_s: float) -> None:
    log.append(Answer(at_s, device, done.told, done.fault if done.fault in DOUBTFUL else "", asked_s))
