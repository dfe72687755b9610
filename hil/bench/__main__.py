"""`make bench`: measure, print a table, write bench.json.

Usage: python -m hil.bench [--quick] [--out FILE] [FAMILY…]     families: box, bus, journal, siren, slope,
uplink
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from msgspec import structs
from rich.console import Console
from rich.table import Table

from hil.bench import Figure, box, bus, journal, siren, slope, uplink

FAMILIES = {"box": box.figures, "bus": bus.figures, "journal": journal.figures, "siren": siren.figures,
            "slope": slope.figures, "uplink": uplink.figures}


def main(argv: list[str]) -> int:
    """Run the families; 1 when a figure did not come about."""
    parser = argparse.ArgumentParser(prog="python -m hil.bench", description="figures of the box, and their references")
    parser.add_argument("family", nargs="*", help=f"one or more of {', '.join(FAMILIES)}; all when left out")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("BENCH_QUICK") == "1",
                        help="tiny sizes: shows that it runs, the figures mean nothing (or BENCH_QUICK=1)")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    options = parser.parse_args(argv)
    if unknown := [name for name in options.family if name not in FAMILIES]:
        parser.error(f"no family called {', '.join(unknown)}: there are {', '.join(FAMILIES)}")
    # a table cut to 80 columns in a log is no table
    console = Console(width=None if sys.stdout.isatty() else 120)
    began_s, done = time.monotonic(), list[Figure]()
    for family in options.family or FAMILIES:
        console.print(f"measuring {family} …", style="dim")
        for made in FAMILIES[family](options.quick):
            done.append(made)
            console.print(f"  {made.name} = {_text(made.value)} {made.unit}", highlight=False)
    console.print(_table(done))
    for made in done:
        console.print(f"[bold]{made.name}[/]: {made.note}", highlight=False)
    console.print(f"{time.monotonic() - began_s:.0f} s on {os.cpu_count()} cores, shared by all processes; "
                  f"{options.out}", style="dim")
    rows = [{key: value for key, value in structs.asdict(made).items() if key != "note"} for made in done]
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(made.value is not None for made in done) else 1


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}" if abs(number) < 1e4 else f"{number:.0f}"


def _table(done: list[Figure]) -> Table:
    table = Table()
    for head in ("figure", "value", "unit", "reference", "ratio", "goal"):
        table.add_column(head, no_wrap=True, justify="right" if head in ("value", "reference", "ratio")
                         else "left")
    for made in done:
        table.add_row(made.name, _text(made.value), made.unit, _text(made.reference), _text(made.ratio), made.goal)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
