"""Arguments the installer's commands share, and what becomes of them.

Owns: option types, defaults, and how a command ends. Promises: a wrong argument is said with what was expected; what a
person can act on is told in both languages, the asked one first. Never: asks a wire.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import typer

from drivers import Library, LinkError, SetupError
from drivers import template as templates
from drivers.sensor import Serial, Template
from gateway.installer.borrow import Loan, lendable
from gateway.installer.diagnoses import diagnose
from gateway.installer.evidence import broken_link, weigh
from gateway.installer.link import Link
from gateway.installer.words import Lang, Text, Told

SHIPPED = Path(templates.__file__).parent.parent / "config" / "sensors"
SITE = Path("/etc/mingluo/sensors")
FACTORY = Serial()

Port = Annotated[str, typer.Argument(help="/dev/ttyUSB0, /dev/serial/by-path/…, or tcp://host:port")]
Language = Annotated[Lang, typer.Option(help="language of the answer")]
Socket = Annotated[str, typer.Option(envvar="MINGLUO_SOCKET",
                                           help="control socket of the running gateway, which lends the port")]
Model = Annotated[str, typer.Option("--template", help="sensor model: a name, or a template file")]
Address = Annotated[int | None, typer.Option(min=1, max=247, help="of the device; absent = as from the factory")]
Baud = Annotated[int | None, typer.Option(help="speed; absent = the model's, or 9600")]
Parity = Annotated[Literal["none", "even", "odd"] | None, typer.Option(help="absent = the model's, or none")]
Stop = Annotated[int | None, typer.Option("--stop-bits", min=1, max=2, help="absent = the model's, or 1")]
Framing = Annotated[Literal["rtu", "ascii", "tcp"] | None, typer.Option(
    help="what travels; absent = rtu on a serial port, tcp (Modbus TCP) on a network")]
Echo = Annotated[bool, typer.Option("--echo", help="the adapter hears its own bytes")]
Sensors = Annotated[Path, typer.Option(help="folder of the site's own templates, looked at before the shipped")]
Timeout = Annotated[int, typer.Option(min=20, max=10000, help="how long to wait for an answer")]
Json = Annotated[bool, typer.Option("--json", help="everything, for machines")]
Parameter = Annotated[list[str], typer.Option("--parameter", help="name=number of this very instrument")]
SOCKET = "/run/mingluo/control.sock"


@contextlib.contextmanager
def telling(lang: Lang) -> Iterator[None]:
    """Turn what stops a command into sentences, the asked language first, and an exit code."""
    try:
        yield
    except Told as told:
        fail(told.text, lang, told.code)
    except LinkError as error:
        rows = diagnose(weigh((), more=broken_link(error)))
        what, do = (rows[0].what, rows[0].do) if rows else (Text(str(error), str(error)), Text("", ""))
        fail(Text(f"{what.zh}：{do.zh}", f"{what.en}: {do.en}"), lang, detail=str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(text: Text, lang: Lang, code: int = 1, detail: str = "") -> NoReturn:
    """Say it on stderr and end the command."""
    shown = [text.zh, text.en] if lang == "zh" else [text.en, text.zh]
    for line in dict.fromkeys([*shown, *([f"({detail})"] if detail else [])]):
        typer.echo(line, err=True)
    raise typer.Exit(code)


def say(text: Text, lang: Lang, err: bool = False, **values: Any) -> None:
    """Say it in one language."""
    typer.echo(text.of(lang, **values), err=err)


def interruptible() -> None:
    """A closed terminal or a `kill` ends a command as Ctrl-C does: with what was found, and the port given back."""
    def leave(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def library(sensors: Path) -> Library:
    """Return where models are looked for."""
    return (sensors, SHIPPED)


def models(library: Library) -> list[Template]:
    """All models that load; a broken one is named and left out."""
    found = []
    for name in templates.names(library):
        try:
            found.append(templates.find(name, library))
        except SetupError as error:
            typer.echo(str(error), err=True)
    return found


def model(name: str, library: Library) -> Template:
    """Return a model by its name or file.

    Raises:
        SetupError: there is none, or it is broken.
        strictyaml.Problems: the file is wrong, with lines.
    """
    return templates.load(Path(name)) if name.endswith((".yaml", ".yml")) else templates.find(name, library)


def serial(baud: int | None, parity: Any, stop_bits: int | None, model: Template | None = None) -> Serial:
    """Return the asked settings, the model's where nothing is asked."""
    usual = model.serial if model else FACTORY
    asked = {"baud": baud or usual.baud, "parity": parity or usual.parity, "stop_bits": stop_bits or usual.stop_bits,
             "data_bits": usual.data_bits}
    try:
        return msgspec.convert(asked, Serial)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"{asked['baud']} baud: {error}") from error


def parameters(given: list[str], model: Template) -> dict[str, float]:
    """Read ``name=number``; raises typer.BadParameter."""
    found = {}
    for one in given:
        name, _, number = one.partition("=")
        if name not in model.parameters:
            raise typer.BadParameter(f"{name!r}: {model.model} has {', '.join(model.parameters) or 'no parameters'}")
        try:
            found[name] = float(number)
        except ValueError:
            raise typer.BadParameter(f"{one!r}: expected name=number") from None
    return found


def link(port: str, serial: Serial, socket: str, timeout_ms: int, echo: bool = False,
         framing: Literal["rtu", "ascii", "tcp"] | None = None) -> Link:
    """Prepare a port; raises typer.BadParameter where it is none."""
    try:
        return Link(port, serial, Loan(socket, lendable(port), time.monotonic), time.monotonic,
                    timeout_s=timeout_ms / 1000, echo=echo, framing=framing)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def addresses(text: str) -> list[int] | None:
    """Read ``1-30,200``."""
    if not text:
        return None
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected addresses like 1-30 or 1,2,200") from None
    if not found or min(found) < 1 or max(found) > 247:
        raise typer.BadParameter(f"{text!r}: addresses go from 1 to 247")
    return found
