"""A PostgreSQL server of one's own.

Owns: a cluster in a folder and its server, on a socket and a port of the loopback. Promises: nobody else's server is
touched; `close` leaves no process. Never: runs as root: the server refuses that, so an unprivileged user is borrowed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from hil.broker import free_port

_USERS = ("postgres", "nobody")


def find_postgres() -> Path | None:
    """Folder of the newest server's programs, if one is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    path = shutil.which("initdb")
    return found[-1].parent if found else Path(path).parent if path else None


class Postgres:
    """A server; a context manager. `url` is where it is."""

    def __init__(self, folder: Path) -> None:
        programs = find_postgres()
        if programs is None:
            raise RuntimeError("no PostgreSQL server: apt-get install postgresql")
        self._programs, self.folder, self.port = programs, folder, free_port()
        self.url = f"postgresql://county@127.0.0.1:{self.port}/postgres"
        self._as: dict[str, Any] = {}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([self._programs / program, *arguments], capture_output=True, text=True, cwd="/",
                              check=False, timeout=60, **self._as)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr[-1000:]}{done.stdout[-1000:]}")

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        if os.geteuid() == 0:
            known = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = next(known[name] for name in _USERS if name in known)
            for parent in (self.folder, *self.folder.parents):
                if parent.owner() == "root" and not parent.stat().st_mode & 0o001 and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-U", "county", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8")
        self._run("pg_ctl", "-D", data, "-w", "-l", str(self.folder / "log"), "-o",
                  f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1", "start")
        return self

    def __exit__(self, *_: object) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
