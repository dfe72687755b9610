"""The rig's county side: each row once, gaps named, old snapshots grey; the brokers and the network it stands on."""

import json
import socket
import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from hil.broker import Broker, Security, find_mosquitto
from hil.county import County
from hil.proxy import Proxy


class Wire:
    """A message as paho hands it over."""

    def __init__(self, topic, body):
        self.topic = f"mingluo/1/gw-1/{topic}"
        self.payload = body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.fixture
def county(tmp_path):
    county = County("127.0.0.1", 1, db_path=tmp_path / "county.sqlite")
    county.tell = lambda topic, body: county._on_message(None, None, Wire(topic, body))
    yield county
    county.stop()


def message(*seqs, epoch="e1", lane="data", t=1000):
    return {"v": 1, "gateway": "gw-1", "epoch": epoch, "lane": lane, "covers": [seqs[0], seqs[-1]], "inventory": 1,
            "boot": "b", "clock": {"trust": "synced"}, "rows": [
                {"seq": seq, "offset_ms": 0, "readings": [
                    {"point": "crack-1", "t": t + seq, "value": float(seq), "quality": 1, "status": "Actual"}]}
                for seq in seqs]}


def until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not (got := condition()):
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.01)
    return got


def test_rows_count_once_even_when_messages_overlap(county):
    county.tell("data", message(1, 2))
    county.tell("backlog", message(2, 3))
    county.tell("data", message(1, 2))
    county.tell("data", message(1, epoch="e2"))
    got = county.counters()
    assert (got.messages, got.rows, got.readings, got.live, got.backlog, got.duplicates) == (4, 4, 4, 3, 1, 3)
    assert got.gaps == ()
    assert [r[2] for r in county.readings()] == [1.0, 2.0, 3.0, 1.0]


def test_missing_seqs_are_named_by_stream(county):
    county.tell("data", message(2, 3))
    county.tell("data", message(7))
    county.tell("event", message(1, lane="event"))
    assert county.counters().gaps == (("gw-1", "e1", "data", 1, 1), ("gw-1", "e1", "data", 4, 6))
    county.tell("backlog", message(1))
    county.tell("backlog", message(4, 5, 6))
    assert county.counters().gaps == ()


def test_latest_is_by_time_not_by_arrival(county):
    county.tell("data", message(9))
    county.tell("backlog", message(3))
    assert county.latest()["crack-1"].value == 9.0


def test_a_half_unreadable_message_leaves_nothing_behind(county):
    broken = message(1, 2)
    del broken["rows"][1]["readings"][0]["t"]
    county.tell("data", broken)
    county.tell("data", b"\xff not json")
    assert (county.counters().rows, county.counters().bad) == (0, 2)
    county.tell("data", message(1, 2))
    assert county.counters().rows == 2


def test_a_snapshot_turns_grey_when_it_is_over(county):
    warn = {"v": 1, "gateway": "gw-1", "object": "slope", "colour": "red", "as_of": 1000, "valid_until": 4000,
            "valid_s": 3, "clock": {"trust": "synced"}}
    county.tell("warn/slope", warn)
    assert county.colours(3999) == {"slope": "red"}
    assert county.colours(4001) == {"slope": "grey"}
    county.tell("warn/slope", warn | {"clock": {"trust": "unset"}})
    now = time.time() * 1000
    assert county.colours(now + 2000) == {"slope": "red"}, "without a clock it counts from the arrival"
    assert county.colours(now + 5000) == {"slope": "grey"}


def test_a_late_will_does_not_hide_a_box_that_is_back(county):
    county.tell("state", {"gateway": "gw-1", "online": True, "session": "a"})
    county.tell("state", {"gateway": "gw-1", "online": True, "session": "b"})
    county.tell("state", {"gateway": "gw-1", "online": False, "session": "a"})
    assert county.states()["gw-1"]["online"]
    county.tell("state", {"gateway": "gw-1", "online": False, "session": "b"})
    assert not county.states()["gw-1"]["online"]


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_either_broker_serves_and_comes_back_on_its_port(kind, tmp_path):
    if kind == "mosquitto":
        assert find_mosquitto(), "mosquitto is not installed: apt-get install mosquitto"
    else:
        pytest.importorskip("amqtt")
    with Broker(folder=tmp_path / "b", prefer=kind) as broker:
        assert broker.kind.startswith(kind)
        port = broker.port
        for n in (1, 2):
            with County("127.0.0.1", port, db_path=tmp_path / f"{n}.sqlite", mqtt=broker.mqtt) as county:
                client = Client(CallbackAPIVersion.VERSION2)
                client.connect("127.0.0.1", port)
                client.loop_start()
                info = client.publish("mingluo/1/gw-1/data", json.dumps(message(n)), qos=1)
                info.wait_for_publish(5)
                until(lambda c=county, n=n: [r[2] for r in c.readings()] == [float(n)])
                client.disconnect()
                client.loop_stop()
            if n == 1:
                broker.restart()
                assert broker.port == port


def test_a_broker_that_cannot_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"mosquitto .*no_such_setting"):
        Broker(folder=tmp_path, prefer="mosquitto", settings="no_such_setting true").start()
    with pytest.raises(RuntimeError, match="amqtt cannot do TLS"):
        Broker(folder=tmp_path, prefer="amqtt", security=Security(passwords={"a": "b"}))


@pytest.fixture
def echo():
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=reply, args=(client,), daemon=True).start()

    def reply(client):
        with client:
            try:
                while data := client.recv(4096):
                    client.sendall(data)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def test_the_network_can_be_cut_in_two_ways_and_restored(echo):
    with Proxy(echo) as proxy:
        def connect():
            return socket.create_connection(("127.0.0.1", proxy.port), timeout=2)

        with connect() as sock:
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                sock.recv(10)
        with pytest.raises(ConnectionRefusedError):
            connect()
        proxy.restore()
        with connect() as sock:
            sock.sendall(b"again")
            assert sock.recv(10) == b"again"
            proxy.cut("blackhole")
            sock.sendall(b"nobody")
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(10)
            assert proxy.is_cut
        proxy.restore()
        with connect() as sock:
            sock.sendall(b"back")
            assert sock.recv(10) == b"back"
        # The proxy counts when it has sent, and we may have received by then.
        until(lambda: (proxy.bytes_up, proxy.bytes_down) == (14, 14))
