"""Pins by port string: one input, one relay, and the gpiozero factory they share.

Owns: gpiozero and lgpio, the port strings ``lgpio``, ``lgpio:CHIP`` and ``mock:SOCKET_PATH``, and one factory per port
in this process, however many wires and outputs use it.
Promises: a relay is opened inactive without a pulse on the line, also when active is low; closing leaves the pin an
undriven input, so that the wiring decides; what is missing is a `LinkError` that says what to do.
Never: uses gpiozero's global default factory, debounces, knows what a pin means.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from gpiozero import InputDevice, OutputDevice
from gpiozero.pins.mock import MockFactory, MockPin

from drivers import LinkError, SetupError
from drivers.mirror import PATH_MAX_BYTES, Mirror

Level = Literal["high", "low"]
Pull = Literal["up", "down", "none"]

FIXED_PULL_UPS = frozenset({2, 3})
"""The I2C pins carry 1.8 kΩ pull-ups to 3.3 V on every Raspberry Pi board (board schematics)."""

_DEV = Path("/dev")
_ports: dict[str, _Port] = {}
_ports_lock = threading.Lock()


def parse(port: str) -> tuple[Literal["lgpio"], int | None] | tuple[Literal["mock"], Path]:
    """Split a port string into its kind and the chip (``None``: the board's own header) or socket path.

    Raises:
        SetupError: neither ``lgpio``, ``lgpio:CHIP`` nor ``mock:SOCKET_PATH``.
    """
    kind, colon, rest = port.partition(":")
    if kind == "lgpio" and not colon:
        return "lgpio", None
    if kind == "lgpio" and rest.isascii() and rest.isdigit():
        return "lgpio", int(rest)
    if kind == "mock" and rest:
        path = Path(rest).absolute()
        if len(os.fsencode(path)) > PATH_MAX_BYTES:
            raise SetupError(f"port {port!r}: a socket path may have {PATH_MAX_BYTES} bytes at most, "
                             f"this one has {len(os.fsencode(path))}: choose a shorter folder")
        return "mock", path
    raise SetupError(f"port {port!r}: expected lgpio, lgpio:CHIP (lgpio:0) or mock:SOCKET_PATH")


class Input:
    """One pin that is read. Every edge calls `on_edge(level, at_s)` from gpiozero's thread.

    `at_s` is the edge's own monotonic time where the back-end knows it.

    Raises:
        LinkError: the port is not there, or the pin is taken.
        SetupError: the port string is wrong.
    """

    def __init__(self, port: str, pin: int, pull: Pull, on_edge: Callable[[bool, float], None]) -> None:
        self._what = f"{port} pin {pin}"
        self._on_edge = on_edge
        self._device: Any = None
        self._port: _Port | None = _share(port)
        try:
            pull_up = {"up": True, "down": False, "none": None}[pull]
            self._device = InputDevice(pin, pull_up=pull_up, active_state=True if pull_up is None else None,
                                       pin_factory=self._port.factory)
            # gpiozero keeps only a weak reference, so this must be a method of something that lives.
            self._device.pin.when_changed = self._changed
        except Exception as error:  # lgpio's and gpiozero's errors share no base class
            self.close()
            raise LinkError(f"{self._what}: cannot be read ({error})") from error

    def level(self) -> bool:
        """What the pin says now.

        Raises:
            LinkError: the chip no longer answers, or the input is closed.
        """
        if self._device is None:
            raise LinkError(f"{self._what}: is closed")
        try:
            return bool(self._device.pin.state)
        except Exception as error:
            raise LinkError(f"{self._what}: cannot be read ({error})") from error

    def close(self) -> None:
        """Let go of the pin; twice is once."""
        device, self._device = self._device, None
        if device is not None:
            # A chip that is gone cannot be told so; letting go must still succeed.
            with contextlib.suppress(Exception):
                device.pin.when_changed = None
                device.close()
        port, self._port = self._port, None
        if port is not None:
            port.release()

    def _changed(self, ticks: float, state: Any) -> None:
        self._on_edge(bool(state), ticks)


class Relay:
    """One pin that is driven; opened off. See `open_relay`."""

    def __init__(self, port: str, pin: int, active: Level) -> None:
        self._what = f"{port} pin {pin}"
        self._device: Any = None
        self._port: _Port | None = _share(port)
        try:
            self._device = OutputDevice(pin, active_high=active == "high", initial_value=False,
                                        pin_factory=self._port.factory)
        except Exception as error:
            self.close()
            raise LinkError(f"{self._what}: cannot be driven ({error})") from error

    def on(self) -> None:
        """Drive the pin to its active level.

        Raises:
            LinkError: the chip refuses, or the relay is closed.
        """
        self._write(True)

    def off(self) -> None:
        """Drive the pin to its inactive level.

        Raises:
            LinkError: the chip refuses, or the relay is closed.
        """
        self._write(False)

    @property
    def is_on(self) -> bool:
        """Whether the pin is driven active; False when closed."""
        device = self._device
        return device is not None and bool(device.value)

    def close(self) -> None:
        """Off, then an undriven input: from here the wiring decides. Twice is once."""
        device, self._device = self._device, None
        if device is not None:
            with contextlib.suppress(Exception):  # a chip that is gone drives nothing
                device.off()
            with contextlib.suppress(Exception):
                device.close()
        port, self._port = self._port, None
        if port is not None:
            port.release()

    def _write(self, on: bool) -> None:
        if self._device is None:
            raise LinkError(f"{self._what}: is closed")
        try:
            self._device.value = on
        except Exception as error:
            raise LinkError(f"{self._what}: cannot be switched {'on' if on else 'off'} ({error})") from error


def open_relay(port: str, pin: int, active: Level) -> Relay:
    """Take a pin as an output, inactive, without a pulse on the line.

    Raises:
        LinkError: the port is not there, or the pin is taken.
        SetupError: the port string is wrong.
    """
    return Relay(port, pin, active)


class _Port:
    """A factory, kept open while any input or relay uses it."""

    def __init__(self, key: str, factory: Any, close: Callable[[], None]) -> None:
        self.key = key
        self.factory = factory
        self.users = 0
        self._close = close

    def release(self) -> None:
        """One user less; the last one closes the factory."""
        with _ports_lock:
            self.users -= 1
            if not self.users:
                del _ports[self.key]
                self._close()


def _share(port: str) -> _Port:
    kind, detail = parse(port)
    key = f"{kind}:{'' if detail is None else detail}"
    with _ports_lock:
        found = _ports.get(key)
        if found is None:
            found = _open_mock(key, detail) if isinstance(detail, Path) else _open_lgpio(key, detail)
            _ports[key] = found
        found.users += 1
        return found


class _MirroredPin(MockPin):  # type: ignore[misc]
    """A mock pin that shows every change to the mirror and obeys the level driven from outside."""

    def __init__(self, factory: Any, info: Any) -> None:
        self._outside: bool | None = None
        self._turn = threading.RLock()
        super().__init__(factory, info)

    def output_with_state(self, state: Any) -> None:
        with self._turn:
            self._function = "output"
            if not self._change_state(bool(state)):
                self._show(time.monotonic())

    def input_with_pull(self, pull: Any) -> None:
        with self._turn:
            super().input_with_pull(pull)
            self._show(time.monotonic())

    def drive(self, level: bool | None) -> None:
        """Hold the pin at `level` from outside; ``None`` lets go, and the pull decides."""
        with self._turn:
            self._outside = level
            if self._function == "input":
                self._settle({"up": True, "down": False}.get(self._pull, bool(self._state)))

    # gpiozero's mock jumps to the pull's level whenever the pull is set; a driven level is stronger than a pull.
    def drive_high(self) -> None:
        self._settle(True)

    def drive_low(self) -> None:
        self._settle(False)

    def _settle(self, pulled: bool) -> None:
        level = pulled if self._outside is None else self._outside
        (super().drive_high if level else super().drive_low)()

    def _set_function(self, value: str) -> None:
        with self._turn:
            was = self._function
            super()._set_function(value)
            if self._function != was:
                self._show(time.monotonic())

    def _set_state(self, value: Any) -> None:
        with self._turn:
            super()._set_state(value)

    def _change_state(self, value: Any) -> bool:
        changed = bool(super()._change_state(value))
        if changed:
            self._show(self._last_change)
        return changed

    def _show(self, at_s: float) -> None:
        self.factory.mirror.report(self._number, bool(self._state), self._function, at_s)


def _open_mock(key: str, path: Path) -> _Port:
    factory = MockFactory(pin_class=_MirroredPin)
    factory.mirror = Mirror(path, lambda pin, level: factory.pin(pin).drive(level))
    return _Port(key, factory, factory.mirror.close)


def _open_lgpio(key: str, chip: int | None) -> _Port:
    wanted = _DEV / f"gpiochip{chip or 0}"
    here = [wanted] if chip is not None else sorted(_DEV.glob("gpiochip*"))
    if not here or not here[0].exists():
        raise LinkError(f"no {wanted}: this machine shows no such pins: on a Raspberry Pi look at `ls /dev/gpiochip*` "
                        f"and set port to lgpio:CHIP; elsewhere use port mock:SOCKET_PATH (demo only)")
    if not os.access(here[0], os.R_OK | os.W_OK):
        raise LinkError(f"{here[0]}: not allowed: add the user that runs this to the group of that file "
                        f"(usermod -aG gpio USER) and start again")
    try:
        with _lgpio_folder():
            import lgpio
            from gpiozero.pins.lgpio import LGPIOFactory, LGPIOPin
    except (ImportError, OSError) as error:
        raise LinkError(f"lgpio cannot be imported ({error}): install it beside this program (pip install lgpio) "
                        f"and start in a folder that can be written, or set LG_WD to one") from error

    class QuietPin(LGPIOPin):  # type: ignore[misc]
        def output_with_state(self, state: Any) -> None:
            # gpiozero claims the line low and writes the level afterwards: an active-low siren would yelp.
            lgpio.gpio_claim_output(self.factory._handle, self._number, int(bool(state)))  # noqa: SLF001

    try:
        factory = LGPIOFactory(chip=chip)
        # gpiozero shares one table of pins between all its local factories; closing one would close the others' pins.
        factory.pins = {}
        factory.pin_class = QuietPin
    except Exception as error:
        raise LinkError(f"{here[0]}: cannot be opened ({error}): expected a Raspberry Pi header; "
                        f"set port to lgpio:CHIP with the chip that carries it") from error
    return _Port(key, factory, factory.close)


@contextlib.contextmanager
def _lgpio_folder() -> Iterator[None]:
    """Give lgpio a folder it may write.

    Its import makes a FIFO in the working directory; when $LG_WD is set it makes it there, and moves there for good.
    """
    here = Path.cwd()
    if not os.access(here, os.W_OK):
        folder = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or tempfile.gettempdir()
        os.environ.setdefault("LG_WD", folder)
    try:
        yield
    finally:
        if "LG_WD" in os.environ:
            os.chdir(here)
