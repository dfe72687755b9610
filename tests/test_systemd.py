"""What is installed beside the program: units, users, folders, device names; checked by systemd's own tools."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.supervisor import STOP_S

FOLDER = Path(__file__).parent.parent / "systemd"
UNITS = ("mingluo.service", "mingluo-clock.service")
EXPOSURE = 1.5


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name.upper()} IS MISSING, SO THE UNITS ARE NOT CHECKED HERE: apt-get install systemd")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False,
                          env=os.environ | {"SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat", "LC_ALL": "C.UTF-8"})


def keys(unit: str) -> dict[str, list[str]]:
    """Every key of [Unit] and [Service] with all its values, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / unit).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def root(tmp_path) -> Path:
    """A machine of files: our units, stubs of the programs they start, and systemd's own targets."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(FOLDER / unit, units)
    shutil.copytree(next(p for p in map(Path, ("/usr/lib/systemd/system", "/lib/systemd/system")) if p.is_dir()),
                    tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "opt/mingluo/bin").mkdir(parents=True)
    for program in ("mingluo", "python"):
        stub = tmp_path / "opt/mingluo/bin" / program
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
    (tmp_path / "opt/mingluo/README.md").touch()
    return tmp_path


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_clean(root, unit):
    # Only what is said about our own file counts: the distribution's units may lack programs in this tree.
    done = run(tool("systemd-analyze"), "verify", f"--root={root}", "--man=no", "--recursive-errors=no", unit)
    assert done.returncode == 0, done.stderr
    assert [line for line in (done.stdout + done.stderr).splitlines() if "mingluo" in line] == []


def test_the_check_of_units_finds_what_is_wrong(root):
    unit = root / "etc/systemd/system/mingluo.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSec="))
    done = run(tool("systemd-analyze"), "verify", f"--root={root}", "--man=no", "--recursive-errors=no",
               "mingluo.service")
    assert "WatchDogSec" in done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_low(unit):
    done = run(tool("systemd-analyze"), "security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}",
               "--no-pager", str(FOLDER / unit))
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert overall is not None, done.stdout + done.stderr
    assert float(overall[1]) <= EXPOSURE
    assert done.returncode == 0


def test_the_service_keeps_its_promises():
    unit = keys("mingluo.service")
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RuntimeDirectory"] == unit["StateDirectory"] == unit["ConfigurationDirectory"] == ["mingluo"]
    assert unit["RuntimeDirectoryPreserve"] == ["restart"]
    assert unit["ExecStart"] == ["/opt/mingluo/bin/mingluo run /etc/mingluo/gateway.yaml"]
    assert unit["ExecStopPost"] == ["/opt/mingluo/bin/python -m gateway.safe /etc/mingluo/gateway.yaml"]
    assert 5 <= int(unit["WatchdogSec"][0]) <= 30
    assert int(unit["TimeoutStopSec"][0]) > STOP_S + 5, "an ordered stop must end before systemd kills"


def test_the_siren_waits_for_neither_network_nor_clock():
    unit = keys("mingluo.service")
    for key in ("After", "Requires", "BindsTo", "Requisite"):
        for target in ("network", "time-sync", "mingluo-clock"):
            assert target not in " ".join(unit.get(key, []))


def test_serial_lines_and_pins_are_reachable_and_nothing_else():
    unit = keys("mingluo.service")
    assert unit["DevicePolicy"] == ["closed"]
    assert sorted(unit["DeviceAllow"]) == ["char-gpiochip rw", "char-ttyACM rw", "char-ttyAMA rw", "char-ttyS rw",
                                           "char-ttyUSB rw"]
    assert "PrivateDevices" not in unit
    # gpiozero reads the board's revision and the clock its boot id below /proc, beside the processes
    assert unit.get("ProcSubset", ["all"]) == ["all"]
    assert unit["WorkingDirectory"] == ["/run/mingluo"]
    assert "LG_WD=/run/mingluo" in unit["Environment"]


def allowed(unit: str) -> set[str]:
    """The system calls a unit may make, worked out as systemd does: allow, then take away, then allow again."""
    def expand(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        lines = map(str.strip, run(tool("systemd-analyze"), "syscall-filter", name).stdout.splitlines()[1:])
        return set().union(*(expand(line) for line in lines if line and not line.startswith("#")))
    calls: set[str] = set()
    for value in keys(unit)["SystemCallFilter"]:
        names = set().union(*map(expand, value.removeprefix("~").split()))
        calls = calls - names if value.startswith("~") else calls | names
    return calls


def test_the_clock_is_readable_beside_the_gateway_and_settable_nowhere():
    clock, gateway = allowed("mingluo-clock.service"), allowed("mingluo.service")
    assert {"adjtimex", "clock_adjtime"} <= clock
    assert not {"settimeofday", "clock_settime"} & (clock | gateway)
    assert keys("mingluo.service")["ProtectClock"] == ["yes"]
    for unit in UNITS:
        assert keys(unit)["CapabilityBoundingSet"] == [""]
    assert "ProtectClock" not in keys("mingluo-clock.service")
    assert keys("mingluo-clock.service")["PrivateNetwork"] == ["yes"]


def test_what_the_gateway_needs_is_allowed():
    calls = allowed("mingluo.service")
    assert {"openat", "ioctl", "fsync", "fdatasync", "mmap", "clone3", "futex", "epoll_wait", "poll", "ppoll", "sendto",
            "getsockopt", "rename", "fchmod", "pwrite64", "flock", "statfs", "fcntl", "getrandom"} <= calls
    assert not {"mount", "init_module", "reboot", "ptrace", "bpf", "kexec_load"} & calls


def test_users_and_groups_are_well_formed(tmp_path):
    sysusers = tool("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    done = run(sysusers, f"--root={tmp_path}", str(FOLDER / "mingluo.sysusers"))
    assert done.returncode == 0, done.stderr
    passwd = (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^mingluo:.*:/var/lib/mingluo:/usr/sbin/nologin$", passwd, re.MULTILINE)
    groups = dict(line.split(":")[::3] for line in (tmp_path / "etc/group").read_text().splitlines())
    assert groups["gpio"] == groups["dialout"] == "mingluo"


def test_folders_are_well_formed(tmp_path):
    tmpfiles = tool("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    run(tool("systemd-sysusers"), f"--root={tmp_path}", str(FOLDER / "mingluo.sysusers"))
    done = run(tmpfiles, f"--root={tmp_path}", "--create", str(FOLDER / "mingluo.tmpfiles"))
    if os.getuid() == 0:
        assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr
    assert (tmp_path / "etc/mingluo/secrets").stat().st_mode & 0o777 == 0o750


MATCH = {"ACTION", "SUBSYSTEM", "KERNEL", "DRIVER", "ENV"}
ASSIGN = {"GROUP", "MODE", "SYMLINK", "GOTO", "LABEL", "ATTR", "IMPORT"}
TERM = re.compile(r'([A-Z]+)(\{[\w]+\})?(==|!=|\+=|:=|=)"([^"]*)"')


def rules() -> list[list[tuple[str, str, str, str]]]:
    lines = [line for line in (FOLDER / "60-mingluo.rules").read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
    for line in lines:
        assert TERM.sub("", line).strip(" ,") == "", f"not a rule: {line}"
    return [TERM.findall(line) for line in lines]


def test_udev_rules_are_well_formed():
    udevadm = shutil.which("udevadm")
    if udevadm and "verify" in run(udevadm, "--help").stdout:
        done = run(udevadm, "verify", "--resolve-names=never", str(FOLDER / "60-mingluo.rules"))
        assert done.returncode == 0, done.stdout + done.stderr
    labels, jumps = set(), set()
    for rule in rules():
        for key, attribute, operator, value in rule:
            assert key in (MATCH if operator in ("==", "!=") else ASSIGN), (key, operator)
            assert bool(attribute) == (key in ("ENV", "ATTR", "IMPORT")), (key, attribute)
            labels |= {value} if key == "LABEL" else set()
            jumps |= {value} if key == "GOTO" else set()
    assert labels == jumps == {"mingluo_end"}


def test_a_serial_adapter_is_named_by_its_socket_and_pins_belong_to_their_group():
    flat = [{(key, operator): value for key, _, operator, value in rule} for rule in rules()]
    named = [rule for rule in flat if ("SYMLINK", "+=") in rule]
    assert [rule["SYMLINK", "+="] for rule in named] == ["mingluo/usb-$env{ID_PATH}"]
    assert named[0]["KERNEL", "=="] == "ttyUSB[0-9]*|ttyACM[0-9]*"
    pins = [rule for rule in flat if rule.get(("SUBSYSTEM", "==")) == "gpio"]
    assert [(rule["GROUP", "="], rule["MODE", "="]) for rule in pins] == [("gpio", "0660")]
    assert all(rule["MODE", "="] == "0660" for rule in flat if ("MODE", "=") in rule)


def test_the_hardware_watchdog_is_within_what_the_board_counts_to():
    parser = configparser.ConfigParser()
    parser.optionxform = str
    parser.read(FOLDER / "mingluo-watchdog.conf")
    assert parser.sections() == ["Manager"]
    hardware_s = int(parser["Manager"]["RuntimeWatchdogSec"].removesuffix("s"))
    assert int(keys("mingluo.service")["WatchdogSec"][0]) < hardware_s <= 15


def test_the_readme_names_every_file_and_nothing_that_is_not_there():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    here = {path.name for path in FOLDER.iterdir() if path.name != "README.md"}
    assert set(re.findall(r"^\| `([\w.-]+)`", text, re.MULTILINE)) == here
    for name in here:
        assert re.search(rf"install [^\n]*{re.escape(name)}", text), f"{name} is never installed"
