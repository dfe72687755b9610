"""An MQTT broker of one's own: mosquitto where there is one, else amqtt.

Owns: the broker's process, its folder with configuration and log. Promises: `start` returns when the port answers, and
says what went wrong with the end of the log otherwise; `kind` says which broker it is. Never: touches a broker it did
not start.

amqtt is pure Python and speaks MQTT 3.1.1 only, without TLS client checks, ACL or sessions that outlive a connection:
good for a demo on a machine without mosquitto, not for durability or security tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal, Self

from msgspec import Struct

from hil.certificates import Authority, Pair
from hil.netns import Namespace

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin")
_START_S = 10.0


class Security(Struct, frozen=True, kw_only=True):
    """Who may do what. Files are made in the broker's folder."""

    server: Pair | None = None
    """TLS with this certificate; clients must show one signed by `authority`."""
    authority: Authority | None = None
    client_certificates: bool = True
    passwords: Mapping[str, str] = {}
    acl: str = ""
    """Lines of a mosquitto acl_file."""


def find_mosquitto() -> str | None:
    """Path of a mosquitto, also where Debian hides it from ordinary users' PATH."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_FOLDERS))
    return shutil.which("mosquitto", path=path)


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Broker:
    """One broker. `port` 0 picks a free one; it stays the same over restarts."""

    def __init__(self, port: int = 0, folder: Path | str = ".", prefer: Literal["mosquitto", "amqtt"] | None = None,
                 security: Security | None = None, settings: str = "", host: str = "127.0.0.1",
                 within: Namespace | None = None) -> None:
        """`settings`: further lines of mosquitto.conf; `within`: the network namespace it lives in.

        Raises:
            RuntimeError: neither broker is installed; says how to get one.
        """
        self.host, self.port = host, port or free_port()
        self._within = within
        self.folder = Path(folder)
        self._security = security or Security()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        mosquitto = find_mosquitto() if prefer != "amqtt" else None
        if mosquitto is not None:
            said = subprocess.run([mosquitto, "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
            version = re.search(r"version (\S+)", said)
            self.kind = f"mosquitto {version.group(1) if version else '?'}"
            self._command = [mosquitto, "-c", str(self.folder / "mosquitto.conf")]
        elif prefer != "mosquitto" and importlib.util.find_spec("amqtt") is not None:
            if security is not None:
                raise RuntimeError("amqtt cannot do TLS, passwords or ACLs here; install mosquitto for that")
            self.kind = f"amqtt {metadata.version('amqtt')}"
            self._command = [sys.executable, "-m", "hil.broker", str(self.port)]
        else:
            raise RuntimeError("no MQTT broker found: expected mosquitto on the PATH or in /usr/sbin "
                               "(apt-get install mosquitto), or amqtt (pip install 'mingluo[demo]')")
        if within is not None:
            self._command = ["ip", "netns", "exec", within.name, *self._command]

    @property
    def mqtt(self) -> Literal["5", "3.1.1"]:
        """The newest MQTT version it speaks."""
        return "5" if self.kind.startswith("mosquitto") else "3.1.1"

    @property
    def log(self) -> Path:
        """What the broker wrote."""
        return self.folder / "broker.log"

    def _configure(self) -> None:
        lines = [f"listener {self.port} {self.host}", "persistence false", "set_tcp_nodelay true", "log_type all",
                 "connection_messages true", "max_queued_messages 100000", f"log_dest file {self.log.absolute()}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            lines.insert(0, "user root")  # else it steps down to a user who cannot read this folder
        security = self._security
        if security.server is not None and security.authority is not None:
            lines += [f"cafile {security.authority.cert.absolute()}", f"certfile {security.server.cert.absolute()}",
                      f"keyfile {security.server.key.absolute()}",
                      f"require_certificate {str(security.client_certificates).lower()}"]
        if security.passwords:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(f"{name}:{word}\n" for name, word in security.passwords.items()))
            passwords.chmod(0o600)
            tool = shutil.which("mosquitto_passwd", path=os.pathsep.join((os.environ.get("PATH", ""), *_FOLDERS)))
            if tool is None:
                raise RuntimeError("mosquitto_passwd not found: it comes with mosquitto")
            subprocess.run([tool, "-U", str(passwords)], check=True, capture_output=True, timeout=30)
            lines.append(f"password_file {passwords.absolute()}")
        lines.append(f"allow_anonymous {'false' if security.passwords else 'true'}")
        if security.acl:
            acl = self.folder / "acl"
            acl.write_text(security.acl)
            acl.chmod(0o600)
            lines.append(f"acl_file {acl.absolute()}")
        (self.folder / "mosquitto.conf").write_text("\n".join([*lines, self._settings, ""]))

    def start(self) -> Self:
        """Start it and wait until the port answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.kind.startswith("mosquitto"):
            self._configure()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            with (self._within.inside() if self._within else contextlib.nullcontext(), contextlib.suppress(OSError),
                  socket.create_connection((self.host, self.port), timeout=1)):
                return self
            time.sleep(0.01)
        code = self._process.poll()
        self.kill()
        tail = self.log.read_text(errors="replace")[-800:] if self.log.exists() else ""
        what = "did not answer" if code is None else f"ended with {code}"
        raise RuntimeError(f"{self.kind} on port {self.port} {what}; its log {self.log} ends: {tail}")

    def reload(self, security: Security) -> None:
        """Let mosquitto read new passwords and ACLs while it runs."""
        self._security = security
        self._configure()
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def hang(self) -> None:
        """Stop it where it is: its kernel still accepts, and nobody answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self, security: Security | None = None) -> None:
        """Kill and start on the same port; with other rights or certificates if given."""
        self.kill()
        self._security = security or self._security
        self.start()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def _serve_amqtt(port: int) -> None:
    import asyncio

    from amqtt.broker import Broker as Amqtt

    async def serve() -> None:
        broker = Amqtt({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
                        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}})
        done = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
        await broker.start()
        await done.wait()
        await broker.shutdown()

    asyncio.run(serve())


if __name__ == "__main__":
    _serve_amqtt(int(sys.argv[1]))
