"""Found devices as a piece of configuration.

Owns: the `wires` block for a site's file. Promises: `mingluo check` accepts it; what is not sure says so in a comment.
Never: writes a file, guesses a model.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from drivers.sensor import Serial
from gateway.installer.search import Found
from gateway.installer.words import settings

STABLE = (Path("/dev/serial/by-path"), Path("/dev/serial/by-id"))
"""Names of a serial port that stay the same after a restart, the best first."""
SURE = 0.9
ID_LENGTH = 48


def stable(port: str, folders: Sequence[Path] = STABLE) -> str:
    """Return the name of a port that outlives a restart, or the given one when it has none."""
    if "://" in port or not Path(port).exists():
        return port
    real = Path(port).resolve()
    for folder in folders:
        for link in sorted(folder.glob("*")):
            if link.resolve() == real:
                return str(link)
    return port


def block(port: str, found: Sequence[Found], echo: bool = False, framing: str = "") -> str:
    """Return the YAML of one wire with the devices found; those of no known model stand in comments."""
    known = [one for one in found if one.likeliest]
    lines = ["# Names and ids are yours to choose; then give the quantities to objects (read: device.point).", "wires:",
             f"  - id: {_id('bus', Path(port).name if '://' not in port else port.split('://')[1])}",
             "    driver: modbus", f"    port: {json.dumps(port, ensure_ascii=False)}"]
    common = Counter(one.settings for one in known if one.settings).most_common(1)
    usual = common[0][0] if common else None
    if usual:
        lines.append(f"    serial: {_serial(usual)}")
    if any(one.settings != usual for one in known):
        lines.append("    mixed_settings: true    # devices of different speed or parity share this wire")
    if framing:
        lines.append(f"    framing: {framing}")
    if echo:
        lines.append("    echo: true              # the adapter hears its own bytes")
    lines.append("    devices:")
    for one in sorted(found, key=lambda one: one.address):
        if one.likeliest is None:
            lines.append(f"      # address {one.address}{_at(one.settings)}: answers, but fits no known model")
            continue
        template, sure = one.likeliest.template, one.likeliest.sure
        other = f", serial: {_serial(one.settings)}" if one.settings and one.settings != usual else ""
        doubt = "" if sure >= SURE else f"   # {sure:.0%} sure: prove it by a stimulus"
        lines.append(f"      - {{id: {_id(template.model, str(one.address))}, template: {template.model}, "
                     f"address: {one.address}{other}}}{doubt}")
    if not known:
        lines.append("      []")
    return "\n".join(lines) + "\n"


def _serial(serial: Serial) -> str:
    seven = f", data_bits: {serial.data_bits}" if serial.data_bits != 8 else ""
    return f"{{baud: {serial.baud}, parity: {serial.parity}, stop_bits: {serial.stop_bits}{seven}}}"


def _at(serial: Serial | None) -> str:
    return f" at {settings(serial)}" if serial else ""


def _id(first: str, second: str) -> str:
    """Make an id: lower-case letters, digits, - and _."""
    tail = re.sub(r"[^a-z0-9]+", "-", second.lower()).strip("-")[-24:].strip("-") or "1"
    head = re.sub(r"[^a-z0-9_-]+", "-", first.lower()).strip("-")
    return f"{head[:ID_LENGTH - 1 - len(tail)]}-{tail}"
