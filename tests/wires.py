"""A bare program on a simulated wire: writes bytes, hears bytes, believes nothing."""

import os
import select
import termios
import time
import tty
from pathlib import Path

from drivers.exchange import checked
from drivers.sensor import Serial
from drivers.template import find

LIBRARY = (Path(__file__).parents[1] / "config" / "sensors",)
FAST = Serial(baud=115200)


def model(name):
    return find(name, LIBRARY)


def rtu(*body):
    return checked(bytes(body))


class Program:
    """Holds a port open with settings of its own. A context manager."""

    def __init__(self, port, serial=FAST):
        self.fd = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self.fd)
        self.set(serial)

    def set(self, serial, *, inpck=True):
        """Choose settings; INPCK with parity is what lets the rig see it."""
        mode = termios.tcgetattr(self.fd)
        mode[4] = mode[5] = getattr(termios, f"B{serial.baud}")
        mode[2] &= ~(termios.CSTOPB | termios.PARODD)
        mode[2] |= (termios.CSTOPB if serial.stop_bits == 2 else 0) | (termios.PARODD if serial.parity == "odd" else 0)
        mode[0] = mode[0] | termios.INPCK if inpck and serial.parity != "none" else mode[0] & ~termios.INPCK
        termios.tcsetattr(self.fd, termios.TCSANOW, mode)

    def say(self, frame):
        os.write(self.fd, frame)

    def hear(self, enough=1, patience_s=2.0, pause_s=0.06):
        """Listen until `enough` bytes and then a pause, or the end of patience."""
        heard, end_s = b"", time.monotonic() + patience_s
        while (left := end_s - time.monotonic()) > 0:
            wait_s = min(left, pause_s) if len(heard) >= enough else left
            if not select.select([self.fd], [], [], wait_s)[0]:
                break
            heard += os.read(self.fd, 4096)
        return heard

    def ask(self, frame, enough=1, patience_s=2.0, pause_s=0.06):
        self.say(frame)
        return self.hear(enough, patience_s, pause_s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
