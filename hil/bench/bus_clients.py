"""Programs that read every device of a bus as fast as they can: the product's driver, and three libraries.

Owns: one client in its own process. Promises: each answer is compared with what the device holds; the libraries are
used as their pages show, nothing is switched off. Never: measures: the bus is asked for that.

Usage: python -m hil.bench.bus_clients KIND PORT BAUD DEVICES [PERIOD_S]      (8N2, 10 holding registers each from 0)
Prints a line once every device was read; then answers each line of its standard input with what it has read.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import yaml

import drivers
from hil.bench.site import MODEL, model

REGISTERS = 10
TIMEOUT_S = 0.3
_AHEAD_S = 0.02
"""The driver's period where it shall read as fast as it can: everything is always due."""

Read = tuple[int, bool]
"""Which device, and whether it said what it holds."""


def holds(unit: int) -> list[int]:
    """Return the registers of a device of `hil.bus_process` without a template."""
    return [100 * unit + n for n in range(REGISTERS)]


def mingluo(port: str, baud: int, units: Sequence[int], period_s: float = _AHEAD_S) -> Iterator[Read]:
    """Read with the product's own driver, found as the gateway finds it."""
    sys.setswitchinterval(0.0005)   # as the gateway does
    found = drivers.find("modbus")
    with tempfile.TemporaryDirectory() as folder:
        shape = model(REGISTERS)
        Path(folder, f"{MODEL}.yaml").write_text(yaml.safe_dump(shape, allow_unicode=True), encoding="utf-8")
        wire = msgspec.convert({
            "id": "bus", "driver": "modbus", "port": port, "serial": {"baud": baud, "stop_bits": 2},
            "answer_timeout_ms": 1000 * TIMEOUT_S,
            "devices": [{"id": f"d{unit}", "template": MODEL, "address": unit} for unit in units]}, found.Wire)
        points = [point["id"] for point in shape["points"]]
        polls = {f"d{unit}": dict.fromkeys(points, period_s) for unit in units}
        driver = found(wire, polls, (Path(folder),), time.monotonic)
    expected = {f"d{unit}": (unit, [round(0.1 * raw, 1) for raw in holds(unit)]) for unit in units}
    driver.open()
    while True:
        for scan in driver.read(1.0):
            unit, values = expected[scan.device]
            yield unit, [value is not None and round(value, 6) for value in scan.values] == values


def pymodbus_sync(port: str, baud: int, units: Sequence[int]) -> Iterator[Read]:
    """Read with pymodbus's blocking client."""
    from pymodbus.client import ModbusSerialClient

    client = ModbusSerialClient(port, baudrate=baud, stopbits=2, timeout=TIMEOUT_S)
    client.connect()
    for unit in itertools.cycle(units):
        yield unit, client.read_holding_registers(0, count=REGISTERS, device_id=unit).registers == holds(unit)


def pymodbus_async(port: str, baud: int, units: Sequence[int]) -> Iterator[Read]:
    """Read with pymodbus's asyncio client."""
    from pymodbus.client import AsyncModbusSerialClient

    with asyncio.Runner() as runner:
        async def connected() -> AsyncModbusSerialClient:
            client = AsyncModbusSerialClient(port, baudrate=baud, stopbits=2, timeout=TIMEOUT_S)
            await client.connect()
            return client

        async def cycle() -> list[Read]:
            return [(unit, (await client.read_holding_registers(0, count=REGISTERS, device_id=unit)).registers
                     == holds(unit)) for unit in units]

        client = runner.run(connected())
        while True:
            yield from runner.run(cycle())


def minimalmodbus(port: str, baud: int, units: Sequence[int]) -> Iterator[Read]:
    """Read with minimalmodbus."""
    from minimalmodbus import Instrument

    devices = [Instrument(port, unit) for unit in units]
    wire = devices[0].serial
    assert wire is not None
    wire.baudrate, wire.stopbits, wire.timeout = baud, 2, TIMEOUT_S
    for device in itertools.cycle(devices):
        yield device.address, device.read_registers(0, REGISTERS) == holds(device.address)


KINDS = {f.__name__: f for f in (mingluo, pymodbus_sync, pymodbus_async, minimalmodbus)}


def main(kind: str, port: str, baud: int, devices: int, *more: float) -> None:
    """Read until standard input ends."""
    logging.disable(logging.CRITICAL)   # what fails is counted
    good: Counter[int] = Counter()
    bad: Counter[int] = Counter()

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps({"good": sum(good.values()), "bad": sum(bad.values()), "cpu_s": time.process_time()}),
                  flush=True)
        os._exit(0)

    threading.Thread(target=answer, daemon=True).start()
    told = False
    for unit, right in KINDS[kind](port, baud, range(1, devices + 1), *more):
        (good if right else bad)[unit] += 1
        if not told and len(good) == devices:
            told = True
            print("{}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *map(float, sys.argv[5:]))
