"""The contract as documents: every message of a running box fits it, every example, and nothing that is broken."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from hil.rig import Rig
from tests.sites import site
from tests.uplink_site import read

ROOT = Path(__file__).parent.parent
FILE = ROOT / "config/contract/asyncapi.yaml"
TEXT = (ROOT / "gateway/uplink/CONTRACT.md").read_text(encoding="utf-8")
DOCUMENT = yaml.safe_load(FILE.read_text(encoding="utf-8"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mingluo-asyncapi"


def patterns():
    """Topic below {root}/1/{gateway} as a pattern → the schemas that may stand there."""
    out = {}
    for channel in DOCUMENT["channels"].values():
        topic = channel["address"].removeprefix("{root}/1/{gateway}/")
        names = [m["$ref"].rsplit("/", 1)[1] for m in channel["messages"].values()]
        out[re.compile(re.sub(r"\{\w+\}", "[^/]+", topic))] = names
    return out


PATTERNS = patterns()


def faults(topic, body):
    """What is wrong with a message; empty when it fits a schema of its topic."""
    names = next((names for pattern, names in PATTERNS.items() if pattern.fullmatch(topic)), None)
    if names is None:
        return [f"no channel for {topic}"]
    if topic == "cmd/replay":
        names = ["replay"]
    out = []
    for name in names:
        schema = {**DOCUMENT, "$ref": f"#/components/schemas/{name}"}
        errors = [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(body)]
        if not errors:
            return []
        out += errors
    return out


def examples():
    found = re.findall(r"^`\{…\}/([^`]+)`\s.*?```json\n(.*?)\n```", TEXT, re.S | re.M)
    return {topic: json.loads(text) for topic, text in found}


@pytest.mark.parametrize("topic", examples())
def test_every_example_fits_and_a_broken_one_does_not(topic):
    body, where = examples()[topic], topic.split(",")[0]
    assert faults(where, body) == []
    schema = DOCUMENT["components"]["schemas"]
    required = set.union(*(set(schema[n]["required"]) for p, names in PATTERNS.items() if p.fullmatch(where)
                           for n in names if topic == "cmd/replay" or n != "replay"))
    for key in required & set(body):
        assert faults(where, {k: v for k, v in body.items() if k != key}), f"without {key}"
    assert faults(where, body | {"v": 2})


@pytest.mark.parametrize(("topic", "path", "wrong"), [
    ("data", ("rows", 0, "readings", 0, "quality"), 7), ("data", ("rows", 0, "readings", 0, "value"), "12"),
    ("data", ("rows", 0, "seq"), -1), ("data", ("covers",), [1]), ("event", ("rows", 0, "events", 0, "colour"), "pink"),
    ("event", ("lane",), "news"), ("warn/slope", ("clock", "trust"), "perhaps"),
    ("stored", ("streams", 0, "up_to"), -1),
    ("stored", ("streams", 0, "ranges"), [[1, 2, 3]]), ("cmd/replay", ("ranges",), []), ("state", ("online",), "yes"),
    ("inventory/7", ("points", 0, "resolution"), "fine"), ("data, compact", ("rows", 0, "scans"), [[0, 0]])])
def test_a_wrong_value_is_refused(topic, path, wrong):
    body = examples()[topic]
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = wrong
    assert faults(topic.split(",")[0], body)


@pytest.mark.parametrize("form", [{}, {"compact": True, "compress": True}], ids=["plain", "compact"])
def test_every_message_of_a_running_box_fits(tmp_path, form):
    path = site(tmp_path / "site")
    made = yaml.safe_load(path.read_text(encoding="utf-8"))
    made["platforms"][0] |= form | {"commands": ["silence"], "time": True, "diag_every_s": 10}
    path.write_text(yaml.safe_dump(made, allow_unicode=True), encoding="utf-8")
    seen, bad = {}, []

    def take(_client, _data, message):
        topic = message.topic.split("/", 3)[3]
        seen.setdefault(topic.split("/")[0], 0)
        seen[topic.split("/")[0]] += 1
        bad.extend((topic, fault) for fault in faults(topic, read(message.payload)))

    with Rig(path, tmp_path / "box", turnaround_s=0.002) as rig:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.on_message = take
        client.on_connect = lambda *_: client.subscribe("mingluo/1/#", 1)
        client.connect("127.0.0.1", rig.broker.port)
        client.loop_start()
        rig.slaves["crack"].set("displacement", 5.0)
        rig.start()
        rig.wait("live readings", lambda: seen.get("data"))
        rig.slaves["crack"].set("displacement", 61.5)
        rig.wait("an alarm", lambda: seen.get("event") and seen.get("warn", 0) > 2)
        base = "mingluo/1/box-1/"
        client.publish(base + "cmd/silence", json.dumps({"v": 1, "id": "c1", "by": "x", "expires": 1}))
        client.publish(base + "cmd/replay", json.dumps({"v": 1, "id": "c2", "epoch": "e", "lane": "data",
                                                        "ranges": [[1, 2]]}))
        rig.wait("answers", lambda: seen.get("resp", 0) == 2)
        births = seen["birth"]
        rig.kill()
        rig.start()
        rig.wait("a second life", lambda: seen["birth"] > births)
        states = seen["state"]
        assert rig.stop() == 0
        rig.wait("the last word", lambda: seen["state"] > states)
        client.disconnect()
        client.loop_stop()
    print(seen)
    assert not bad, bad[:5]
    assert {"state", "birth", "inventory", "data", "event", "warn", "diag", "resp"} <= set(seen)


def parser():
    """The real parser, from npm, locked; installed once into the user's cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: the AsyncAPI parser is written in JavaScript")
    source = ROOT / "tests/asyncapi"
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "parse.mjs"):
        shutil.copy(source / name, CACHE / name)
    if not (CACHE / "node_modules/@asyncapi/parser").exists():
        made = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=CACHE, text=True,
                              capture_output=True, check=False, timeout=240)
        if made.returncode:
            pytest.skip(f"npm cannot install the AsyncAPI parser: {made.stderr[-300:]}")
    return CACHE / "parse.mjs"


def test_the_real_parser_reads_the_document():
    said = subprocess.run(["node", parser(), FILE], text=True, capture_output=True, check=True, timeout=60).stdout
    assert f"parsed 3.0.0 {len(DOCUMENT['channels'])} channels {len(DOCUMENT['operations'])} operations" in said
    assert not re.search(r"^[01] ", said, re.M), said
