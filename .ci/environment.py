#!/usr/bin/env python3
"""Build the project's own environment from nothing but Python ≥ 3.11.

Owns: `.venv` and, for tests, the system packages they talk to. Promises: says what it does, does nothing twice,
works without root and without `ensurepip` (pip then comes from PyPI, its hash checked). Never: clears an environment
that works, touches anything outside `.venv` unless called with `system`.

Usage: environment.py venv EXTRA [EXTRA…]   build or refresh .venv with these extras
       environment.py system                install what the tests talk to (mosquitto, gcc, libmodbus) by apt-get
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# command → Debian package. /usr/sbin is not on every user's PATH and mosquitto lives there.
NEEDS = {"mosquitto": "mosquitto", "gcc": "gcc", "openssl": "openssl", "systemd-analyze": "systemd", "mbpoll": "mbpoll",
         "ip": "iproute2", "nft": "nftables"}
# header → Debian package
HEADERS = {"/usr/include/stdio.h": "libc6-dev", "/usr/include/modbus/modbus.h": "libmodbus-dev"}


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stdout.write(f"setup: {text}\n")
    sys.stdout.flush()


def fetch(url: str) -> bytes:
    """Read a page of PyPI's simple index, within bounds of time and size."""
    if not url.startswith("https://"):
        raise SystemExit(f"setup: {url} is not https; pip is taken from nowhere else")
    request = urllib.request.Request(url, headers={"Accept": "application/vnd.pypi.simple.v1+json, */*;q=0.1"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        data: bytes = answer.read(64 << 20)
    return data


def pip_from_pypi(folder: Path) -> Path:
    """Download pip's newest wheel and return its path; a wheel of pip can install itself."""
    files = json.loads(fetch("https://pypi.org/simple/pip/"))["files"]
    wheels = [f for f in files if re.fullmatch(r"pip-[\d.]+-py3-none-any\.whl", f["filename"]) and not f.get("yanked")]
    newest = max(wheels, key=lambda f: [int(x) for x in f["filename"].split("-")[1].split(".")])
    data = fetch(newest["url"])
    if hashlib.sha256(data).hexdigest() != newest["hashes"]["sha256"]:
        raise SystemExit(f"setup: {newest['filename']} does not have the hash PyPI names for it; try again")
    path = folder / newest["filename"]
    path.write_bytes(data)
    return path


def make_venv() -> None:
    """Create `.venv` with a working pip; what is there must be unusable, for it is cleared."""
    try:
        import ensurepip  # noqa: F401  (Debian splits it off into python3-venv)

        venv.create(VENV, clear=True, with_pip=True)
    except (ImportError, subprocess.CalledProcessError):
        say("no ensurepip here; taking pip from PyPI")
        venv.create(VENV, clear=True, with_pip=False)
        with tempfile.TemporaryDirectory() as folder:
            wheel = pip_from_pypi(Path(folder))
            subprocess.run([PYTHON, wheel / "pip", "install", "--quiet", str(wheel)], check=True)


def usable() -> bool:
    """Whether `.venv` runs, is new enough and has pip. Then it is only added to: others may be working in it."""
    if not PYTHON.exists():
        return False
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([PYTHON, "-c", probe], check=False, stderr=subprocess.DEVNULL).returncode == 0


def build_venv(extras: list[str]) -> None:
    """Install the project, editable, with `extras`; skip when nothing changed since the last time."""
    stamp = VENV / ".mingluo"
    want = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + str(ROOT).encode()).hexdigest()
    works = usable()
    have = json.loads(stamp.read_text()) if works and stamp.exists() else {}
    if have.get("hash") == want and set(extras) <= set(have.get("extras", [])):
        return
    if not works:
        if Path(sys.prefix).resolve() == VENV.resolve():
            raise SystemExit(f"setup: {VENV} cannot be rebuilt by its own Python; run this with another one")
        say(f"creating {VENV.name} with Python {sys.version.split()[0]}")
        make_venv()
    extras = sorted(set(extras) | set(have.get("extras", [])))
    say(f"installing mingluo[{','.join(extras)}]")
    done = subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e",
                           f"{ROOT}[{','.join(extras)}]"], check=False)
    if done.returncode:
        raise SystemExit("setup: pip could not install everything (its reason is above); is the network there? "
                         "Run the same command again")
    stamp.write_text(json.dumps({"hash": want, "extras": extras}))


def install_system() -> None:
    """Install missing commands by apt-get, as root or through sudo; say plainly when that cannot be done."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin"
    missing = sorted({package for command, package in NEEDS.items() if not shutil.which(command, path=path)}
                     | {package for header, package in HEADERS.items() if not Path(header).exists()})
    if not missing:
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    by_hand = f"install them by hand: sudo apt-get install {' '.join(missing)}"
    if not shutil.which("apt-get") or (sudo and not shutil.which("sudo")):
        raise SystemExit(f"setup: the tests need {', '.join(missing)} and there is no way to install them; {by_hand}")
    say(f"apt-get install {' '.join(missing)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*sudo, "apt-get", "update", "-qq"], env=quiet, check=False)
    # policy-rc.d is how Debian is told not to start a service on installation: the tests start their own broker.
    done = subprocess.run([*sudo, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y",
                           "-qq", "--no-install-recommends", *missing], env=quiet, check=False,
                          stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"setup: apt-get could not install {', '.join(missing)}; {by_hand}")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 (a Python that is too old gets a sentence, not a traceback)
        raise SystemExit(f"setup: Python 3.11 or newer is needed, this is {sys.version.split()[0]} ({sys.executable})")
    match sys.argv[1:]:
        case ["venv", *extras]:
            build_venv(extras)
        case ["system"]:
            install_system()
        case _:
            raise SystemExit(__doc__)
