"""What the whole box costs and carries: CPU a reading, readings a second, memory, start.

Owns: the sizes of these figures. Promises: journal on a real disk with its shipped settings, quality and rules on,
delivered to a real mosquitto and counted at a subscriber; a lost reading leaves no figure. Never: tunes the gateway
for a figure.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from msgspec import Struct
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from hil.bench import Figure, figure
from hil.bench.child import ENVIRONMENT, peak_mib, until
from hil.bench.runs import QUIET, Ran, bare, gateway, highest, place
from hil.bench.site import Load
from hil.broker import Broker
from hil.demo import CONFIG, START
from hil.rig import Rig


class Size(Struct, frozen=True, kw_only=True):
    """How long and how much; `QUICK` only shows that it runs."""

    steady: Load = Load(hosts=20, units=1, grouped=True)
    steady_s: float = 20.0
    warm_up_s: float = 3.0
    windows_s: float = 62.0
    """Until every point's window is full and the detector has its whole work."""
    commit_s: float = 10.0
    """As shipped; the crowd's runs commit each second, so that a growing backlog shows."""
    crowd: Load = Load(hosts=200, units=1, grouped=True)
    bare_crowd: Load = Load(hosts=4, units=50)
    """As many devices for the bare script, behind as few hosts as it has threads for."""
    crowd_s: float = 5.0
    crowd_rate: float = 60_000.0
    """At which its memory is measured, with the detector until every point's window is full."""
    crowd_warm_up_s: float = 2.0
    crowd_start: float = 250_000.0
    bare_start: float = 250_000.0
    climbs: int = 2
    demo_s: float = 10.0
    starts: int = 3


QUICK = Size(steady=Load(hosts=2, units=1, registers=10, period_s=0.2), steady_s=1.0, warm_up_s=0.2, windows_s=0.2,
             commit_s=0.5, crowd=Load(hosts=2, units=2, registers=10, grouped=True),
             bare_crowd=Load(hosts=2, units=2, registers=10), crowd_s=1.0, crowd_rate=2000.0,
             crowd_warm_up_s=0.2, crowd_start=200.0, bare_start=200.0, climbs=0, demo_s=1.0, starts=1)
LIBRARIES = ("import ssl, sqlite3, numpy, msgspec, yaml, paho.mqtt.client, pymodbus.framer.rtu, "
             "pymodbus.pdu.register_message, serial, gpiozero")
_LIBRARIES = "reference: Python with the libraries imported"
WINDOW = 60
"""Readings the detector keeps of each point, 8 bytes each (`anomaly.WINDOW`; the rig looks from outside)."""
_ON_TIME = 0.99
_BEHIND_S = 1.5
"""The commit interval of these runs is 1 s; what keeps up is not further behind than that and a message's way."""
_PUBLISH = """
import json, sys
import paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_connect = lambda *_: client.publish("bare/1", json.dumps({"unit": 1, "values": [1]}), qos=1)
client.on_publish = lambda *_: client.disconnect()
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


def figures(quick: bool) -> Iterator[Figure]:
    """Measure all of the family, one after another."""
    size = QUICK if quick else Size()
    libraries = _libraries_mib()
    yield from _steady(size, libraries)
    yield _rate(size)
    yield from _crowd(size, libraries)
    yield _demo(size, libraries)
    yield _start(size)


def _steady(size: Size, libraries: float) -> Iterator[Figure]:
    """CPU and memory of a usual site, without and with the detector."""
    load, peaks = size.steady, list[float]()
    reference = bare(load, warm_up_s=size.warm_up_s / 2, seconds=size.steady_s / 4).cpu_s_per_1000
    for name, detector, warm_up_s, goal in (
            ("box.cpu_s_per_1000", False, size.warm_up_s, "<= 0.010"),
            ("box.cpu_s_per_1000_detector", True, size.windows_s, "<= 0.013")):
        ran = gateway(load, detector=detector, commit_s=size.commit_s, warm_up_s=warm_up_s, seconds=size.steady_s)
        whole = ran.whole(load.registers)
        peaks.append(ran.peak_mib)
        yield figure(name, ran.cpu_s_per_1000 if whole else None, "CPU s", reference, goal,
                     f"{load.devices} hosts x {load.registers} registers, {load.rate:g} readings/s for "
                     f"{ran.seconds:.0f} s, detector {'on' if detector else 'off'}; {ran.answered} on the wire, "
                     f"{ran.lost} lost; peak {ran.peak_mib:.1f} MiB; reference: bare script")
    yield figure("box.rss_mib", max(peaks), "MiB", libraries, "<= 64",
                 f"peak of the two runs above: {peaks[0]:.1f} without the detector, {peaks[1]:.1f} with it; "
                 f"{_LIBRARIES}")


def _crowd(size: Size, libraries: float) -> Iterator[Figure]:
    """Memory of the largest site, from the start to the last of its readings, without and with the detector."""
    load = size.crowd.at(size.crowd_rate)
    window_mib = load.devices * load.registers * WINDOW * 8 / (1 << 20)
    for name, detector, goal_mib in (("box.rss_crowd_mib", False, 96.0),
                                     ("box.rss_crowd_detector_mib", True, 96.0 + window_mib)):
        ran = gateway(load, detector=detector, commit_s=1.0, seconds=size.crowd_warm_up_s,
                      warm_up_s=load.period_s * (WINDOW + 2) if detector else size.crowd_warm_up_s)
        yield figure(name, ran.peak_mib if ran.whole(load.registers) else None, "MiB", libraries, f"<= {goal_mib:.0f}",
                     f"{load.devices} devices x {load.registers} registers behind {load.hosts} hosts, "
                     f"{load.rate:g} readings/s, detector {'on' if detector else 'off'}; {ran.lost} lost"
                     + f"; its windows are {window_mib:.1f} MiB of the goal" * detector + f"; {_LIBRARIES}")


def _rate(size: Size) -> Figure:
    load = size.crowd

    def good(ran: Ran) -> bool:
        return ran.whole(load.registers) and ran.on_time >= _ON_TIME and ran.behind_s <= _BEHIND_S

    def search(run: Callable[..., Ran], load: Load, start: float) -> tuple[float, list[tuple[float, Ran]]]:
        return highest(lambda rate: run(load.at(rate), warm_up_s=size.crowd_warm_up_s, seconds=size.crowd_s),
                       good, start, climbs=size.climbs)

    best, tried = search(partial(gateway, commit_s=1.0), load, size.crowd_start)
    reference, _ = search(bare, size.bare_crowd, size.bare_start)
    bound = "" if any(not good(ran) for _, ran in tried) else "a lower bound: no rate tried was too high; "
    steps = ", ".join(f"{rate:.0f}: {'good' if good(ran) else f'{_trouble(ran)}'}"
                      f" ({ran.cpu_s / ran.seconds:.2f} CPU)" for rate, ran in tried)
    peak = max(ran.peak_mib for _, ran in tried)
    return figure("box.max_readings_per_s", best or None, "readings/s", reference or None, ">= 60000",
                  f"{bound}{load.devices} devices x {load.registers} registers behind {load.hosts} hosts, commit 1 s, "
                  f"detector off; devices, broker and subscriber on the same cores; reference: bare script, "
                  f"{size.bare_crowd.hosts} threads; tried {steps}; peak {peak:.0f} MiB")


def _trouble(ran: Ran) -> str:
    return f"{ran.on_time:.1%} on time, {ran.lost} lost, {ran.behind_s:.1f} s behind"


def _demo(size: Size, libraries: float) -> Figure:
    with place() as (folder, _), Rig(CONFIG, folder) as rig:
        _healthy(rig)
        rig.start()
        rig.wait("the first reading", lambda: rig.county.counters().readings, 30)
        began_s = time.monotonic()
        for share, deed in ((0.1, lambda: rig.slaves["crack"].set("displacement", 70.0)), (0.3, rig.network.cut),
                            (0.5, rig.network.restore), (0.6, rig.slaves["rain"].unplug),
                            (0.8, rig.slaves["rain"].plug), (1.0, lambda: None)):
            time.sleep(max(0.0, began_s + share * size.demo_s - time.monotonic()))
            deed()
        peak = peak_mib(rig.gateway.pid)
    return figure("box.rss_demo_mib", peak, "MiB", libraries, "<= 64",
                  f"peak on the demo's site for {size.demo_s:g} s with an alarm, a cut network and an unplugged "
                  f"sensor; {_LIBRARIES}")


def _libraries_mib() -> float:
    said = subprocess.run(
        [sys.executable, "-c", f"{LIBRARIES}\nprint(open('/proc/self/status').read())"], env=ENVIRONMENT, check=True,
        capture_output=True, text=True).stdout
    return next(int(line.split()[1]) / 1024 for line in said.splitlines() if line.startswith("VmHWM:"))


def _healthy(rig: Rig) -> None:
    for device, values in START.items():
        for point, value in values.items():
            rig.slaves[device].set(point, value)
    rig.pins.drive(23, "high")
    rig.pins.drive(24, "high")


def _start(size: Size) -> Figure:
    took = [_first_publish_s() for _ in range(size.starts)]
    reference = statistics.median(_bare_publish_s() for _ in range(size.starts))
    return figure("box.first_publish_s", statistics.median(took), "s", reference, "<= 1.0",
                  f"before the fork to the first `data` message at a subscriber, demo's site, median of {size.starts} "
                  f"({min(took):.2f} to {max(took):.2f}); reference: bare Python that connects and publishes")


class _First:
    """When the first message of a topic arrives; a context manager."""

    def __init__(self, port: int, topic: str) -> None:
        self.at_s: float | None = None
        self._ready = threading.Event()
        self._client = client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.on_connect = lambda *_: client.subscribe(topic, 1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._take
        client.connect("127.0.0.1", port)

    def _take(self, _client: Client, _data: Any, message: Any) -> None:
        if self.at_s is None and json.loads(message.payload):
            self.at_s = time.monotonic()

    def __enter__(self) -> Self:
        self._client.loop_start()
        if not self._ready.wait(10):
            raise TimeoutError("no subscription within 10 s")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def since(self, start_s: float) -> float:
        """Wait for it; seconds since `start_s`."""
        if not until(lambda: self.at_s is not None, 30, 0.002) or self.at_s is None:
            raise TimeoutError("nothing was published within 30 s")
        return self.at_s - start_s


def _first_publish_s() -> float:
    with place() as (folder, _), Rig(CONFIG, folder) as rig, _First(rig.broker.port, "+/1/+/data") as first:
        _healthy(rig)
        rig.start()
        rig.wait("the first message", lambda: first.at_s, 30)
        rig.kill()   # how it stops is not asked here
        return first.since(rig.started_s)


def _bare_publish_s() -> float:
    with place() as (folder, _), Broker(folder=folder / "broker", settings=QUIET) as broker, \
            _First(broker.port, "bare/#") as first:
        start_s = time.monotonic()
        script = Path(folder / "publish.py")
        script.write_text(_PUBLISH, encoding="utf-8")
        subprocess.run([sys.executable, str(script), str(broker.port)], check=True, timeout=30, env=ENVIRONMENT)
        return first.since(start_s)
