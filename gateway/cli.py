"""The commands an installer, an officer and an editor use. Imported by people's commands only, never by the service.

Owns: arguments, exit codes and how answers look on a screen. Promises: every command that asks the running gateway
does so through its control socket and says what to do when there is none. Never: touches pins, wires or the journal.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

import drivers
from drivers import strictyaml
from gateway import client, history_cli, journal_cli, site, status
from gateway.county import commands as county
from gateway.installer import commands as installer
from gateway.schema import schema as config_schema

EXIT_CODES = """Exit codes: 0 done; 1 refused, errors were found, or (discover, read, doctor) no sensor answers well;
2 wrong usage, or no gateway answers; 78 (run) the configuration is wrong; 130 interrupted."""


class _Commands(TyperGroup):
    """Turns what is known to go wrong into one line and exit code 1, never a traceback."""

    def invoke(self, *context: Any) -> Any:
        try:
            return super().invoke(*context)
        except BrokenPipeError:
            raise  # `mingluo status | head`: whoever read has enough; the framework leaves quietly
        except (strictyaml.Problems, drivers.SetupError, drivers.LinkError, OSError) as error:
            _fail(f"mingluo: {error}")


# Typer's own tracebacks show local variables; a person needs a sentence, so they are off.
cli = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  pretty_exceptions_enable=False, epilog=EXIT_CODES,
                  help="Mingluo 鸣锣: the field box of a county's early-warning network.")

Lang = Annotated[Literal["zh", "en"], typer.Option(help="language of the answer")]
Socket = Annotated[str, typer.Option(envvar="MINGLUO_SOCKET", help="control socket of the running gateway")]
SOCKET = "/run/mingluo/control.sock"
OBJECT = typer.Argument(help="object id, as in the configuration")
STYLES = {"red": "bold red", "orange": "bold dark_orange", "yellow": "bold yellow", "blue": "bold blue",
          "unknown": "bold magenta", "none": "green"}


def _fail(*texts: str, code: int = 1) -> NoReturn:
    for text in texts:
        typer.echo(text, err=True)
    raise typer.Exit(code)


def _ask(socket: str, request: dict[str, Any], lang: str) -> dict[str, Any]:
    try:
        return client.ask(socket, request, timeout_s=10.0)
    except client.Unreachable as error:
        _fail(*_in_order(lang, error.text_zh, error.text_en), code=2)


def _in_order(lang: str, zh: str, en: str) -> tuple[str, str]:
    """Both languages, the asked one first: who stands beside the box may not read the other."""
    return (zh, en) if lang == "zh" else (en, zh)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in /etc/passwd, as in a container
        return str(os.getuid())


def _command(socket: str, lang: str, kind: str, object_: str, **more: Any) -> None:
    """Send one Command and print what became of it."""
    request = {"do": "command", "kind": kind, "object": object_, "who": _user(), **more}
    reply = _ask(socket, {k: v for k, v in request.items() if v is not None}, lang)
    if not reply.get("ok"):
        _fail(*_in_order(lang, reply.get("text_zh", ""), reply.get("text_en", "")))
    typer.echo(reply[f"text_{lang}"])


@cli.command()
def run(config: Annotated[Path, typer.Argument(help="the site's gateway.yaml")]) -> None:
    """Run the gateway (what the systemd unit does)."""
    from gateway.app import run as run_gateway

    raise typer.Exit(run_gateway(str(config)))


@cli.command()
def check(config: Annotated[Path, typer.Argument(help="the file to check")]) -> None:
    """Print every error of a configuration at once; exit 1 if there is one."""
    problems = site.check(config) or site.plan(config)[1]
    for problem in problems:
        typer.echo(str(problem), err=True)
    if problems:
        typer.echo(f"{config}: {len(problems)} error{'s' * (len(problems) > 1)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{config}: all good")


@cli.command("plan")
def show_plan(
    config: Annotated[Path, typer.Argument(help="the site's gateway.yaml")],
    lang: Lang = "zh",
    as_json: Annotated[bool, typer.Option("--json", help="all figures, for machines")] = False,
) -> None:
    """Reckon requests and load of each wire, megabytes a month, flash writes a day; exit 1 above 80 % of any."""
    from gateway.plan.text import document, lines

    budget, problems = site.plan(config)
    typer.echo(document(budget) if as_json else "\n".join(lines(budget, lang)))
    raise typer.Exit(1 if problems else 0)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    typer.echo(json.dumps(config_schema(), ensure_ascii=False, indent=2))


@cli.command("status")
def show_status(
    socket: Socket = SOCKET,
    lang: Lang = "zh",
    as_json: Annotated[bool, typer.Option("--json", help="the whole document, for machines")] = False,
) -> None:
    """Show objects, wires, alarms, backlog, clock, disk and restarts of the running gateway."""
    document = _ask(socket, {"do": "status"}, lang)
    if not document.get("ok"):
        _fail(*_in_order(lang, document.get("text_zh", ""), document.get("text_en", "")))
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    lines = status.lines(document, lang)
    if sys.stdout.isatty():
        _show(lines)
    else:
        typer.echo("\n".join(lines))


def _show(lines: list[str]) -> None:
    """Print on a terminal: each object in its colour, its sections in bold."""
    from rich.console import Console
    from rich.text import Text

    words = {word: style for colour, style in STYLES.items() for word in status.WORDS[colour]}
    console = Console(highlight=False)
    for n, line in enumerate(lines):
        shown = Text(line, style="" if line.startswith(" ") and n else "bold")
        if (found := re.match(r" +\[([^]]+)\]", line)) and found[1] in words:
            shown.stylize(words[found[1]], *found.span())
        console.print(shown, soft_wrap=True)


@cli.command()
def ack(object_: Annotated[str, OBJECT], socket: Socket = SOCKET, lang: Lang = "zh") -> None:
    """Acknowledge an object's alarm: somebody has heard it. The alarm goes on."""
    _command(socket, lang, "acknowledge", object_)


@cli.command()
def silence(
    object_: Annotated[str, OBJECT],
    minutes: Annotated[float | None, typer.Option(help="how long; absent = the siren's own setting")] = None,
    socket: Socket = SOCKET,
    lang: Lang = "zh",
) -> None:
    """Silence an object's sirens for a while; a higher colour breaks the silence."""
    _command(socket, lang, "silence", object_, for_s=minutes and minutes * 60)


@cli.command()
def clear(object_: Annotated[str, OBJECT], socket: Socket = SOCKET, lang: Lang = "zh") -> None:
    """End a latched alarm whose cause is gone."""
    _command(socket, lang, "clear", object_)


@cli.command()
def confirm(object_: Annotated[str, OBJECT], socket: Socket = SOCKET, lang: Lang = "zh") -> None:
    """Let an alarm that waits for an officer sound."""
    _command(socket, lang, "confirm", object_)


@cli.command()
def refuse(object_: Annotated[str, OBJECT], socket: Socket = SOCKET, lang: Lang = "zh") -> None:
    """Hold an alarm that waits for an officer."""
    _command(socket, lang, "refuse", object_)


@cli.command()
def service(
    object_: Annotated[str, OBJECT],
    state: Annotated[Literal["commissioning", "trial", "in_service", "maintenance", "retired"],
                     typer.Argument(help="maintenance returns to service by itself")],
    hours: Annotated[float, typer.Option(min=0.01, max=72, help="how long maintenance lasts")] = 2.0,
    socket: Socket = SOCKET,
    lang: Lang = "zh",
) -> None:
    """Set an object's service state. Outside in_service everything is reported as a test and no siren sounds."""
    _command(socket, lang, "service", object_, service=state, for_s=hours * 3600 if state == "maintenance" else None)


def _wire_ask(socket: str, lang: str, kind: str, device: str, **more: Any) -> None:
    """Ask a device of the running gateway for something and print what became of it."""
    reply = _ask(socket, {"do": "wire", "kind": kind, "device": device, **more}, lang)
    text = reply.get(f"text_{lang}") or reply.get("text_en", "")
    if not reply.get("ok"):
        _fail(text, code=1)
    said = ", ".join(f"{point} = {'-' if value is None else format(value, 'g')}"
                     for point, value in reply.get("values", {}).items())
    typer.echo(f"{device}: {text} {said}".rstrip())


@cli.command()
def write(
    device: Annotated[str, typer.Argument(help="device id, as in the configuration")],
    point: Annotated[str, typer.Argument(help="a point the configuration lists under writable")],
    value: Annotated[float, typer.Argument(help="in the point's unit")],
    socket: Socket = SOCKET,
    lang: Lang = "zh",
) -> None:
    """Write a value to a device through the running gateway, and read it back."""
    _wire_ask(socket, lang, "write", device, values={point: value})


@cli.command()
def act(
    device: Annotated[str, typer.Argument(help="device id, as in the configuration")],
    action: Annotated[str, typer.Argument(help="an action the configuration lists under actions")],
    socket: Socket = SOCKET,
    lang: Lang = "zh",
) -> None:
    """Let a device do something its template knows by name, through the running gateway."""
    _wire_ask(socket, lang, "act", device, action=action)


@cli.command()
def pace(
    device: Annotated[str, typer.Argument(help="device id, as in the configuration")],
    every: Annotated[float, typer.Option(min=0.05, help="seconds between two readings")],
    minutes: Annotated[float, typer.Option(min=0.01, max=1440, help="how long")] = 60.0,
    socket: Socket = SOCKET,
    lang: Lang = "zh",
) -> None:
    """Read a device faster for a while (加密采集)."""
    _wire_ask(socket, lang, "pace", device, period_s=every, for_s=minutes * 60)


@cli.command()
def demo(
    forever: Annotated[bool, typer.Option(help="go on after the story, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print only the summary, for machines")] = False,
    folder: Annotated[Path | None, typer.Option(help="keep the demo's files here")] = None,
    lang: Lang = "zh",
) -> None:
    """Run the real gateway against simulated wires, with a story of about a minute. No root, no hardware."""
    from hil.demo import Demo

    def leave(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    # A closed terminal or a `kill` must end what the demo started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    try:
        code = Demo(folder=folder, forever=forever, as_json=as_json, lang=lang, screen=sys.stdout).run()
    except (AssertionError, RuntimeError) as error:  # a simulator or the gateway did not come up: it says which and why
        _fail(f"mingluo demo: {error}")
    raise typer.Exit(code)


@cli.command()
def version() -> None:
    """Print the version."""
    from importlib import metadata

    typer.echo(metadata.version("mingluo"))


installer.add(cli)
cli.add_typer(county.app, name="county")
journal_cli.add(cli)
history_cli.add(cli)
