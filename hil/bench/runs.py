"""One measured run of a program under load: the gateway, or the bare script, over the same devices and broker.

Owns: the processes of a run and its count. Promises: what the devices answered is compared with what arrived at a
subscriber, device by device's own numbers; the measured program's own word is not asked. Never: shares a process with
what is measured.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from hil.bench.child import ENVIRONMENT, Child, cpu_s, peak_mib, until
from hil.bench.site import Load, load_site, write
from hil.broker import Broker

DISK = Path("/var/tmp")
"""Not wiped at boot, so never a tmpfs (FHS 5.15): a commit there is a commit."""
QUIET = "log_type none"
"""Overrides the broker's wish to log every message."""

LOG = "run.log"


class Ran(Struct, frozen=True, kw_only=True):
    """What a run came to."""

    readings: int
    """Answered within the window."""
    seconds: float
    cpu_s: float
    """Of the measured process within the window."""
    peak_mib: float
    answered: int
    """Readings the devices put on the wire, start to end."""
    delivered: int
    """Readings that arrived at the subscriber."""
    numbers: int
    """Different answers that arrived."""
    on_time: float
    """Share of the due polls that were answered within the window."""
    behind_s: float
    """How much of the load had not arrived when the window closed."""
    backlog: int
    """Readings that came late, by the other topic."""

    @property
    def lost(self) -> int:
        """Readings that never arrived; negative when some came twice."""
        return self.answered - self.delivered

    def whole(self, registers: int) -> bool:
        """Whether every answer arrived, once and in full."""
        return self.lost == 0 and self.numbers * registers == self.answered

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds for 1 000 readings."""
        return 1000 * self.cpu_s / self.readings


class Place(NamedTuple):
    """Where a run happens."""

    folder: Path
    staging: Path
    """In memory where the machine has it, as /run is."""


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Make scratch folders on a real disk (and in memory), and remove them."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    disk = DISK if DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="mingluo-bench-", dir=disk) as folder, \
            tempfile.TemporaryDirectory(prefix="mingluo-bench-", dir=memory) as staging:
        yield Place(Path(folder), Path(staging))


def log_end(folder: Path) -> str:
    """Return the end of what the measured program has logged."""
    return f"{folder / LOG} ends: {(folder / LOG).read_text(errors='replace')[-2000:]}"


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a folder; at the end it is stopped, in order if it will."""
    with (folder / LOG).open("ab") as out:
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=out, stderr=out)
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"the program ended with {process.returncode}; {log_end(folder)}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def gateway(load: Load, *, warm_up_s: float, seconds: float, commit_s: float = 10.0, detector: bool = False) -> Ran:
    """Run the gateway under load."""
    with place() as (folder, staging):
        def command(ports: list[int], mqtt_port: int) -> list[str]:
            site = load_site(load, ports, mqtt_port, folder, staging, commit_s=commit_s, detector=detector)
            return [sys.executable, "-m", "gateway", "run", write(folder, site, load.registers).name]

        return _run(load, folder, command, warm_up_s, seconds)


def bare(load: Load, *, warm_up_s: float, seconds: float) -> Ran:
    """Run the bare script under the same load."""
    with place() as (folder, _):
        def command(ports: list[int], mqtt_port: int) -> list[str]:
            hosts = [f"127.0.0.1:{port}" for port in ports]
            return [sys.executable, "-m", "hil.bench.bare", str(load.units), str(load.registers), str(load.period_s),
                    str(mqtt_port), *hosts]

        return _run(load, folder, command, warm_up_s, seconds)


def _run(load: Load, folder: Path, command: Callable[[list[int], int], list[str]], warm_up_s: float,
         seconds: float) -> Ran:
    with Broker(folder=folder / "broker", settings=QUIET) as broker, \
            Child("hil.bench.devices", load.hosts, load.units, load.registers) as devices, \
            Child("hil.bench.counter", broker.port) as counter, \
            started(command(devices.hello["ports"], broker.port), folder) as process:
        if not until(lambda: process.poll() is not None or devices.ask("count")["answers"] >= load.devices, 60):
            raise RuntimeError("no answers within 60 s; " + log_end(folder))
        if process.poll() is not None:
            raise RuntimeError(f"the program ended with {process.returncode}; " + log_end(folder))
        time.sleep(warm_up_s)
        cpu, begin = cpu_s(process.pid), devices.ask("count")
        time.sleep(seconds)
        end, used = devices.ask("count"), cpu_s(process.pid) - cpu
        there = counter.ask("count")
        last = devices.ask("mute")
        answered = last["answers"] * load.registers
        until(lambda: counter.ask("count")["readings"] >= answered or process.poll() is not None, 25)
        time.sleep(0.2)   # what comes twice would come now
        final, peak = counter.ask("count"), peak_mib(process.pid)
    took_s = end["at_s"] - begin["at_s"]
    done = end["answers"] - begin["answers"]
    return Ran(readings=done * load.registers, seconds=took_s, cpu_s=used, peak_mib=peak, answered=answered,
               delivered=final["readings"], numbers=final["numbers"], backlog=final["backlog"],
               on_time=done / (took_s / load.period_s * load.devices),
               behind_s=(end["answers"] * load.registers - there["readings"]) / load.rate)


def highest(run: Callable[[float], Ran], good: Callable[[Ran], bool], start: float, *, step: float = 1.25,
            climbs: int = 2, falls: int = 4) -> tuple[float, list[tuple[float, Ran]]]:
    """Find a rate (readings/s) that is good; 0 when none was. Returns it with all that was tried, in order.

    From a good start it climbs by `step`, at most `climbs` times; from a bad one it falls by `step` squared, at most
    `falls` times. When it met both it tries once more half-way between, so it is the highest within √step (or step).
    """
    tried: list[tuple[float, Ran]] = []

    def is_good(rate: float) -> bool:
        tried.append((rate, run(rate)))
        return good(tried[-1][1])

    best, worst = 0.0, 0.0
    if is_good(start):
        best = start
        while climbs and not worst:
            climbs -= 1
            rate = best * step
            best, worst = (rate, worst) if is_good(rate) else (best, rate)
    else:
        worst = start
        while falls and not best:
            falls -= 1
            rate = worst / step ** 2
            best, worst = (rate, worst) if is_good(rate) else (best, rate)
    if best and worst and is_good(half_way := (best * worst) ** 0.5):
        best = half_way
    return best, tried
