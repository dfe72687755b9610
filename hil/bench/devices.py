"""Many Modbus TCP devices in one cheap process, which counts what it truly said.

Owns: HOSTS listening ports with UNITS devices each. Promises: every answer's first register is the number of the
answer of that device (from 1, 16 bits), so that each can be looked for at the far end; the others wander, on every
host differently. Never: checks more of a request than it must: this is load, `hil.slaves` is the devices.

Usage: python -m hil.bench.devices HOSTS UNITS REGISTERS
Prints its ports, then answers ``count`` and ``mute`` (answer nobody from now on) with the answers a device has given.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import struct
import sys
import time

_REQUEST = struct.Struct(">HHHBBHH")
_ANSWER = struct.Struct(">HHHBBBH")
_IMAGES = 61


def _images(registers: int, host: int) -> list[bytes]:
    """Registers after the first, in steps of a slow random walk that ends where it begins."""
    rng = random.Random(host)
    steps = [[rng.randrange(-2, 3) for _ in range(registers - 1)] for _ in range(_IMAGES // 2)]
    now, out = [1000] * (registers - 1), []
    for step in [*steps, *[[-s for s in step] for step in steps]]:
        out.append(struct.pack(f">{registers - 1}H", *now))
        now = [a + b for a, b in zip(now, step, strict=True)]
    return out


def main(hosts: int, units: int, registers: int) -> None:
    """Serve until standard input ends."""
    images = [_images(registers, host) for host in range(hosts)]
    said = [[0] * (units + 1) for _ in range(hosts)]
    ears, size, width = selectors.DefaultSelector(), 2 * registers, _IMAGES // 2 * 2
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(hosts)]
    for host, server in enumerate(servers):
        ears.register(server, selectors.EVENT_READ, (host, None))
    ears.register(sys.stdin, selectors.EVENT_READ, (-1, None))
    print(json.dumps({"ports": [server.getsockname()[1] for server in servers]}), flush=True)
    mute = False
    while True:
        for key, _ in ears.select():
            host, link = key.data
            if host < 0:
                word = sys.stdin.readline().strip()
                if not word:
                    return
                mute = mute or word == "mute"
                print(json.dumps({"at_s": time.monotonic(), "answers": sum(map(sum, said)), "said": said}), flush=True)
            elif link is None:
                link, _ = servers[host].accept()
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ears.register(link, selectors.EVENT_READ, (host, link))
            else:
                try:
                    asked = link.recv(4096)   # requests are 12 bytes and come whole on a loopback
                except ConnectionResetError:   # it left before our last answer
                    asked = b""
                if not asked:
                    ears.unregister(link)
                    link.close()
                    continue
                if mute:
                    continue
                out, counts = b"", said[host]
                for at in range(0, len(asked) - 11, 12):
                    number, _, _, unit, function, _, _ = _REQUEST.unpack_from(asked, at)
                    counts[unit] = count = counts[unit] + 1
                    out += _ANSWER.pack(number, 0, size + 3, unit, function, size, count & 0xFFFF) + \
                        images[host][(count + 7 * unit) % width]
                link.sendall(out)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
