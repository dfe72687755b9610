"""A sensor whose supply is switched: the real gateway, a relay on a mock pin, a device that is dead without power."""

import threading
from pathlib import Path

from hil.rig import SHIPPED, Rig
from tests.sites import site

PIN, WARM_S = 6, 0.6


def build(folder: Path) -> Path:
    """Write a site with a rain gauge that is fed by a relay, and its model with a warm-up."""
    sensors = folder / "sensors"
    sensors.mkdir(parents=True)
    model = (SHIPPED / "rain-tipping.yaml").read_text(encoding="utf-8")
    fed = model.replace("address: 2\n", f"address: 2\nwarm_up_s: {WARM_S}\nsettle_reads: 2\n", 1)
    (sensors / "rain-fed.yaml").write_text(fed, encoding="utf-8")
    return site(folder, wires=[
        {"id": "bus-a", "driver": "modbus", "port": "bus-a", "serial": {"baud": 115200}, "devices": [
            {"id": "rain", "template": "rain-fed", "address": 2,
             "supply": {"port": "mock:pins.sock", "pin": PIN, "active": "high"}}]},
        {"id": "pins", "driver": "gpio", "port": "mock:pins.sock", "devices": []}],
        objects=[{"id": "slope", "name": "后山", "hazard": "rain", "service": "trial", "points": [
            {"id": "rain-1", "name": "雨量", "read": "rain.total", "poll_s": 6, "report": {"every_s": 0}}]}],
        outputs=[], buttons=[])


def test_a_switched_sensor_has_power_only_around_its_polls_and_is_warm_when_read(tmp_path):
    with Rig(build(tmp_path / "site"), tmp_path / "box", turnaround_s=0.002) as rig:
        rain, stop = rig.slaves["rain"], threading.Event()
        rain.unplug()

        def feed() -> None:   # the wire from the relay to the sensor
            seen = 0
            while not stop.wait(0.005):
                for edge in [e for e in rig.pins.edges[seen:] if e.pin == PIN and e.function == "output"]:
                    rain.plug() if edge.state else rain.unplug()
                seen = len(rig.pins.edges)

        wire = threading.Thread(target=feed)
        wire.start()
        try:
            rig.start()
            rig.wait("three readings", lambda: sum(r[2] is not None for r in rig.county.readings()) >= 3, 40)
        finally:
            stop.set()
            wire.join()
        assert rig.stop() == 0
        edges = [e for e in rig.pins.edges if e.pin == PIN and e.function == "output"]
        on = [e.at_s for e in edges if e.state]
        off = [e.at_s for e in edges if not e.state and on and e.at_s > on[0]]
        answers = [said.at_s for said in rig.said]
        for begun, ended in zip(on, off, strict=False):
            mine = [at_s for at_s in answers if begun <= at_s <= ended]
            assert mine[0] - begun >= WARM_S
            assert len(mine) == 3                # two to settle, and the one that counts
            assert ended - begun < 6
        assert len(on) >= 3
        assert [r for r in rig.county.readings() if r[2] is None] == []
        assert sum(r[2] is not None for r in rig.county.readings()) == len(answers) // 3
        assert rig.pins.now(PIN) is None or not rig.pins.now(PIN).state or rig.pins.now(PIN).function != "output"
