"""`mingluo`: the door for people. `run` goes straight to the service, which never loads what only commands need."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `mingluo` command and of ``python -m gateway``."""
    if sys.argv[1:2] == ["run"] and len(sys.argv) == 3 and not sys.argv[2].startswith("-"):
        from gateway.app import run

        raise SystemExit(run(sys.argv[2]))
    from gateway.cli import cli

    cli()


if __name__ == "__main__":
    main()
