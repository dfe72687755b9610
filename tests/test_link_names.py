"""Names: a look-up that hangs or fails stops nobody, and what was known before is used meanwhile."""

import contextlib
import socket
import threading
import time

import pytest

from gateway.uplink.names import Names
from gateway.uplink.tcp import dial, traffic
from hil.broker import free_port


class Resolver:
    """Answers from a table; `hang` holds every answer back, `gone` refuses them."""

    def __init__(self, table):
        self.table, self.asked, self.gone = table, [], False
        self.hang = threading.Event()
        self.hang.set()

    def __call__(self, host, port, type):  # noqa: A002
        self.asked.append(host)
        assert self.hang.wait(30)
        if self.gone or host not in self.table:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in self.table[host]]


def hosts(names, *asked, patience_s=0.2):
    return [address[1][0] for address in names.addresses(*asked, patience_s=patience_s)]


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_address_is_no_question():
    resolver = Resolver({})
    names = Names(resolver)
    assert names.addresses("192.0.2.7", 1883) == [(socket.AF_INET, ("192.0.2.7", 1883))]
    assert names.addresses("2001:db8::7", 1883) == [(socket.AF_INET6, ("2001:db8::7", 1883, 0, 0))]
    assert names.known("192.0.2.7", 1883)
    assert resolver.asked == []


def test_the_real_resolver_knows_this_host():
    assert {family for family, _ in Names().addresses("localhost", 1883)} <= {socket.AF_INET, socket.AF_INET6}


def test_without_dns_the_last_addresses_are_used():
    resolver = Resolver({"county": ["192.0.2.1", "192.0.2.2"]})
    names = Names(resolver)
    assert names.known("county", 1) is None
    assert hosts(names, "county", 1) == ["192.0.2.1", "192.0.2.2"]
    resolver.gone = True
    assert hosts(names, "county", 1) == ["192.0.2.1", "192.0.2.2"]
    resolver.gone, resolver.table = False, {"county": ["192.0.2.3"]}
    assert hosts(names, "county", 1) == ["192.0.2.3"], "a new address counts as soon as it is known"
    resolver.gone = True
    with pytest.raises(socket.gaierror, match="Temporary"):
        names.addresses("never-seen", 1)


def test_a_look_up_that_hangs_is_waited_for_once_and_its_answer_is_not_lost():
    resolver = Resolver({"county": ["192.0.2.1"]})
    names = Names(resolver)
    resolver.hang.clear()
    with pytest.raises(socket.gaierror, match="no answer within"):
        names.addresses("county", 1, patience_s=0.05)
    resolver.hang.set()
    until(lambda: names.known("county", 1))
    resolver.hang.clear()
    resolver.asked.clear()
    assert hosts(names, "county", 1, patience_s=0.05) == ["192.0.2.1"]
    threads = threading.active_count()
    for _ in range(20):
        assert hosts(names, "county", 1, patience_s=30) == ["192.0.2.1"], "a wait of 30 s each would be noticed"
    assert (resolver.asked, threading.active_count()) == (["county"], threads), "one thread hangs, not twenty"
    resolver.hang.set()


def test_a_name_that_hangs_does_not_stop_another():
    resolver = Resolver({"a": ["192.0.2.1"], "b": ["192.0.2.2"]})
    names, waiting = Names(resolver), threading.Event()

    def ask():
        waiting.set()
        assert hosts(names, "a", 1, patience_s=20) == ["192.0.2.1"]

    resolver.hang.clear()
    asker = threading.Thread(target=ask)
    asker.start()
    assert waiting.wait(5)
    until(lambda: resolver.asked == ["a"])
    threading.Timer(0.1, resolver.hang.set).start()
    assert hosts(names, "b", 1, patience_s=20) == ["192.0.2.2"]
    asker.join(5)
    assert not asker.is_alive()


def test_what_worked_comes_first_and_what_failed_last():
    resolver = Resolver({"county": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]})
    names = Names(resolver)
    found = names.addresses("county", 1)
    names.worked("county", 1, found[0], well=False)
    names.worked("county", 1, found[1], well=True)
    assert hosts(names, "county", 1) == ["192.0.2.2", "192.0.2.3", "192.0.2.1"]
    assert names.known("county", 1) == found[1]
    names.worked("county", 1, found[1], well=False)
    assert hosts(names, "county", 1) == ["192.0.2.3", "192.0.2.1", "192.0.2.2"]
    names.worked("county", 1, found[2], well=False)
    assert hosts(names, "county", 1) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"], "all failed: none is worse"


def test_the_next_address_is_tried_when_one_refuses():
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        names = Names(Resolver({"county": ["127.0.0.1", "127.0.0.2"]}))
        for _ in range(2):
            sock = dial("county", port, names=names)
            assert sock.getpeername()[0] == "127.0.0.2"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sock.close()
        assert names.known("county", port)[1][0] == "127.0.0.2"
    with pytest.raises(ConnectionRefusedError):
        dial("county", free_port(), names=Names(Resolver({"county": ["127.0.0.1", "127.0.0.2"]})))


def test_the_loopback_can_be_bound_to_and_a_missing_interface_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dial("127.0.0.1", port, "lo").close()
        with pytest.raises(OSError, match="No such device"):
            dial("127.0.0.1", port, "mingluo-none")


def test_the_kernel_counts_what_moved():
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = dial("127.0.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        before = traffic(sock)
        sock.sendall(bytes(5000))
        peer.sendall(bytes(300))
        until(lambda: traffic(sock).moved_bytes == before.moved_bytes + 5300)
        assert 5300 + 52 * 2 <= traffic(sock).wire_bytes - before.wire_bytes <= 5300 + 52 * 12
        sock.close()
        peer.close()
        assert traffic(sock).moved_bytes == 0


def test_the_kernel_knows_what_has_not_arrived():
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = dial("127.0.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        sock.sendall(b"x")
        until(lambda: not traffic(sock).queued)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(1 << 20))
        assert traffic(sock).queued, "nobody reads it"
        sock.close()
        peer.close()
