"""`mingluo plan`: what it reckons is what a running box costs, and it refuses what would not fit."""

from __future__ import annotations

import json
import math
import random
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from gateway import client, site
from gateway.journal.journal import Journal
from gateway.judgement.report import Thinning
from gateway.model import SAMPLE, Door, Inventory, InventoryPoint
from gateway.plan import MB, budget
from gateway.plan.flash import Rows, day_bytes
from gateway.plan.text import lines
from gateway.plan.timeline import Commit, Timeline, play, streams
from gateway.plan.upstream import HEADERS, MONTH_S, RECONNECTS_DAY, on_wire, ping, typical
from hil.broker import Broker, free_port
from hil.certificates import Authority
from hil.proxy import Proxy
from hil.rig import Rig

ROOT = Path(__file__).resolve().parent.parent


def mingluo(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, check=False,
                          timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def changed(folder: Path, name: str = "gateway.yaml", **sections) -> Path:
    """A shipped configuration with keys of its sections changed."""
    made = yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))
    for section, keys in sections.items():
        target = made[section][0] if isinstance(made[section], list) else made.setdefault(section, {})
        target |= keys
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(made, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def reckoned(path: Path):
    return budget(site.load(path), site.library(path))


# --- what people see


@pytest.mark.parametrize("name", ["gateway.yaml", "demo.yaml"])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_shipped_sites_fit(name, lang):
    done = mingluo("plan", str(ROOT / "config" / name), "--lang", lang)
    assert done.returncode == 0, done.stdout
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith({"zh": "结论：可以", "en": "verdict: good"}[lang])
    assert {"zh": "线路 bus-a", "en": "wire bus-a"}[lang] in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140


def test_the_document_says_what_the_wire_carries():
    document = json.loads(mingluo("plan", str(ROOT / "config/gateway.yaml"), "--json").stdout)
    assert document["good"]
    bus = document["loads"][0]
    keys = ("device", "function", "first", "count", "points", "poll_s")
    assert [tuple(request[key] for key in keys) for request in bus["requests"]] == [
        ("rain", 3, 0, 1, ["total"], 10.0), ("crack", 3, 0, 1, ["displacement"], 10.0)]
    char_ms = 10_000 / 9600
    assert bus["requests"][0]["ms"] == pytest.approx(3.5 * char_ms + 10 + 15 * char_ms)
    assert bus["share"] == pytest.approx(2 * bus["requests"][0]["ms"] / 10_000)
    assert document["upstreams"][0]["bytes"] == pytest.approx(sum(document["upstreams"][0]["parts"].values()))


@pytest.mark.parametrize(("sections", "line", "zh", "en"), [
    ({"gateway": {"sim_mb_month": 30}}, "sim_mb_month:", "SIM 卡 30 MB", "the SIM's 30 MB"),
    ({"journal": {"commit_s": 1}}, "journal:", "commit_s 改为", "make commit_s"),
    ({"wires": {"serial": {"baud": 1200}, "turnaround_ms": 1000, "answer_timeout_ms": 5000}}, "devices:",
     "轮询占用", "of the wire's time"),
])
def test_what_does_not_fit_is_refused_with_what_to_do(tmp_path, sections, line, zh, en):
    path = changed(tmp_path, **sections)
    if "wires" in sections:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("poll_s: 10", "poll_s: 1"), encoding="utf-8")
    done = mingluo("plan", str(path))
    assert (done.returncode, "结论：不行" in done.stdout, zh in done.stdout) == (1, True, True), done.stdout
    done = mingluo("plan", str(path), "--lang", "en")
    assert (done.returncode, "verdict: refused" in done.stdout, en in done.stdout) == (1, True, True), done.stdout
    assert not json.loads(mingluo("plan", str(path), "--json").stdout)["good"]
    # `check` says the same with the line; the service itself would start
    said = mingluo("check", str(path))
    assert (said.returncode, en in said.stderr) == (1, True)
    number = int(said.stderr.split(f"{path}:")[1].split(":")[0])
    assert line in "".join(path.read_text(encoding="utf-8").splitlines()[number - 2:number])
    assert site.load(path).gateway.id


def test_a_device_without_rest_is_said_in_both_languages(tmp_path):
    path = changed(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("poll_s: 2", "poll_s: 0.4"), encoding="utf-8")
    assert "gas 轮询太密" in mingluo("plan", str(path)).stdout
    assert "gas is polled faster than it can answer" in mingluo("plan", str(path), "--lang", "en").stdout


def test_following_the_advice_makes_it_fit(tmp_path):
    """The number in the message is enough, and not much more than enough."""
    path = changed(tmp_path, gateway={"sim_mb_month": 150})
    (excess,) = reckoned(path).excesses
    card = int(excess.en.rpartition("take a SIM of ")[2].split()[0])
    assert reckoned(changed(tmp_path, gateway={"sim_mb_month": card + 1})).excesses == ()
    assert reckoned(changed(tmp_path, gateway={"sim_mb_month": card - 1})).excesses != ()
    (excess,) = reckoned(changed(tmp_path, journal={"flash_mb_day": 30})).excesses
    card = int(excess.en.rpartition("flash_mb_day to ")[2])
    assert reckoned(changed(tmp_path, journal={"flash_mb_day": card})).excesses == ()
    assert reckoned(changed(tmp_path, journal={"flash_mb_day": card - 1})).excesses != ()


def test_a_broken_file_is_said_as_check_says_it(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\n", encoding="utf-8")
    done = mingluo("plan", str(path))
    assert done.returncode == 1
    assert "gateway.yaml:1" in done.stderr


def test_a_day_of_alarm_costs_as_if_everything_were_reported(tmp_path):
    quiet = reckoned(ROOT / "config/gateway.yaml")
    path = changed(tmp_path, journal={"commit_s": 1})
    made = yaml.safe_load(path.read_text(encoding="utf-8"))
    for watched in made["objects"]:
        for point in watched["points"]:
            point["report"] = {"every_s": 0}
    path.write_text(yaml.safe_dump(made, allow_unicode=True, sort_keys=False), encoding="utf-8")
    loud = reckoned(path)
    assert quiet.alert_bytes_day == pytest.approx(loud.upstreams[0].bytes / 30, rel=1e-4)
    assert quiet.alert_bytes_day > 2 * quiet.upstreams[0].bytes / 30


def test_polling_is_not_reporting(tmp_path):
    often = changed(tmp_path)
    text = often.read_text(encoding="utf-8").replace("poll_s: 10", "poll_s: 1")
    before = reckoned(often)
    often.write_text(text, encoding="utf-8")
    after = reckoned(often)
    assert after.loads[0].share == pytest.approx(10 * before.loads[0].share)
    assert after.readings_day == pytest.approx(before.readings_day, rel=0.02)


# --- when


def test_reports_are_those_of_the_real_thinning(tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    config = site.load(ROOT / "config/gateway.yaml")
    plain = config.objects[0].points[0]
    for _ in range(30):
        poll_s, every_s = rng.choice([0.5, 1, 2, 7, 10]), rng.choice([0, 1, 5, 10, 12, 25, 60])
        phase_s = poll_s * rng.randint(1, 4) / 4 % poll_s
        point = msgspec.structs.replace(plain, poll_s=poll_s, report=msgspec.structs.replace(
            plain.report, every_s=every_s, change=None))
        thinning = Thinning([point])
        samples = np.zeros(1, SAMPLE)
        polls = [0.0, *np.arange(phase_s or poll_s, 1200, poll_s)]
        real = sum(thinning.quiet(slice(0, 1), samples, t, by_change=False) is not None for t in polls)
        (stream,) = streams(poll_s, phase_s, [(0, every_s)])
        ours = math.ceil((1200 - stream.start_s) / stream.period_s)
        assert abs(ours - real) <= 2, (poll_s, every_s, phase_s)


def test_commits_are_those_of_the_real_journal(tmp_path):
    """The same readings through the journal on a clock of our own: as many commits, with and without readings."""
    found = [*streams(10, 3, [(0, 60), (1, 60)]), *streams(2, 1, [(2, 30)]), *streams(7, 0, [(3, 0)])]
    ours = play(found, 4, 5.0, delivered=True)
    seconds = 900
    times = sorted((float(t), stream.points) for stream in found
                   for t in np.arange(stream.start_s, seconds, stream.period_s))
    real = drive(tmp_path, [(t, len(points)) for t, points in times], commit_s=5.0)
    # the journal's very first row closes sooner; a minute later nothing is left of that
    expected = [(c.at_s, c.readings) for c in ours.commits if 60 < c.at_s < seconds - 10]
    steady = [(at, readings) for at, readings in real if 60 < at < seconds - 10]
    assert len(expected) > 200
    assert [n for _, n in expected] == [n for _, n in steady]
    assert [at for at, _ in expected] == pytest.approx([at for at, _ in steady], abs=0.2)


def drive(folder: Path, scans, *, commit_s: float) -> list[tuple[float, int]]:
    """Let a journal take scans at its own times; (when, how many readings) of each commit."""
    clock = [0.0]
    journal = Journal(folder / "state", folder / "staging", "gw", boot="b", now=lambda: clock[0],
                      new_epoch=lambda: secrets.token_hex(8), platforms=["county"], commit_s=commit_s)
    journal.open()
    door = Door("b", 0, "synced")
    number = journal.adopt(Inventory(0, points_of(8)))
    reader, commits = journal.reader("county"), []
    journal.write(0.0)
    waiting = list(scans)
    while waiting:
        while waiting and waiting[0][0] <= clock[0]:
            count = waiting.pop(0)[1]
            samples = np.zeros(count, SAMPLE)
            samples["t_ms"] = round(clock[0] * 1000)
            journal.record(door, number, samples)
        if journal.write(0.0):
            rows = reader.pending(("data",), limit=1000)
            commits.append((clock[0], sum(row.count for row in rows)))
            for row in rows:
                reader.settle(row.epoch, row.lane, [row.seq])
        clock[0] = round(clock[0] + 0.1, 6)
    journal.close()
    return commits


def points_of(count: int) -> tuple[InventoryPoint, ...]:
    return tuple(InventoryPoint(point=f"p{n}", name="x", object="o", unit="mm", resolution=0.01, poll_s=10,
                                report_every_s=60, low=0, high=1000) for n in range(count))


# --- the card


def written() -> int:
    """Bytes this process has caused to be written to a disk."""
    counts = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in counts if line.startswith("write_bytes"))


@pytest.mark.parametrize(("per_commit", "quota", "warm_up"), [(2, 1 << 23, 100), (100, 1 << 21, 2500),
                                                              (300, 1 << 22, 1800), (1500, 1 << 23, 900)])
def test_the_card_gets_what_was_reckoned(per_commit, quota, warm_up):
    """Against the kernel's count, on a disk, with the journal's own settings; full journals, as they will be."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, tempfile.TemporaryDirectory(dir="/dev/shm") as staging:
        clock = [0.0]
        journal = Journal(name, staging, "gw", boot="b" * 32, now=lambda: clock[0], commit_s=10.0, max_bytes=quota,
                          new_epoch=lambda: secrets.token_hex(8), platforms=["county"])
        journal.open()
        inventory = Inventory(0, points_of(per_commit))
        number, door = journal.adopt(inventory), Door("b" * 32, 1_790_000_000_000, "synced")
        reader = journal.reader("county")
        rng = np.random.default_rng(7)

        def cycle(only_cursor: bool) -> None:
            samples = typical(inventory, per_commit)
            samples["value"] = np.round(rng.uniform(0, 1000, per_commit), 2)
            samples["t_ms"] += round(clock[0] * 1000)
            journal.record(door, number, samples)
            clock[0] += 10.001
            assert journal.write(0.0)
            for row in reader.pending(("data",), limit=1000):
                reader.settle(row.epoch, row.lane, [row.seq])
            if only_cursor:
                clock[0] += 10.001
                assert journal.write(0.0)

        for _ in range(warm_up):
            cycle(only_cursor=False)
        before = written()
        for _ in range(200):
            cycle(only_cursor=True)
        real = (written() - before) / 200
        journal.close()
    assert real > 8192, "a disk that counts nothing proves nothing"
    commits = (Commit(10.0, per_commit), Commit(20.0, 0))
    ours = day_bytes(Timeline(20.0, commits, np.zeros(1)), Rows(typical(inventory, 1024))) * 20 / 86400
    print(f"{per_commit} readings: {real:.0f} bytes written, {ours:.0f} reckoned, {ours / real:.3f}")
    assert ours == pytest.approx(real, rel=0.3)


# --- the SIM


def on_line(sock: socket.socket) -> int:
    """Bytes of all IP packets of a connection, both ways, by the kernel's count (struct tcp_info)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    acked, received = struct.unpack_from("<QQ", info, 120)
    segments = sum(struct.unpack_from("<II", info, 136))
    return acked + received + HEADERS * segments


@pytest.mark.timing
def test_the_sim_carries_what_was_reckoned(tmp_path):
    """A running box, a real broker, one platform in the clear and one by TLS, counted packet by packet."""
    ca = Authority(tmp_path / "ca")
    server, own = ca.issue("server", server=True), ca.issue("demo")
    tls_port, city_port = free_port(), free_port()
    made = yaml.safe_load((ROOT / "config/demo.yaml").read_text(encoding="utf-8"))
    common = {"host": "127.0.0.1", "warn_every_s": 2, "diag_every_s": 10}
    made["platforms"] = [
        {"id": "county", "port": free_port(), **common},
        {"id": "city", "port": city_port, "client_id": "city", **common,
         "tls": {"ca_file": str(ca.cert), "cert_file": str(own.cert), "key_file": str(own.key)}}]
    made["gateway"]["root"] = "mingluo"
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(made, allow_unicode=True), encoding="utf-8")
    rig = Rig(tmp_path / "site.yaml", tmp_path / "box", turnaround_s=0.002)
    rig.broker = Broker(folder=tmp_path / "box/broker", prefer="mosquitto", settings=(
        f"listener {tls_port} 127.0.0.1\ncafile {ca.cert}\ncertfile {server.cert}\nkeyfile {server.key}\n"
        "allow_anonymous true\nrequire_certificate true"))
    with rig, Proxy(("127.0.0.1", tls_port), city_port) as city:
        rig.slaves["crack"].set("displacement", 5.0)
        rig.slaves["gas"].set("concentration", 1.0)
        rig.pins.drive(23, "high")
        rig.pins.drive(24, "high")
        rig.start()
        rig.wait("readings", lambda: rig.county.counters().readings > 10 and city.clients(), 30)
        time.sleep(4)   # what a connection begins with is over
        lines_ = {"county": rig.network.clients()[0], "city": city.clients()[0]}
        opened = {name: on_line(sock) for name, sock in lines_.items()}
        began_s = time.monotonic()
        time.sleep(10)   # one diag
        took_s = time.monotonic() - began_s
        real = {name: on_line(sock) - opened[name] for name, sock in lines_.items()}
        status = client.ask(str(tmp_path / "box/run/control.sock"), {"do": "status"}, timeout_s=10)
        plan = reckoned(rig.config)
        config = site.load(rig.config)
    for one in plan.upstreams:
        ours = sum(one.parts[part] for part in ("data", "warn", "diag", "ping")) / MONTH_S * took_s
        print(f"{one.platform}: {real[one.platform]} bytes in {took_s:.2f} s, {ours:.0f} reckoned, "
              f"{ours / real[one.platform]:.3f}; until then {opened[one.platform]}")
        print({part: round(value / MONTH_S * 10) for part, value in one.parts.items()}, len(json.dumps(
            status, ensure_ascii=False, separators=(",", ":")).encode()))
        assert ours == pytest.approx(real[one.platform], rel=0.15)
        # what a connection begins with: what there was until the window opened, less what went on since it stood
        stood_s = began_s - next(p["since_s"] for p in status["platforms"] if p["platform"] == one.platform)
        began = opened[one.platform] - (one.parts["data"] + one.parts["warn"]) / MONTH_S * stood_s \
            - one.parts["diag"] / MONTH_S * config.platforms[0].diag_every_s
        connect = one.parts["connect"] / (RECONNECTS_DAY * 30)
        print(f"connecting: about {began:.0f} bytes, {connect:.0f} reckoned")
        assert connect == pytest.approx(began, rel=0.35)


def test_a_message_costs_its_headers_too():
    # PUBLISH of 10 bytes to a topic of 4: 2 + 2 + 4 + 2 + 10 and 52; PUBACK 4 and 52; its acknowledgement 52
    assert on_wire(10, 4, is_5=False, tls=False) == 20 + 52 + 4 + 52 + 52
    assert on_wire(10, 4, is_5=True, tls=True) == 21 + 22 + 52 + 4 + 22 + 52 + 52
    assert on_wire(3000, 4, is_5=False, tls=False) == 3011 + 3 * 52 + 52 + 4 + 52 + 52
    assert ping(tls=False) == 2 * (2 + 52) + 52


def test_lines_name_every_excess(tmp_path):
    plan = reckoned(changed(tmp_path, gateway={"sim_mb_month": 1}, journal={"flash_mb_day": 1}))
    for lang in ("zh", "en"):
        assert len([line for line in lines(plan, lang) if line.startswith("  - ")]) == 2
    assert plan.flash_bytes_day > MB
