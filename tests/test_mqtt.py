"""One connection against a real broker: what it asks for, what it is told, what it takes in, how it ends."""

import json
import random
import socket
import threading
import time
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.config import Platform
from gateway.uplink.heard import PAYLOAD_BYTES, WAITING, Heard
from gateway.uplink.message import Message
from gateway.uplink.mqtt import INBOUND, Connection, Refused
from gateway.uplink.pulse import ANSWER_MAX_S, PATIENCE_S, Pulse
from gateway.uplink.window import LEAST_BYTES, MOST_BYTES, Flight, Window
from hil.broker import Broker

WILL = Message("t/state", b'{"online":false}')
BOTH = pytest.mark.parametrize("mqtt", ["5", "3.1.1"])


@pytest.fixture
def broker(tmp_path):
    with Broker(folder=tmp_path / "broker", prefer="mosquitto") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Broker(folder=tmp_path_factory.mktemp("broker"), prefer="mosquitto") as running:
        yield running


@contextmanager
def connected(port, mqtt="5", client_id="gw-1", will=WILL, password=None, wait=True, platform=(), **more):
    """A connection that is up; dropped without a word at the end."""
    connection = Connection(Platform(id="p", host="127.0.0.1", port=port, mqtt=mqtt, **dict(platform)), client_id,
                            password, will, time.monotonic, **more)
    try:
        connection.open()
        if wait:
            pump(connection, lambda: connection.up)
        yield connection
    finally:
        connection.abandon()


def pump(connection, done, timeout_s=10.0):
    """Let it speak until something is so; what it acknowledged and what was heard on the way."""
    acks, end = [], time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        connection.pump(0.05)
        acks += connection.acks()
    return acks


def settle(connection, timeout_s=10.0):
    acks = pump(connection, lambda: not connection.flying, timeout_s)
    return acks + connection.acks()


def hear(connection, count, timeout_s=10.0):
    got, end = [], time.monotonic() + timeout_s
    while len(got) < count:
        assert time.monotonic() < end, f"{len(got)} of {count} within {timeout_s} s"
        connection.pump(0.05)
        got += connection.heard()
    return got


def idle(connection, for_s):
    """Listen for a while in which nothing is expected."""
    got, end = [], time.monotonic() + for_s
    while time.monotonic() < end:
        connection.pump(0.05)
        got += connection.heard()
    return got


@contextmanager
def other(port, topic="#"):
    """Somebody else at the broker: `say(topic, payload)`, and what came."""
    ready, got, acked = threading.Event(), [], threading.Semaphore(0)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.on_connect = lambda c, *_: c.subscribe(topic, 1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _d, message: got.append(message)
    client.on_publish = lambda *_: acked.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(5)

    def say(*messages):
        for where, payload in messages:
            client.publish(where, payload, qos=1)
        for _ in messages:
            assert acked.acquire(timeout=10)

    client.say, client.got = say, got
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def arrived(client, topic, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not (got := [message for message in client.got if message.topic == topic]):
        assert time.monotonic() < end, f"nothing on {topic}"
        time.sleep(0.005)
    return got[0]


# --- what is said


@BOTH
def test_a_message_carries_its_expiry_and_its_type(shared, mqtt):
    with other(shared.port) as reader, connected(shared.port, mqtt) as connection:
        connection.publish(Message(f"e/{mqtt}", b"x", expiry_s=7, content_type="application/zlib"), "a")
        connection.mention(Message(f"m/{mqtt}", b"y"))
        assert [(ack.token, ack.code) for ack in settle(connection)] == [("a", 0)]
        message = arrived(reader, f"e/{mqtt}")
        told = message.properties.json()
        if mqtt == "5":
            assert (told["ContentType"], told["MessageExpiryInterval"]) == ("application/zlib", 7)
        else:
            assert told == {}
        assert arrived(reader, f"m/{mqtt}").qos == 0


def test_qos_0_is_answered_when_it_is_handed_over(shared):
    with connected(shared.port) as connection:
        connection.publish(Message("q/0", b"x", qos=0), "token")
        assert [(ack.token, ack.code) for ack in connection.acks()] == [("token", 0)]


@BOTH
def test_the_will_speaks_after_a_death_and_not_after_a_farewell(shared, mqtt):
    will = Message(f"will/{mqtt}", b"lost", retain=True, expiry_s=60, content_type="text/plain")
    with other(shared.port, will.topic) as reader:
        with connected(shared.port, mqtt, "gw-will", will) as connection:
            connection.farewell()
        with connected(shared.port, mqtt, "gw-will", will):
            pass
        arrived(reader, will.topic)
        assert len(reader.got) == 1


# --- the session


@BOTH
def test_the_broker_keeps_our_session_and_says_when_it_lost_it(broker, mqtt):
    with connected(broker.port, mqtt) as connection:
        assert not connection.session_present
    with connected(broker.port, mqtt) as connection:
        assert connection.session_present
        connection.farewell()
    with connected(broker.port, mqtt) as connection:
        assert connection.session_present, "an orderly farewell keeps it too"
    broker.restart()
    with connected(broker.port, mqtt) as connection:
        assert not connection.session_present


@BOTH
def test_without_a_session_none_is_kept(shared, mqtt):
    for _ in range(2):
        with connected(shared.port, mqtt, "gw-none", session_s=0) as connection:
            assert not connection.session_present


@BOTH
def test_what_was_said_while_we_were_away_is_heard(shared, mqtt):
    with connected(shared.port, mqtt, "gw-away", subscriptions=("away/cmd/+", "away/stored")) as connection:
        idle(connection, 0.2)
    with other(shared.port, "none") as county:
        county.say(*(("away/cmd/ack", b"%d" % n) for n in range(30)), ("away/stored", b"s"), ("away/other", b"-"))
    with connected(shared.port, mqtt, "gw-away", subscriptions=("away/cmd/+", "away/stored")) as connection:
        assert connection.session_present
        got = hear(connection, 31)
        assert got == [*(("away/cmd/ack", b"%d" % n) for n in range(30)), ("away/stored", b"s")]


@BOTH
def test_what_nobody_dealt_with_comes_again(shared, mqtt):
    topic = f"again/{mqtt}"
    with other(shared.port, "none") as county:
        with connected(shared.port, mqtt, f"gw-{topic[-1]}", subscriptions=(topic,)) as connection:
            idle(connection, 0.2)
            county.say((topic, b"1"))
            assert hear(connection, 1) == [(topic, b"1")]  # taken, and then we die
        with connected(shared.port, mqtt, f"gw-{topic[-1]}", subscriptions=(topic,)) as connection:
            assert hear(connection, 1) == [(topic, b"1")]
            assert connection.heard() == []  # asked again: dealt with
            connection.pump(0.1)
        with connected(shared.port, mqtt, f"gw-{topic[-1]}", subscriptions=(topic,)) as connection:
            assert idle(connection, 0.5) == []


@BOTH
def test_a_second_box_of_our_name_ends_the_first(shared, mqtt):
    """MQTT 3.1.1 has no word for it, and mosquitto says it since 2.0.15 (its issue 2607)."""
    version = tuple(map(int, shared.kind.split()[1].split(".")))
    with connected(shared.port, mqtt, "twin") as first, connected(shared.port, mqtt, "twin") as second:
        assert ending(first) == ("taken_over" if mqtt == "5" and version >= (2, 0, 15) else "lost")
        assert second.session_present


def test_a_name_taken_over_is_told_apart():
    with scripted(CONNACK + b"\xe0\x02\x8e\x00") as port, connected(port, wait=False) as connection:
        assert ending(connection) == "taken_over"


# --- what we hear is bounded


def test_a_broker_that_keeps_to_mqtt_5_sends_no_more_than_we_take(shared):
    with other(shared.port, "none") as county, connected(shared.port, client_id="gw-b5",
                                                         subscriptions=("b5/#",)) as connection:
        idle(connection, 0.2)
        county.say(*(("b5/x", b"%d" % n) for n in range(200)), ("b5/long", bytes(PAYLOAD_BYTES + 5000)))
        pump(connection, lambda: len(connection._heard._waiting) == INBOUND)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            connection.pump(0.05)
        assert len(connection._heard._waiting) == INBOUND, "Receive Maximum"
        assert [payload for _, payload in hear(connection, 200)] == [b"%d" % n for n in range(200)]
        assert (idle(connection, 0.2), connection.unheard) == ([], 0), "Maximum Packet Size"


def test_more_than_we_take_is_counted_and_never_blocks(tmp_path):
    with Broker(folder=tmp_path / "b", prefer="mosquitto", settings="max_inflight_messages 0") as broker, \
            other(broker.port, "none") as county, \
            connected(broker.port, "3.1.1", subscriptions=("b3/#",)) as connection:
        idle(connection, 0.2)
        county.say(("b3/long", bytes(PAYLOAD_BYTES + 1)), ("b3/fits", bytes(PAYLOAD_BYTES)),
                   *(("b3/x", b"%d" % n) for n in range(150)))
        pump(connection, lambda: connection.unheard == 1 + 151 - WAITING)
        got = connection.heard()
        assert [len(got), len(got[0][1])] == [WAITING, PAYLOAD_BYTES]
        assert [payload for _, payload in got[1:]] == [b"%d" % n for n in range(WAITING - 1)], "the newest give way"
        assert connection.heard() == []
        county.say(("b3/x", b"later"))
        assert hear(connection, 1) == [("b3/x", b"later")]


def test_a_packet_of_any_length_takes_bounded_memory(shared):
    size = 30_000_000
    with other(shared.port, "none") as county, connected(shared.port, "3.1.1", "gw-giant",
                                                         subscriptions=("giant",)) as connection:
        idle(connection, 0.2)
        county.say(("giant", bytes(size)), ("giant", b"after"))
        tracemalloc.start()
        try:
            assert hear(connection, 1, 20) == [("giant", b"after")]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print("peak bytes:", peak)
        assert connection.unheard == 1
        assert peak < size / 20


def test_a_topic_that_is_no_text_is_dropped_and_counted():
    heard = Heard()
    heard.add(None, b"x", (1, 1))
    heard.add("t", b"x", (2, 1), whole=False)
    assert (heard.take(), heard.dropped, heard.receipts(), heard.receipts()) == ([], 2, [(1, 1), (2, 1)], [])


# --- what a broker may say about itself


def test_a_brokers_limits_are_kept(tmp_path):
    settings = "max_inflight_messages 5\nmax_packet_size 3000\nmax_keepalive 10\nretain_available false"
    with Broker(folder=tmp_path / "b", prefer="mosquitto", settings=settings) as broker, \
            other(broker.port) as reader, connected(broker.port) as connection:
        assert (connection.room, connection.payload_bytes) == (5, 3000 - 512)
        assert connection._client.keepalive == 10, "Server Keep Alive"
        for n in range(12):
            connection.publish(Message("l/x", b"%d" % n, retain=True), n)
        assert len(connection._window.flying) == 5, "Receive Maximum"
        connection.publish(Message("l/long", bytes(2500)), "long")
        connection.mention(Message("l/long", bytes(2500)))
        acks = settle(connection)
        assert sorted(ack.token for ack in acks if ack.code == 0) == list(range(12))
        assert [(ack.token, ack.code) for ack in acks if ack.code] == [("long", 0x95)]
        assert connection.up
        end = time.monotonic() + 5
        while len(reader.got) < 12:
            assert time.monotonic() < end
            time.sleep(0.005)
        assert [message.payload for message in reader.got] == [b"%d" % n for n in range(12)]


DYNSEC = next((path for path in ("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so",
                                 "/usr/lib/aarch64-linux-gnu/mosquitto_dynamic_security.so",
                                 "/usr/lib/mosquitto_dynamic_security.so") if Path(path).exists()), None)


@pytest.mark.skipif(DYNSEC is None, reason="no mosquitto_dynamic_security.so: nothing else in mosquitto denies one")
@BOTH
def test_a_denied_subscription_is_a_problem_with_a_hint_and_nothing_else_suffers(tmp_path, mqtt):
    rights = {"clients": [], "groups": [{"groupname": "all", "roles": [{"rolename": "box"}]}], "anonymousGroup": "all",
              "roles": [{"rolename": "box", "acls": [
                  {"acltype": "subscribePattern", "topic": "ok/#", "allow": True},
                  {"acltype": "publishClientReceive", "topic": "#", "allow": True},
                  {"acltype": "publishClientSend", "topic": "#", "allow": True}]}],
              "defaultACLAccess": {"publishClientSend": False, "publishClientReceive": False, "subscribe": False,
                                   "unsubscribe": True}}
    file = tmp_path / "dynsec.json"
    file.write_text(json.dumps(rights))
    with Broker(folder=tmp_path / "b", prefer="mosquitto",
                settings=f"plugin {DYNSEC}\nplugin_opt_config_file {file}") as broker, \
            connected(broker.port, mqtt, subscriptions=("ok/cmd", "no/cmd")) as connection:
        pump(connection, lambda: connection.denied)
        assert list(connection.denied) == ["no/cmd"]
        problem = connection.denied["no/cmd"]
        assert problem.code == (0x87 if mqtt == "5" else 0x80)
        assert problem.zh
        connection.publish(Message("ok/cmd", b"to myself"), "x")
        assert [ack.code for ack in settle(connection)] == [0]
        assert hear(connection, 1) == [("ok/cmd", b"to myself")]


# --- a broker that does not keep to the rules


@contextmanager
def scripted(*says):
    """A broker that sends these, one after each thing it hears, and then keeps silent. `None`: hangs up at once."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, suppress(OSError):
                for word in says:
                    if word is None:
                        break
                    client.recv(65536)
                    client.sendall(word)
                else:
                    while client.recv(65536):
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


CONNACK = b"\x20\x03\x00\x00\x00"


def ending(connection, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    try:
        while time.monotonic() < end:
            connection.pump(0.05)
            connection.acks()
    except Refused as refused:
        return refused.problem.kind
    return "alive"


def test_a_broker_that_hangs_up_on_a_subscription_is_told_apart():
    with scripted(CONNACK, b"", None) as port, connected(port, subscriptions=("a",)) as connection:
        assert ending(connection) == "subscription"


@pytest.mark.parametrize(("says", "kind"), [
    ((b"\x20\x03\x00\x97\x00",), "quota"), ((b"\x20\x03\x00\x8a\x00",), "banned"),
    ((b"\x20\x03\x00\x9d\x00",), "server_moved"), ((b"", None), "closed"),
    ((CONNACK + b"\xe0\x01\x8b",), "shutting_down"), ((CONNACK + b"\xe0\x01\x98",), "administrative"),
    ((CONNACK + b"\xf0\x00",), "garbled"), ((b"HTTP/1.1 400 Bad Request\r\n\r\n", None), "closed")])
def test_what_a_broker_says_at_the_end_is_kept(says, kind):
    with scripted(*says) as port, connected(port, wait=False) as connection:
        assert ending(connection) == kind


@pytest.mark.parametrize("what", ["publish", "subscribe", "half an answer", "ping"])
def test_silence_ends_it(what):
    """What stalls: PUBACK, SUBACK, a PUBACK cut in the middle, PINGRESP."""
    says = (CONNACK, b"\x40") if what == "half an answer" else (CONNACK,)
    subscriptions = ("a",) if what == "subscribe" else ()
    with scripted(*says) as port, connected(port, patience_s=0.5, platform={"keepalive_s": 1 if what == "ping" else 30},
                                            subscriptions=subscriptions) as connection:
        if what in ("publish", "half an answer"):
            connection.publish(Message("t", b"x"), "token")
        begin = time.monotonic()
        assert ending(connection) == "silent"
        print(what, "noticed after s:", round(time.monotonic() - begin, 2))


def test_no_noise_breaks_it():
    """Whatever comes after the CONNACK, the connection goes on or ends with a cause."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    whole = [bytes.fromhex(packet) for packet in (
        "3209000174000100616263", "40020001", "400400011000", "900400010001", "d000", "e0028e00",
        "320c00017400020502000000096162", "2003000000", "50020001", "62020001", "3409000174000100616263")]
    ends = []
    for _ in range(400):
        noise = bytearray(b"".join(rng.choices(whole, k=rng.randrange(1, 6))))
        for _ in range(rng.randrange(4)):
            noise[rng.randrange(len(noise))] = rng.randrange(256)
        if rng.random() < 0.2:
            noise = bytearray(rng.randbytes(rng.randrange(1, 60)))
        with scripted(CONNACK + bytes(noise), None) as port, connected(port, wait=False,
                                                                       subscriptions=("t",)) as connection:
            connection.publish(Message("t", b"x"), "token")
            ends.append(ending(connection, 5))
    print({end: ends.count(end) for end in set(ends)})
    assert len(set(ends)) > 3


# --- the rules behind it, with a clock of their own


def test_a_line_that_moves_is_never_given_up():
    pulse, now = Pulse(PATIENCE_S, 0.0), 0.0
    for n in range(1000):
        now += PATIENCE_S - 0.1
        if n % 10 == 0:
            pulse.answered(now)
        assert pulse.beats(now, flying=True, owed=True, queued=True, moved_bytes=n, keepalive_s=30)


def test_a_line_that_stands_still_while_something_is_owed_is():
    pulse = Pulse(PATIENCE_S, 0.0)
    assert pulse.beats(100.0, flying=False, owed=False, queued=False, moved_bytes=5, keepalive_s=0)
    assert pulse.beats(100.0 + PATIENCE_S, flying=True, owed=True, queued=True, moved_bytes=5, keepalive_s=0)
    assert not pulse.beats(100.1 + PATIENCE_S, flying=True, owed=True, queued=True, moved_bytes=5, keepalive_s=0)


def test_what_we_go_on_sending_is_no_sign_of_the_others_life():
    """A broker that hangs: its kernel takes what we send, message after message, and nobody answers."""
    pulse, now = Pulse(PATIENCE_S, 0.0), 0.0
    while pulse.beats(now, flying=True, owed=True, queued=round(now * 10) % 3 == 1, moved_bytes=round(now * 1000),
                      keepalive_s=30):
        now += 0.1
        assert now < PATIENCE_S + 1
    pulse = Pulse(PATIENCE_S, 0.0)
    for second in range(60):  # the same, and it does answer, late
        if second % 9 == 8:
            pulse.received(second)
            pulse.answered(second)
        assert pulse.beats(second, flying=True, owed=True, queued=False, moved_bytes=second, keepalive_s=30)


def test_an_answer_that_never_comes_ends_it_however_much_else_moves():
    pulse, now, moved = Pulse(PATIENCE_S, 0.0), 0.0, 0
    while pulse.beats(now, flying=True, owed=True, queued=True, moved_bytes=moved, keepalive_s=30):
        now, moved = now + 1, moved + 1
        pulse.received(now)
    assert ANSWER_MAX_S < now < ANSWER_MAX_S + 2


def test_an_idle_line_has_its_keepalive_and_the_patience():
    pulse = Pulse(PATIENCE_S, 0.0)
    idle = {"flying": False, "owed": False, "queued": False, "moved_bytes": 0}
    assert pulse.beats(30 + PATIENCE_S, **idle, keepalive_s=30)
    assert not pulse.beats(30.1 + PATIENCE_S, **idle, keepalive_s=30)
    assert pulse.beats(1e6, **idle, keepalive_s=0), "no pings, no expectation"


def carry(window, speed, seconds, size=LEAST_BYTES):
    """Let a line work, `speed(now)` in bytes a second; the longest a message of the second half was under way."""
    now, line_free, queue, mid, took = 0.0, 0.0, [], 0, []
    while now < seconds:
        while window.room > 0:
            mid += 1
            line_free = max(line_free, now) + size / speed(now)
            window.launch(mid, Flight(mid, now, size))
            queue.append((line_free, mid, now))
        now, landed, since = queue.pop(0)
        assert window.land(landed, now).token == landed
        took.append(now - since)
    return max(took[len(took) // 2:])


@pytest.mark.parametrize("bits_per_s", [9_600, 64_000, 256_000, 2_000_000, 100_000_000])
def test_no_more_flies_than_the_line_carries_in_a_few_seconds(bits_per_s):
    least_s = LEAST_BYTES * 8 / bits_per_s
    waited_s = carry(Window(), lambda _: bits_per_s / 8, 600 if bits_per_s < 1e6 else 60)
    print(bits_per_s, "bit/s: longest under way s:", round(waited_s, 2))
    assert waited_s < max(5.0, 2.2 * least_s)


def test_a_fast_line_gets_all_it_can_carry():
    window, most = Window(), []

    def speed(now_s):
        most.append(window.limit_bytes)
        return 1e9 if now_s < 1 else 4000

    carry(window, speed, 400)
    assert max(most) == MOST_BYTES
    assert window.limit_bytes == LEAST_BYTES, "and less when it grows slow"
    assert window.land(999_999, 0.0) is None
