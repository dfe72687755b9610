"""What is wrong with a wire or a device, by asking it.

Owns: the examination: what is asked, in which order, until the measures are enough for a diagnosis. Promises: reads
only; every finding carries its evidence; a port that cannot be opened is a finding too. Never: writes, prints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from drivers import LinkError
from drivers.exchange import Ask
from drivers.modbus_wire import host_port
from drivers.sensor import Serial, Template
from drivers.tcp import TcpLine
from gateway.installer.diagnoses import Diagnosis, diagnose
from gateway.installer.evidence import Measures, broken_link, weigh
from gateway.installer.link import Gone, Link, Trial
from gateway.installer.overheard import is_echo
from gateway.installer.search import Search
from gateway.installer.settings import COMMON, FIRST, LIKELY, Question, order, own
from gateway.installer.words import REFUSALS, Lang, settings

TIMES = 20
ENOUGH_SILENCE = 5
"""A device that never says a byte is not asked on."""
TIMEOUT_S = 1.0
REST_S = 0.05
LISTEN_S = 2.0


class Finding(Struct, frozen=True):
    """One diagnosis, about one device or the whole wire."""

    diagnosis: Diagnosis
    measures: Measures
    words: Mapping[str, Mapping[Lang, str]]
    address: int | None = None
    settings: Serial | None = None

    def texts(self, lang: Lang) -> tuple[str, str, str]:
        """Return what is wrong, how that is known, and what to do."""
        values = {**self.measures, **{name: word[lang] for name, word in self.words.items()}}
        row = self.diagnosis
        return row.what.of(lang, **values), row.proof.of(lang, **values), row.do.of(lang, **values)


class Doctor:
    """One examination of one port."""

    def __init__(self, link: Link, models: Sequence[Template], model: Template | None = None,
                 address: int | None = None, given: Serial | None = None) -> None:
        """Prepare.

        Args:
            link: not yet entered.
            models: the library, to look for devices by.
            model: of the device to examine, when known.
            address: of the device to examine; None = the model's, or whoever is found at likely addresses.
            given: the settings the device should have; None = nobody says.
        """
        self._link, self._models, self._model = link, models, model
        self._address = address if address is not None else model.address if model else None
        self._given = given or (model.serial if model else None)
        self.findings: list[Finding] = []

    def examine(self, listen_s: float = LISTEN_S) -> list[Finding]:
        """Return what was found, in the order in which to act on it.

        Raises:
            Told: the gateway does not lend the port, or wants it back.
        """
        try:
            with self._link as link:
                self._examine(link, listen_s)
        except LinkError as error:
            self._find(weigh((), more=broken_link(error)))
        return self.findings

    def _examine(self, link: Link, listen_s: float) -> None:
        try:
            self._find(weigh((), link.listen(listen_s)))
            if self.findings:
                return   # who asks while others talk only adds to the confusion
            if self._address is None:
                self._wire(link)
            else:
                self._device(link, self._address, self._given or link.settings)
        except Gone as error:
            more = broken_link(error)
            if "not_tcp" in more:
                more |= self._through(link, [self._address] if self._address is not None else list(LIKELY))
            self._find(weigh(link.trials, more=more))

    def _wire(self, link: Link) -> None:
        """Look for devices at likely addresses, then examine each."""
        choices = None if link.tcp else [self._given] if self._given else list(COMMON)
        addresses = {*LIKELY, *(model.address for model in self._models)}
        search = Search(link, ())
        search.run(order(self._models, choices, sorted(addresses)))
        if search.echo:
            self._echo(link)
        for one in search.found:
            self._device(link, one.address, one.settings)
        for doubt in search.doubts():
            self._device(link, doubt.address, doubt.settings)
        if not search.found and not search.doubts():
            self._find(weigh(link.trials, more=self._through(link, sorted(addresses))))

    def _device(self, link: Link, address: int, serial: Serial | None) -> None:
        """Ask one device often."""
        question = (own(self._model) if self._model else None) or FIRST
        trials = self._ask(link, address, serial, question)
        if not link.echo and not link.tcp and len(trials) > 1 and all(
                is_echo(t.ask.frame, bytes(t.heard.data)) for t in trials):
            self._echo(link)
            link.hear_echo()
            trials = self._ask(link, address, serial, question)
        measures = weigh(trials)
        more: dict[str, float] = {}
        words: dict[str, Mapping[Lang, str]] = {}
        if not measures["answered"] and not link.tcp and not measures["echoed"]:
            elsewhere = self._elsewhere(link, address, serial, question)
            if elsewhere:
                more["elsewhere"] = 1.0
                words["elsewhere_text"] = _both(settings(elsewhere))
                words["asked_text"] = _both(settings(serial or link.settings))
        if not measures["answered"] and link.tcp:
            more |= self._through(link, [address])
        codes = Counter(trial.heard.code for trial in trials if trial.heard.code)
        if codes:
            code = codes.most_common(1)[0][0]
            text = REFUSALS.get(code)
            words["refusal_text"] = {"zh": text.zh, "en": text.en} if text else _both(str(code))
        self._find(weigh(trials, more=more), words, address, serial)

    @staticmethod
    def _ask(link: Link, address: int, serial: Serial | None, question: Question) -> list[Trial]:
        trials: list[Trial] = []
        for _ in range(TIMES):
            link.exchange(Ask(address, *question), serial, TIMEOUT_S)
            trials.append(link.trials[-1])
            data = [bytes(trial.heard.data) for trial in trials]
            if (len(trials) == ENOUGH_SILENCE and not any(data)) or (
                    len(trials) == 2 and not link.echo and all(is_echo(trials[0].ask.frame, one) for one in data)):
                break
            link.rest(REST_S)
        return trials

    @staticmethod
    def _elsewhere(link: Link, address: int, serial: Serial | None, question: Question) -> Serial | None:
        """Return settings with which the device answers, when it does not with its own."""
        for other in COMMON:
            if other == (serial or link.settings):
                continue
            for asked in dict.fromkeys((question, FIRST)):
                heard = link.exchange(Ask(address, *asked), other, TIMEOUT_S / 2)
                if heard.note is None or heard.code:
                    return other
        return None

    def _echo(self, link: Link) -> None:
        """Tell of the echo, with the exchanges that showed it."""
        self._find(weigh([t for t in link.trials if is_echo(t.ask.frame, bytes(t.heard.data))]))

    def _through(self, link: Link, addresses: Sequence[int]) -> dict[str, float]:
        """Ask with RTU frames over TCP: does a transparent converter answer?"""
        target = host_port(link.port)
        if target is None or link.framing != "tcp":
            return {}
        link.shut()   # many converters take one connection only
        question = (own(self._model) if self._model else None) or FIRST
        line = TcpLine(*target, TIMEOUT_S, link.now, "rtu")
        answered = 0
        try:
            line.open()
            for address in addresses:
                link.rest(0.0)
                heard = line.exchange(Ask(address, *question))
                answered += heard.note is None or heard.code != 0
        except LinkError:
            pass   # it hangs up on such frames: then it is not transparent
        finally:
            line.close()
        return {"rtu_over_tcp": float(answered)}

    def _find(self, measures: Measures, words: Mapping[str, Mapping[Lang, str]] | None = None,
              address: int | None = None, serial: Serial | None = None) -> None:
        timeout_ms = 50 * math.ceil(1.5 * measures["response_max_ms"] / 50)
        extra = {"timeout_ms": _both(str(timeout_ms)), **{name: _both("?") for name in (
            "elsewhere_text", "asked_text", "refusal_text")}, **(words or {})}
        extra["timeout_ms"] = _both(str(timeout_ms))
        self.findings += [Finding(row, measures, extra, address, serial) for row in diagnose(measures)]


def _both(text: str) -> Mapping[Lang, str]:
    return {"zh": text, "en": text}
