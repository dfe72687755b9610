"""``python -m gateway.safe CONFIG``: put every output into its safe state. For systemd's ExecStopPost.

Owns: what happens to the pins of a gateway that died without letting go (a killed process may leave them driven).
Promises: works from a configuration the gateway itself would refuse, for whatever it can still read; one output that
cannot be reached does not spare the others; quick, because it imports little. Exit 0: all outputs are safe, or there
are none; 1: some are not (said on stderr, one line each).
Never: needs a running gateway, judges the configuration, drives a pin to its active level.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml


def outputs_of(text: str) -> list[tuple[str, str, int, str]]:
    """Read (id, port, pin, active) of every output on a wire of pins; whatever is not usable is left out.

    Raises:
        yaml.YAMLError: the text is not YAML at all.
    """
    # The strict loader refuses a whole file for one bad key. Here half a file must still silence its siren.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    site: Any = yaml.load(text, Loader=loader)  # noqa: S506 (a safe loader either way)
    site = site if isinstance(site, dict) else {}
    ports = {wire.get("id"): wire.get("port") for wire in _dicts(site.get("wires")) if wire.get("driver") == "gpio"}
    found = []
    for output in _dicts(site.get("outputs")):
        port, pin, active = ports.get(output.get("wire")), output.get("pin"), output.get("active")
        if isinstance(port, str) and type(pin) is int and active in ("high", "low"):
            found.append((str(output.get("id")), port, pin, active))
    return found


def _dicts(section: Any) -> list[dict[Any, Any]]:
    return [part for part in section if isinstance(part, dict)] if isinstance(section, list) else []


def make_safe(outputs: list[tuple[str, str, int, str]]) -> list[str]:
    """Drive each output off and let go of its pin; return one line for each that could not be."""
    if not outputs:
        return []
    from drivers.pins import open_relay
    wrong = []
    for name, port, pin, active in outputs:
        try:
            open_relay(port, pin, "high" if active == "high" else "low").close()
        except (OSError, ValueError) as error:
            wrong.append(f"output {name}: not made safe: {error}")
    return wrong


def main(arguments: list[str]) -> int:
    """Run the command; see the module."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gateway.safe CONFIG\n")
        return 2
    try:
        outputs = outputs_of(Path(arguments[0]).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.stderr.write(f"{arguments[0]}: cannot be read, no output was touched: {error}\n")
        return 1
    wrong = make_safe(outputs)
    for line in wrong:
        sys.stderr.write(line + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
