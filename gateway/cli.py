"""The commands an installer, an officer and an editor use. Imported by people's commands only, never by the service.

Owns: arguments, exit codes and how answers look on a screen. Promises: every command that asks the running gateway
does so through its control socket and says what to do when there is none. Never: touches pins, wires or the journal.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gateway import config as site
from gateway import control, status

cli = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  help="Mingluo 鸣锣: the field box of a county's early-warning network.")

Lang = Annotated[Literal["zh", "en"], typer.Option(help="language of the answer")]
Socket = Annotated[str, typer.Option(help="control socket of the running gateway")]
DEFAULT_SOCKET = os.environ.get("MINGLUO_SOCKET", "/run/mingluo/control.sock")
OBJECT = typer.Argument(help="object id, as in the configuration")


def _fail(message: str, code: int = 1) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _ask(socket: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return control.ask(socket, request, timeout_s=5.0)
    except control.Unreachable as error:
        _fail(str(error), 2)
        raise  # not reached; keeps the type checker honest


def _command(socket: str, lang: str, kind: str, object_: str, **more: Any) -> None:
    """Send one Command and print what became of it."""
    request = {"do": "command", "kind": kind, "object": object_, "who": getpass.getuser(), **more}
    reply = _ask(socket, {k: v for k, v in request.items() if v is not None})
    text = reply.get(f"text_{lang}") or reply.get("error") or json.dumps(reply, ensure_ascii=False)
    typer.echo(text, err=not reply.get("ok"))
    if not reply.get("ok"):
        raise typer.Exit(1)


@cli.command()
def run(config: Annotated[Path, typer.Argument(help="the site's gateway.yaml")]) -> None:
    """Run the gateway (what the systemd unit does)."""
    from gateway.app import run as run_gateway

    raise typer.Exit(run_gateway(str(config)))


@cli.command()
def check(config: Annotated[Path, typer.Argument(help="the file to check")]) -> None:
    """Print every error of a configuration at once; exit 1 if there is one."""
    problems = site.check(config)
    for problem in problems:
        typer.echo(str(problem), err=True)
    if problems:
        typer.echo(f"{config}: {len(problems)} error{'s' * (len(problems) > 1)}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{config}: all good")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    typer.echo(json.dumps(site.schema(), ensure_ascii=False, indent=2))


@cli.command("status")
def show_status(
    socket: Socket = DEFAULT_SOCKET,
    lang: Lang = "zh",
    as_json: Annotated[bool, typer.Option("--json", help="the whole document, for machines")] = False,
) -> None:
    """Show objects, wires, alarms, backlog, clock, disk and restarts of the running gateway."""
    document = _ask(socket, {"do": "status"})
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    for line in status.lines(document, lang):
        typer.echo(line)


@cli.command()
def ack(object_: Annotated[str, OBJECT], socket: Socket = DEFAULT_SOCKET, lang: Lang = "zh") -> None:
    """Acknowledge an object's alarm: somebody has heard it. The alarm goes on."""
    _command(socket, lang, "acknowledge", object_)


@cli.command()
def silence(
    object_: Annotated[str, OBJECT],
    minutes: Annotated[float | None, typer.Option(help="how long; absent = the siren's own setting")] = None,
    socket: Socket = DEFAULT_SOCKET,
    lang: Lang = "zh",
) -> None:
    """Silence an object's sirens for a while; a higher colour breaks the silence."""
    _command(socket, lang, "silence", object_, for_s=minutes and minutes * 60)


@cli.command()
def clear(object_: Annotated[str, OBJECT], socket: Socket = DEFAULT_SOCKET, lang: Lang = "zh") -> None:
    """End a latched alarm whose cause is gone."""
    _command(socket, lang, "clear", object_)


@cli.command()
def confirm(object_: Annotated[str, OBJECT], socket: Socket = DEFAULT_SOCKET, lang: Lang = "zh") -> None:
    """Let an alarm that waits for an officer sound."""
    _command(socket, lang, "confirm", object_)


@cli.command()
def refuse(object_: Annotated[str, OBJECT], socket: Socket = DEFAULT_SOCKET, lang: Lang = "zh") -> None:
    """Hold an alarm that waits for an officer."""
    _command(socket, lang, "refuse", object_)


@cli.command()
def service(
    object_: Annotated[str, OBJECT],
    state: Annotated[Literal["commissioning", "trial", "in_service", "maintenance", "retired"],
                     typer.Argument(help="maintenance returns to service by itself")],
    hours: Annotated[float, typer.Option(min=0.01, max=72, help="how long maintenance lasts")] = 2.0,
    socket: Socket = DEFAULT_SOCKET,
    lang: Lang = "zh",
) -> None:
    """Set an object's service state. Outside in_service everything is reported as a test and no siren sounds."""
    _command(socket, lang, "service", object_, service=state, for_s=hours * 3600 if state == "maintenance" else None)


@cli.command()
def demo(
    forever: Annotated[bool, typer.Option(help="go on after the story, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print only the summary, for machines")] = False,
    folder: Annotated[Path | None, typer.Option(help="keep the demo's files here")] = None,
    lang: Lang = "zh",
) -> None:
    """Run the real gateway against simulated wires, with a story of about a minute. No root, no hardware."""
    from hil.demo import Demo

    raise typer.Exit(Demo(folder=folder, forever=forever, as_json=as_json, lang=lang, screen=sys.stdout).run())


@cli.command()
def version() -> None:
    """Print the version."""
    from importlib import metadata

    typer.echo(metadata.version("mingluo"))
