"""A whole site around one gateway process: its wires, pins, network, broker and county, made from its configuration.

Owns: the simulated hardware behind every port string of a configuration, the gateway's process, and the audit of one
against the other. Promises: the gateway is the real one, started as systemd would start it; everything it touches is
a port string away; `close` leaves no process, socket or thread behind. Never: looks inside the gateway.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from drivers import template
from drivers.sensor import Serial
from hil.audit import Answer, Audit, Reading, compare
from hil.broker import Broker, free_port
from hil.bus import Bus
from hil.county import County
from hil.pins import Pins
from hil.proxy import Proxy
from hil.slaves import Answer as Said
from hil.slaves import RtuStation, Slave, TcpServer

SHIPPED = Path(__file__).resolve().parent.parent / "config" / "sensors"


def port_is_free(port: int) -> bool:
    """Whether nobody holds this port of the loopback: not even bound and deaf, like a proxy that plays a cut."""
    with socket.socket() as probe:  # without SO_REUSEADDR, which would pass over a port held that way
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Rig:
    """Simulates what `config` names and runs a gateway on it. A context manager; `start` starts the gateway.

    Args:
        config: the site's file; its relative ports become files in `folder`, which is the gateway's working directory.
        folder: scratch; a copy of the configuration (with free TCP ports where its own are taken) is run from there.
        turnaround_s: of every simulated slave.
        broker: which broker to prefer; None = mosquitto if there is one.
    """

    def __init__(self, config: Path, folder: Path, *, turnaround_s: float = 0.005, broker: Any = None,
                 environment: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()
        self.broker = Broker(folder=folder / "broker", prefer=broker)
        self.site: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        self.config = self._adapted(config)
        if (config.parent / "sensors").is_dir() and config.parent != SHIPPED.parent:
            shutil.copytree(config.parent / "sensors", folder / "sensors", dirs_exist_ok=True)
        self.said: list[Said] = []
        self.slaves: dict[str, Slave] = {}
        self.buses: dict[str, Bus] = {}
        self._turnaround_s = turnaround_s
        self._environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
        self._command = [sys.executable, *(arguments or ("-m", "gateway")), "run", self.config.name]
        self.gateway: subprocess.Popen[bytes] | None = None
        self.log = folder / "gateway.log"
        # One reading of both clocks: times on the wire are monotonic, the county's are UTC.
        self.offset_s = time.time() - time.monotonic()

    # --- around the gateway

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything; twice is once."""
        self.stop()
        self._stack.close()

    def _adapted(self, config: Path) -> Path:
        """Copy the configuration to where it runs, with free ports for taken ones and the broker's MQTT version."""
        changed = False
        for wire in self.site["wires"]:
            port = str(wire.get("port", ""))
            if port.startswith("tcp://127.0.0.1:") and not port_is_free(int(port.rsplit(":", 1)[1])):
                wire["port"], changed = f"tcp://127.0.0.1:{free_port()}", True
        for platform in self.site.get("platforms", ()):
            if not port_is_free(platform["port"]):
                platform["port"], changed = free_port(), True
            if self.broker.mqtt != platform.get("mqtt", "5"):
                platform["mqtt"], changed = self.broker.mqtt, True
        path = self.folder / "gateway.yaml"
        if changed:
            path.write_text(yaml.safe_dump(self.site, allow_unicode=True, sort_keys=False), encoding="utf-8")
        elif path != config:
            shutil.copyfile(config, path)
        return path

    def _build(self, stack: contextlib.ExitStack) -> None:
        library = (self.folder / "sensors", SHIPPED)
        for wire in self.site["wires"]:
            if wire["driver"] != "modbus":
                continue
            slaves = [Slave(template.find(d["template"], library), d["address"], name=d["id"],
                            turnaround_s=self._turnaround_s) for d in wire["devices"]]
            self.slaves |= {slave.name: slave for slave in slaves}
            if wire["port"].startswith("tcp://"):
                stack.enter_context(TcpServer(slaves, port=int(wire["port"].rsplit(":", 1)[1]), log=self.said))
            else:
                bus = stack.enter_context(Bus(Serial(**wire.get("serial", {}))))
                bus.port(self.folder / wire["port"])
                bus.attach(RtuStation(slaves, self.said))
                self.buses[wire["id"]] = bus
        ports = [str(wire.get("port", "")) for wire in self.site["wires"]]
        sockets = [port.removeprefix("mock:") for port in ports if port.startswith("mock:")]
        self.pins = stack.enter_context(Pins(self.folder / sockets[0])) if sockets else None
        self.broker.folder.mkdir(exist_ok=True)
        stack.enter_context(self.broker)
        platforms = self.site.get("platforms", ())
        self.network = stack.enter_context(Proxy(("127.0.0.1", self.broker.port), platforms[0]["port"])) \
            if platforms else None
        self.county = stack.enter_context(County(
            "127.0.0.1", self.broker.port, self.site["gateway"].get("root", "mingluo"), self.folder / "county.sqlite",
            mqtt=self.broker.mqtt))

    # --- the gateway

    def start(self) -> None:
        """Start the gateway's process."""
        self.started_s = time.monotonic()
        with self.log.open("ab") as log:
            self.gateway = subprocess.Popen(self._command, cwd=self.folder, env=self._environment,
                                            stdout=log, stderr=log)

    def stop(self, timeout_s: float = 30.0) -> int | None:
        """Stop the gateway in order; return its exit code, None when none was running."""
        if self.gateway is None:
            return None
        gateway, self.gateway = self.gateway, None
        gateway.send_signal(signal.SIGTERM)
        try:
            return gateway.wait(timeout_s)
        except subprocess.TimeoutExpired:
            gateway.kill()
            gateway.wait()
            raise RuntimeError(f"the gateway did not stop within {timeout_s:g} s; see {self.log}") from None

    def kill(self) -> None:
        """SIGKILL: what a crash, the OOM killer or a watchdog does."""
        assert self.gateway is not None, "no gateway is running"
        self.gateway.kill()
        self.gateway.wait()
        self.gateway = None

    def said_so_far(self) -> str:
        """The gateway's log, for messages."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        """Wait until `condition` gives something true and return it; fails with `what` and the gateway's last words."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := condition()):
            ended = self.gateway is not None and self.gateway.poll() is not None
            if ended or time.monotonic() > deadline_s:
                why = "the gateway ended" if ended else f"not within {timeout_s:g} s"
                raise AssertionError(f"{what}: {why}\n{self.said_so_far()[-3000:]}")
            time.sleep(0.01)
        return found

    # --- what is true

    @property
    def points(self) -> Mapping[tuple[str, str], str]:
        """(device, point of its template) → the point's id, for all that the objects read."""
        return {(read[0], read[1]): point["id"] for watched in self.site["objects"] for point in watched["points"]
                for read in [point["read"].split(".")]}

    def answers(self) -> Iterator[Answer]:
        """Every value the simulators put on a wire, with UTC times."""
        points = self.points
        for said in [said for said in list(self.said) if not said.fault]:
            for name, value in said.values.items():
                if (said.device, name) in points and value is not None:
                    yield Answer(points[said.device, name], said.at_s + self.offset_s, value)

    def audit(self) -> Audit:
        """Compare the wires with the county's database (points of simulated Modbus devices)."""
        wired = {point for (device, _), point in self.points.items() if device in self.slaves}
        readings = [Reading(point, t_ms / 1000, value) for point, t_ms, value, *_ in self.county.readings()
                    if value is not None and point in wired]
        return compare(self.answers(), readings)
