"""The borrower's manners: a port is used only while the gateway has lent it, does not want it, or does not run."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.exchange import Ask
from drivers.sensor import Serial
from drivers.template import find
from gateway.installer import borrow
from gateway.installer.borrow import Loan, TakenBack, lendable
from gateway.installer.link import Link
from gateway.installer.words import Told
from hil.bus import Bus
from hil.slaves import RtuStation, Slave

RAIN = find("rain-tipping", (Path(__file__).parents[1] / "config" / "sensors",))


class Lender:
    """A gateway's control socket that answers as told."""

    def __init__(self, path: Path, reply: bytes) -> None:
        self.path, self.reply = path, reply
        self.asked: list[dict[str, Any]] = []
        self.loans: list[socket.socket] = []
        self.lent = threading.Semaphore(0)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            line = connection.makefile("rb").readline()
            if line:
                self.asked.append(json.loads(line))
                connection.sendall(self.reply)
            self.loans.append(connection)
            self.lent.release()

    def take_back(self) -> None:
        self.loans[-1].close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for connection in self.loans:
            connection.close()


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    made = Lender(tmp_path / "control.sock", b'{"ok": true, "for_s": 120}\n')
    yield made
    made.close()


def loan(lender: Lender, for_s: float = 120.0, now: Any = time.monotonic) -> Loan:
    return Loan(lender.path, "/dev/ttyUSB0", now, for_s)


def test_a_loan_is_a_connection_that_stays(lender: Lender) -> None:
    with loan(lender) as held:
        assert held.state == "lent"
        held.check()
        assert lender.asked == [{"do": "lend", "port": "/dev/ttyUSB0", "for_s": 120.0}]
        assert lender.lent.acquire(timeout=5)
    assert lender.loans[0].recv(1) == b""   # given back by closing
    assert held.state == "none"


def test_taken_back_is_noticed_at_the_next_check_and_in_a_rest(lender: Lender) -> None:
    held = loan(lender)
    held.take()
    assert lender.lent.acquire(timeout=5)
    lender.take_back()
    with pytest.raises(TakenBack) as told:
        held.wait(30)
    assert "收回" in told.value.text.zh
    held.check()   # it has nothing any more, and says so once
    assert held.state == "none"


def test_time_over_is_taken_back(lender: Lender) -> None:
    clock = [0.0]
    held = loan(lender, for_s=100.0, now=lambda: clock[0])
    held.take()
    clock[0] = 89.0
    assert not held.due()
    clock[0] = 91.0
    assert held.due()   # renewed between two exchanges, before the gateway has to insist
    clock[0] = 100.5
    with pytest.raises(TakenBack):
        held.check()


def test_no_service_and_a_socket_left_by_a_dead_one_are_no_obstacle(tmp_path: Path) -> None:
    absent = Loan(tmp_path / "none.sock", "/dev/ttyUSB0", time.monotonic)
    absent.take()
    assert absent.state == "no_service"
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(tmp_path / "stale.sock"))
    stale.close()
    dead = Loan(tmp_path / "stale.sock", "/dev/ttyUSB0", time.monotonic)
    dead.take()
    assert dead.state == "no_service"
    dead.check()
    assert not dead.due()


@pytest.mark.parametrize(("reply", "zh", "en"), [
    (b'{"ok": false, "text_en": "an alarm is on", "text_zh": "\xe6\x9c\x89\xe9\xa2\x84\xe8\xad\xa6"}\n', "有预警",
     "an alarm is on"),
    (b"", "没有给出应答", "hung up"), (b"nonsense\n", "没有给出应答", "cannot be borrowed"),
    (b'["ok"]\n', "没有给出应答", "cannot be borrowed")])
def test_a_refusal_and_nonsense_stop_the_command(tmp_path: Path, reply: bytes, zh: str, en: str) -> None:
    lender = Lender(tmp_path / "s", reply)
    hang_up = threading.Thread(target=lambda: (lender.lent.acquire(timeout=5), lender.take_back()))
    hang_up.start()
    try:
        with pytest.raises(Told) as told:
            loan(lender).take()
    finally:
        hang_up.join()
        lender.close()
    assert zh in told.value.text.zh
    assert en in told.value.text.en


def test_a_mute_gateway_is_not_waited_for_for_ever(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrow, "ANSWER_S", 0.1)
    lender.reply = b" "
    with pytest.raises(Told) as told:
        loan(lender).take()
    assert told.value.code == 2


def test_not_mine_is_free_to_use(lender: Lender) -> None:
    lender.reply = b'{"ok": true, "not_mine": true}\n'
    with loan(lender) as held:
        assert held.state == "not_mine"
        assert lender.lent.acquire(timeout=5)
        lender.take_back()
        held.check()   # nothing was lent, so nothing can be taken back


def test_a_port_is_named_so_that_the_gateway_can_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lendable("bus-a") == str(tmp_path / "bus-a")
    assert lendable("/dev/serial/by-path/x") == "/dev/serial/by-path/x"
    assert lendable("tcp://10.0.0.5:502") == "tcp://10.0.0.5:502"


def test_a_link_stops_using_the_port_at_once_and_renews_between_exchanges(lender: Lender, tmp_path: Path) -> None:
    clock = [0.0]

    def now() -> float:
        return time.monotonic() + clock[0]

    with Bus(Serial(baud=115200)) as bus:
        bus.attach(RtuStation([Slave(RAIN, 2)]))
        port = bus.port(tmp_path / "port")
        with Link(port, Serial(baud=115200), Loan(lender.path, port, now), now) as link:
            assert link.exchange(Ask(2, 3, 0, 1)).note is None
            clock[0] += 111   # the loan has less than ten seconds left
            assert link.exchange(Ask(2, 3, 0, 1)).note is None
            assert len(lender.asked) == 2
            for _ in range(2):
                assert lender.lent.acquire(timeout=5)
            assert lender.loans[0].recv(1) == b""   # the first was given back before the second was asked for
            said = len(bus.log)
            lender.take_back()
            with pytest.raises(TakenBack):
                link.exchange(Ask(2, 3, 0, 1))
            assert len(bus.log) == said   # not one byte more
