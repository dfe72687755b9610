"""While a spare link serves: whether the preferred one is back.

Owns: the knocks. Promises: nobody waits for one; a knock is a TCP connect of 5 s at most, and nothing said. Never:
decides how many are enough (route.py does), touches the connection that serves.
"""

from __future__ import annotations

import select
import socket

from gateway.uplink.names import NAMES, Names
from gateway.uplink.route import Route
from gateway.uplink.tcp import CONNECT_S, bind_to


class Knock:
    """Whether a host answers through an interface, found out without waiting: a TCP connect, and nothing said."""

    def __init__(self, host: str, port: int, interface: str, now_s: float, names: Names = NAMES) -> None:
        self._until_s = now_s + CONNECT_S
        self._sock: socket.socket | None = None
        address = names.known(host, port)
        if address is None:
            return
        self._sock = socket.socket(address[0], socket.SOCK_STREAM)
        try:
            bind_to(self._sock, interface)
            self._sock.setblocking(False)
            self._sock.connect(address[1])
        except BlockingIOError:
            pass  # under way
        except OSError:
            self.close()

    def answer(self, now_s: float) -> bool | None:
        """None while nobody knows."""
        if self._sock is None:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if poll.poll(0):
            well = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        elif now_s < self._until_s:
            return None
        else:
            well = False
        self.close()
        return well

    def close(self) -> None:
        """Twice is once."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Lookout:
    """Of one platform."""

    def __init__(self, route: Route, host: str, port: int, names: Names = NAMES) -> None:
        self._route, self._host, self._port, self._names = route, host, port, names
        self._knock: Knock | None = None

    def better(self, now_s: float) -> bool:
        """Whether it is time to hang up, because the route's preferred link is to be used again."""
        if self._knock is None:
            link = self._route.knock(now_s)
            if link is not None:
                self._knock = Knock(self._host, self._port, link.interface, now_s, self._names)
            return False
        answer = self._knock.answer(now_s)
        if answer is None:
            return False
        self._knock = None
        return self._route.knocked(answer, now_s)
