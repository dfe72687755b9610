"""A serial port a program can open: a pty behind a path of its own.

Owns: the pty and its symlink. Promises: the settings a program gave it can be asked at any moment; pulled out, whoever
has it open gets EIO and the path is gone. Never: keeps time.
"""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from pathlib import Path

from hil.waveform import Settings, of_port


class Port:
    """One adapter. `echo`: it hears what it sends, as an RS-485 adapter does whose receiver is never switched off."""

    def __init__(self, path: Path, first: Settings, echo: bool = False, strict_parity: bool = False) -> None:
        self.path, self.echo = path, echo
        self.master = self.slave = -1
        self._first, self._strict = first, strict_parity
        self.plug()

    def plug(self) -> None:
        """Put it in; a program that sets nothing then speaks with the wire's settings."""
        self.master, self.slave = os.openpty()
        for fd in (self.master, self.slave):
            tty.setraw(fd)
        mode = termios.tcgetattr(self.slave)
        mode[4] = mode[5] = getattr(termios, f"B{self._first.baud}", mode[4])
        mode[2] = mode[2] | termios.CSTOPB if self._first.stop_bits == 2 else mode[2] & ~termios.CSTOPB
        if self._first.parity == "odd":
            mode[2] |= termios.PARODD
        if self._first.parity == "even":
            mode[0] |= termios.INPCK
        termios.tcsetattr(self.slave, termios.TCSANOW, mode)
        os.set_blocking(self.master, False)
        spare = self.path.with_name(self.path.name + ".new")
        spare.unlink(missing_ok=True)
        spare.symlink_to(os.ttyname(self.slave))
        spare.replace(self.path)

    def unplug(self) -> None:
        """Pull it out; twice is once."""
        if self.master >= 0:
            os.close(self.master)
            os.close(self.slave)
            self.path.unlink(missing_ok=True)
        self.master = self.slave = -1

    def settings(self) -> Settings:
        """Return what the program has set now."""
        return of_port(self.master, self._strict)

    def say(self, data: bytes) -> bool:
        """Let the program hear bytes; False when nobody reads and the kernel's buffer is full."""
        with contextlib.suppress(BlockingIOError):
            return os.write(self.master, data) == len(data)
        return False
