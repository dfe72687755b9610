"""The wheel is the whole product: what it carries, and that its demo works in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hil.broker import free_port

ROOT = Path(__file__).resolve().parent.parent
CARRIED = ("config/gateway.yaml", "config/demo.yaml", "config/schema/gateway.schema.json",
           "config/sensors/rain-tipping.yaml", "config/sensors/crack-cable-bolin.yaml",
           "config/sensors/gas-self-describing.yaml", "hil/diskfault.c", "hil/rig.py", "hil/demo.py",
           "gateway/app.py", "gateway/judgement/detect/anomaly.py", "drivers/modbus.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    made = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                           "--no-index", "--wheel-dir", str(folder), str(ROOT)],
                          capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return next(folder.glob("mingluo-*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    # Ports of its own: another demo on this machine may take the shipped ones while this one's network is cut.
    site = folder / "config" / "demo.yaml"
    text = site.read_text(encoding="utf-8")
    for port in ("18502", "18831"):
        assert port in text
        text = text.replace(port, str(free_port()))
    site.write_text(text, encoding="utf-8")
    return folder


def run(unpacked: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that finds the unpacked wheel first, in a folder that holds nothing of the checkout."""
    return subprocess.run([sys.executable, *arguments], cwd=empty, capture_output=True, text=True, check=False,
                          timeout=240, env={**os.environ, "PYTHONPATH": str(unpacked)})


def test_the_wheel_carries_what_a_box_and_its_demo_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    units = {p.relative_to(ROOT).as_posix() for p in (ROOT / "systemd").iterdir() if p.is_file()}
    assert (set(CARRIED) | units) - names == set()


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    assert roots == {"gateway", "drivers", "hil", "config", "systemd"}
    assert [n for n in names if "__pycache__" in n or "test_" in n or n.endswith((".pyc", ".so", ".sqlite"))] == []


def test_its_own_example_is_sound_from_the_wheel_alone(unpacked: Path, tmp_path: Path) -> None:
    said = run(unpacked, tmp_path, "-m", "gateway", "check", str(unpacked / "config" / "demo.yaml"))
    assert (said.returncode, said.stderr) == (0, "")


def test_every_package_is_found_in_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    code = ("import drivers, gateway.app, gateway.site as c, hil.demo, hil.rig, json\n"
            "print(json.dumps([drivers.__file__, gateway.app.__file__, hil.demo.__file__, str(hil.demo.CONFIG), "
            "str(hil.rig.SHIPPED), str(c.SHIPPED), drivers.find('modbus').__module__]))")
    said = run(unpacked, tmp_path, "-c", code)
    assert said.returncode == 0, said.stderr
    *places, driver = json.loads(said.stdout)
    assert [p for p in places if not p.startswith(f"{unpacked}/")] == []
    assert driver == "drivers.modbus"


@pytest.mark.long
@pytest.mark.timing
def test_the_demo_of_the_wheel_loses_nothing_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    said = run(unpacked, tmp_path, "-m", "gateway", "demo", "--json", "--lang", "zh")
    assert said.returncode == 0, said.stdout + said.stderr[-3000:]
    summary = json.loads(said.stdout)
    assert summary["ok"] is True
    assert (summary["lost"], summary["invented"], summary["gaps"], summary["exit_code"]) == (0, 0, 0, 0)
    assert summary["on_the_wire"] == summary["at_the_county"] > 100
    assert summary["backlog"] > 0
    assert summary["acknowledged"] >= 1
    assert summary["siren_delay_ms"] is not None
    assert list(tmp_path.iterdir()) == []
