"""Simulated hosts: three framings, many in one thread, sick ones that cost the others nothing."""

import errno
import socket
import threading
import time

import pytest

from drivers.exchange import MBAP
from hil.bus_process import plain
from hil.slaves import HOST_FAULTS, Hosts, Slave, TcpServer
from tests.wires import rtu

PDU = bytes((3, 0, 0, 0, 2))
DATA = bytes((3, 4, 0, 1, 0, 2))


def slave(unit=1, **more):
    return Slave(plain(10), unit, {f"r{n}": n + 1 for n in range(10)}, name=f"d{unit}", turnaround_s=0.0, **more)


def frame(pdu, number=7, unit=1):
    return MBAP.pack(number, 0, len(pdu) + 1, unit) + pdu


def ask(port, request, size, patience_s=2.0):
    with socket.create_connection(("127.0.0.1", port), patience_s) as link:
        link.sendall(request)
        return receive(link, size, patience_s)


def receive(link, size, patience_s=2.0):
    """Up to `size` bytes; what came when patience ended, or the host hung up."""
    heard, end_s = b"", time.monotonic() + patience_s
    while len(heard) < size and (left := end_s - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            chunk = link.recv(4096)
        except TimeoutError:
            break
        if not chunk:
            return heard + b"|"
        heard += chunk
    return heard


@pytest.mark.parametrize(("framing", "request_", "answer"), [
    ("tcp", frame(PDU), frame(DATA)), ("rtu", rtu(1, *PDU), rtu(1, *DATA)),
    ("ascii", b":010300000002FA\r\n", b":01030400010002F5\r\n")])
def test_the_same_slaves_in_three_framings(framing, request_, answer):
    log = []
    with TcpServer([slave()], log=log, framing=framing) as server:
        assert ask(server.port, request_, len(answer)) == answer
        with socket.create_connection(("127.0.0.1", server.port)) as link:   # in pieces, and two at once
            link.sendall(request_[:5])
            time.sleep(0.02)
            link.sendall(request_[5:] + request_)
            assert receive(link, 2 * len(answer)) == 2 * answer
    assert [a.values for a in log] == [{"r0": 1, "r1": 2}] * 3


def test_long_writes_travel_over_tcp_in_rtu_framing():
    made = slave()
    with TcpServer([made], framing="rtu") as server:
        request = rtu(1, 16, 0, 1, 0, 3, 6, 0, 7, 0, 8, 0, 9)
        assert ask(server.port, request, 8) == rtu(1, 16, 0, 1, 0, 3)
    assert made.written[0].values == (7, 8, 9)


@pytest.mark.parametrize(("fault", "heard"), [
    ("doubled", frame(DATA) * 2), ("stale", frame(DATA[:1] + b"\x02\0\x0a", number=6)),
    ("wrong_transaction", frame(DATA, number=6)), ("garbled", frame(DATA)[:2] + b"\0\1" + frame(DATA)[4:]),
    ("gateway_target", frame(b"\x83\x0b")), ("wrong_unit", frame(DATA, unit=2))])
def test_faults_of_a_device_on_tcp(fault, heard):
    made, log = slave(), []
    with TcpServer([made], log=log) as server:
        ask(server.port, frame(bytes((3, 0, 9, 0, 1))), 11)
        made.fault = fault
        assert ask(server.port, frame(PDU), len(heard)) == heard
    # An answer is logged once it is out, so the log is whole when the server has closed.
    assert [(a.values, a.fault) for a in log] == [({"r9": 10}, ""), *[({"r0": 1, "r1": 2}, "")] * (fault == "doubled")]


def test_sick_hosts_are_what_their_name_says_and_cost_the_others_nothing():
    logs = {fault: [] for fault in HOST_FAULTS}
    with Hosts() as hosts:
        made = {fault: hosts.add([slave()], fault=fault, log=logs[fault]) for fault in HOST_FAULTS}
        assert ask(made["silent"].port, frame(PDU), 1, 0.1) == b""
        with pytest.raises(ConnectionRefusedError):
            ask(made["refuses"].port, frame(PDU), 1)
        with pytest.raises(TimeoutError):
            ask(made["blackhole"].port, frame(PDU), 1, 0.3)
        assert ask(made["closes"].port, frame(PDU), 99) == frame(DATA)[:6] + b"|"
        garbage = ask(made["garbage"].port, frame(PDU), 13)
        assert len(garbage) == 13
        assert garbage != frame(DATA)
        began_s = time.monotonic()
        dripping = threading.Thread(target=ask, args=(made["drips"].port, frame(PDU), 13))
        dripping.start()
        assert ask(made[""].port, frame(PDU), 13) == frame(DATA)
        assert time.monotonic() - began_s < 12 * made["drips"].drip_s   # while the other still drips
        dripping.join()
        assert time.monotonic() - began_s >= 12 * made["drips"].drip_s
        assert ask(made[""].port, frame(PDU), 13) == frame(DATA)   # one thread: what was before is logged by now
        assert {fault for fault, log in logs.items() if log} == {"", "drips"}
        for fault, host in made.items():
            hosts.set_fault(host, "")
            assert ask(host.port, frame(PDU), 13) == frame(DATA), fault


def test_a_host_that_falls_silent_ends_its_connections():
    with Hosts() as hosts:
        host = hosts.add([slave()])
        with socket.create_connection(("127.0.0.1", host.port)) as link:
            link.sendall(frame(PDU))
            assert receive(link, 13) == frame(DATA)
            hosts.set_fault(host, "refuses")
            assert receive(link, 1) == b"|"
        with socket.socket() as link:
            assert link.connect_ex(("127.0.0.1", host.port)) == errno.ECONNREFUSED


def test_two_hundred_hosts_in_one_thread():
    before = threading.active_count()
    with Hosts() as hosts:
        made = [hosts.add([slave()]) for _ in range(200)]
        links = [socket.create_connection(("127.0.0.1", host.port)) for host in made]
        for link in links:
            link.sendall(frame(PDU))
        assert all(receive(link, 13) == frame(DATA) for link in links)
        assert threading.active_count() == before + 1
        for link in links:
            link.close()
