"""Real links between a box and a county: two network namespaces joined by veth pairs, for faults no proxy can make.

Owns: the namespaces, what runs in them ends with them. Promises: the machine's own network is not touched; `missing`
says why it cannot be had here (it needs root, iproute2 and nft). Never: imitates a packet: the kernel's TCP meets real
loss, real silence and a real slow line.

    10.77.n.1 link ═══════════ 10.77.n.2      one pair a link; the first is preferred by the box's routes
    box                        county, which answers at 10.78.0.1
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

COUNTY = "10.78.0.1"
_NEWNET = 0x40000000
_count = itertools.count(1)


def missing() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [tool for tool in ("ip", "tc", "nft", "ss") if shutil.which(tool) is None]
    if lacking:
        return f"network namespaces need {', '.join(lacking)} (apt-get install iproute2 nftables)"
    said = subprocess.run(["ip", "netns", "add", f"mingluo-try-{os.getpid()}"], capture_output=True, text=True,
                          check=False)
    if said.returncode != 0:
        return f"no network namespaces here: {said.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"mingluo-try-{os.getpid()}"], check=True)
    return ""


class Namespace:
    """A network of its own, with a loopback."""

    def __init__(self, name: str) -> None:
        self.name = name
        _run("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command: str, given: str | None = None) -> str:
        """Run a command in it; returns what it wrote."""
        return _run("ip", "netns", "exec", self.name, *command, given=given)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let the sockets this thread makes, and those of threads it starts, be of this network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", self.name).open() as there:
            _enter(libc, there.fileno())
            try:
                yield
            finally:
                _enter(libc, home.fileno())

    def close(self) -> None:
        """Away with it and its links."""
        _run("ip", "netns", "del", self.name)


class Links:
    """A box with links of these names, a county, and what can happen between them."""

    def __init__(self, names: Sequence[str] = ("eth0", "wwan0")) -> None:
        self.names = tuple(names)
        mark = f"{os.getpid()}-{next(_count)}"
        self.box, self.county = Namespace(f"ml-box-{mark}"), Namespace(f"ml-county-{mark}")
        _run("ip", "-n", self.county.name, "addr", "add", f"{COUNTY}/32", "dev", "lo")
        for n, name in enumerate(self.names):
            _run("ip", "link", "add", name, "netns", self.box.name, "type", "veth", "peer", "name", name, "netns",
                 self.county.name)
            for place, host in ((self.box, 1), (self.county, 2)):
                _run("ip", "-n", place.name, "addr", "add", f"10.77.{n}.{host}/24", "dev", name)
                _run("ip", "-n", place.name, "link", "set", name, "up")
            self._route(n)

    def _route(self, n: int) -> None:
        _run("ip", "-n", self.box.name, "route", "replace", COUNTY, "via", f"10.77.{n}.2", "dev", self.names[n],
             "metric", str(100 * (n + 1)))

    def unplug(self, link: str) -> None:
        """The cable is out: both ends see that there is no carrier."""
        _run("ip", "-n", self.county.name, "link", "set", link, "down")

    def drop(self, link: str, percent: int = 100) -> None:
        """So many packets vanish on the way, either way, and nobody is told."""
        self._filter(link, "drop" if percent >= 100 else f"numgen random mod 100 < {percent} drop")

    def forget(self, link: str) -> None:
        """What is connected now goes dead for ever, as behind a NAT that forgot; new connections pass."""
        said = self.box.run("ss", "-Htn", "state", "established", "dst", COUNTY)
        ports = ", ".join(sorted({line.split()[2].rsplit(":", 1)[1] for line in said.splitlines()}))
        if ports:
            self._filter(link, f"tcp sport {{ {ports} }} drop", f"tcp dport {{ {ports} }} drop")

    def slow(self, link: str, bits_per_s: int) -> None:
        """No more than so many bits a second, either way."""
        for place in (self.box, self.county):
            place.run("tc", "qdisc", "replace", "dev", link, "root", "tbf", "rate", f"{bits_per_s}bit", "burst", "2kb",
                      "latency", "2000ms")

    def mend(self, link: str) -> None:
        """As new."""
        for place in (self.box, self.county):
            with contextlib.suppress(RuntimeError):
                place.run("nft", "delete", "table", "inet", f"fault_{link}")
            with contextlib.suppress(RuntimeError):
                place.run("tc", "qdisc", "del", "dev", link, "root")
            _run("ip", "-n", place.name, "link", "set", link, "up")
        self._route(self.names.index(link))

    def _filter(self, link: str, *rules: str) -> None:
        # At the receiving end: a sender whose own kernel drops is told so, and TCP behaves differently.
        body = "".join(f'iifname "{link}" {rule}\n' for rule in rules)
        table = f"table inet fault_{link} {{\nchain in {{\ntype filter hook input priority 0\n{body}}}\n}}\n"
        for place in (self.box, self.county):
            place.run("nft", "-f", "-", given=table)

    def close(self) -> None:
        """Twice is once."""
        for place in (self.box, self.county):
            with contextlib.suppress(RuntimeError):
                place.close()

    def __enter__(self) -> Self:
        """Up already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _enter(libc: ctypes.CDLL, fd: int) -> None:
    if libc.setns(fd, _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _run(*command: str, given: str | None = None) -> str:
    said = subprocess.run(command, input=given, capture_output=True, text=True, timeout=20, check=False)
    if said.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {said.stderr.strip() or said.returncode}")
    return said.stdout
