"""Where a name leads: the look-up that cannot hang whoever asks, and what it last said.

Owns: the threads that look up, at most one a name at a time, and the last good addresses of the life of this process.
Promises: an answer or an error within the patience given, however long the system's resolver takes; while names cannot
be resolved, the addresses that last could; the address that last worked comes first, those that failed come last.
Never: decides whether an address is the right host (TLS does, by the name), writes to disk: after a restart without
DNS only a host given as an address is found.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - the first look-up would import it, long after READY
import socket
import threading
from collections.abc import Callable
from typing import Any

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""Family and what `connect` of that family takes."""
Resolver = Callable[..., list[Any]]
PATIENCE_S = 4.0
"""glibc asks a silent server again after 5 s; by then the addresses known before are the better answer."""


class _Look:
    """One look-up under way."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.found: list[Address] = []
        self.error: Exception | None = None


class Names:
    """Shared by all platforms: thread-safe."""

    def __init__(self, resolver: Resolver = socket.getaddrinfo) -> None:
        self._resolver = resolver
        self._lock = threading.Lock()
        self._looks: dict[tuple[str, int], _Look] = {}
        self._known: dict[tuple[str, int], list[Address]] = {}
        self._good: dict[tuple[str, int], Address] = {}
        self._bad: dict[tuple[str, int], set[Address]] = {}

    def addresses(self, host: str, port: int, patience_s: float = PATIENCE_S) -> list[Address]:
        """Never empty.

        Raises:
            OSError: it cannot be looked up (socket.gaierror, also when nobody answered) and never was before.
        """
        key = host, port
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        with self._lock:
            look = self._looks.get(key)
            hung = look is not None
            if look is None:
                look = self._looks[key] = _Look()
                threading.Thread(target=self._look, args=(key, look), name=f"look-up {host}", daemon=True).start()
        # Whoever hung before is not waited for again, unless there is nothing else to go by.
        look.done.wait(0.0 if hung and key in self._known else patience_s)
        with self._lock:
            found = look.found or self._known.get(key, [])
            if found:
                good, bad = self._good.get(key), self._bad.get(key, set())
                return sorted(found, key=lambda address: (address != good, address in bad))
        raise look.error or socket.gaierror(socket.EAI_AGAIN, f"no answer within {patience_s:g} s")

    def known(self, host: str, port: int) -> Address | None:
        """The address to knock at without asking anybody, None when there is none yet."""
        with self._lock:
            found = self._known.get((host, port))
            return _literal(host, port) or self._good.get((host, port)) or (found[0] if found else None)

    def worked(self, host: str, port: int, address: Address, well: bool) -> None:
        """Say how a connection went."""
        key = host, port
        with self._lock:
            bad = self._bad.setdefault(key, set())
            if well:
                self._good[key] = address
                bad.discard(address)
            else:
                bad.add(address)
                if self._good.get(key) == address:
                    del self._good[key]
                if bad >= set(self._known.get(key, ())):
                    bad.clear()

    def _look(self, key: tuple[str, int], look: _Look) -> None:
        try:
            answers = self._resolver(*key, type=socket.SOCK_STREAM)
            look.found = list(dict.fromkeys((answer[0], answer[4]) for answer in answers))
        except (OSError, UnicodeError) as error:  # UnicodeError: not a name at all
            look.error = error
        with self._lock:
            if look.found:
                self._known[key] = look.found
            del self._looks[key]
        look.done.set()


def _literal(host: str, port: int) -> Address | None:
    for family, address in ((socket.AF_INET, (host, port)), (socket.AF_INET6, (host, port, 0, 0))):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, address
    return None


NAMES = Names()
"""What this process knows."""
