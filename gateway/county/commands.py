"""`mingluo county`: the reference subscriber from the command line.

Owns: its arguments and what it prints. Promises: passwords come from files and are never shown. Never: keeps anything
itself.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.county.database import Database, connect
from gateway.county.rates import rates
from gateway.county.store import Store
from gateway.county.subscriber import Address, Subscriber

app = typer.Typer(no_args_is_help=True, help="The county's side: keep what the boxes say, ask for what is missing.")

Db = Annotated[str, typer.Option(help="SQLite file, or postgresql://user@host/name")]
Host = Annotated[str, typer.Option(help="the broker")]
Port = Annotated[int, typer.Option(help="its port")]
Root = Annotated[str, typer.Option(help="first part of the topics")]
Username = Annotated[str | None, typer.Option(help="login at the broker")]
PasswordFile = Annotated[Path | None, typer.Option(help="file that holds the password alone")]
CaFile = Annotated[str | None, typer.Option(help="certificate of the authority; turns TLS on")]


def _address(host: str, port: int, root: str, username: str | None, password_file: Path | None, ca_file: str | None,
             **more: Any) -> Address:
    password = password_file.read_text(encoding="utf-8").strip() if password_file else None
    return Address(host=host, port=port, root=root, username=username, password=password,
                   tls=(ca_file, None, None) if ca_file else None, **more)


def _open(db: str) -> Database:
    try:
        return connect(db)
    except Exception as error:
        raise OSError(f"the database {db.partition('@')[2] or db} cannot be opened: {error}") from error


@app.command()
def run(host: Host = "127.0.0.1", port: Port = 1883, root: Root = "mingluo", db: Db = "county.sqlite",
        client_id: Annotated[str, typer.Option(help="one for each process")] = "county",
        share: Annotated[str, typer.Option(help="name of the group of processes that share the work")] = "",
        receipts: Annotated[bool, typer.Option(help="confirm storage to the boxes")] = True,
        username: Username = None, password_file: PasswordFile = None, ca_file: CaFile = None) -> None:
    """Subscribe and keep everything, until interrupted; a line a second says how it goes."""
    subscriber = Subscriber(_address(host, port, root, username, password_file, ca_file, client_id=client_id,
                                     share=share, receipts=receipts), Store(_open(db))).start()
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: ended.append(n))
    typer.echo(f"subscribed to {root}/1/# at {host}:{port}, keeping in {db.partition('@')[2] or db}")
    say_at_s, before = time.monotonic() + 1.0, ""
    while not ended:
        subscriber.step(0.2)
        if time.monotonic() >= say_at_s:
            say_at_s = time.monotonic() + 1.0
            line = " ".join(f"{name} {subscriber.counts[name]}" for name in (
                "rows", "readings", "events", "duplicates", "replays", "unreadable"))
            if line != before:
                typer.echo(line)
                before = line
    subscriber.stop()


@app.command("rates")
def show_rates(db: Db = "county.sqlite",
               days: Annotated[float, typer.Option(help="how far back")] = 30.0) -> None:
    """Print online rate, delivery rate and command completion of each gateway."""
    now_ms = time.time_ns() // 1_000_000
    database = _open(db)
    for one in rates(database, now_ms - round(days * 86_400_000), now_ms):
        typer.echo(f"{one.gateway}  {'失联 grey' if one.grey else '正常 well'}  在线率 online {_share(one.online)}  "
                   f"到报率 delivered {_share(one.delivered)}  丢失 lost {one.lost_records}  "
                   f"命令完成率 commands {_share(one.commands)}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


@app.command()
def send(gateway: Annotated[str, typer.Argument(help="id of the gateway")],
         name: Annotated[str, typer.Argument(help="ack, silence, clear, confirm, refuse, service or read_now")],
         by: Annotated[str, typer.Option(help="who asks")],
         role: Annotated[str, typer.Option(help="as what")] = "值班员",
         object_: Annotated[str | None, typer.Option("--object", help="object id")] = None,
         device: Annotated[str | None, typer.Option(help="device id, for read_now")] = None,
         service: Annotated[str | None, typer.Option(help="service state, for service")] = None,
         for_s: Annotated[float | None, typer.Option(help="how long")] = None,
         wait_s: Annotated[float, typer.Option(help="patience for the answer")] = 15.0,
         host: Host = "127.0.0.1", port: Port = 1883, root: Root = "mingluo", db: Db = "county.sqlite",
         username: Username = None, password_file: PasswordFile = None, ca_file: CaFile = None) -> None:
    """Ask something of a box and print its answer; exit 1 when it refused or said nothing."""
    database = _open(db)
    subscriber = Subscriber(_address(host, port, root, username, password_file, ca_file, answers_only=True,
                                     client_id=f"county-send-{time.monotonic_ns()}"), Store(database))
    subscriber.start()
    arguments: dict[str, Any] = {"object": object_, "device": device, "service": service, "for_s": for_s}
    asked = subscriber.command(gateway, name, by, role, **{k: v for k, v in arguments.items() if v is not None})
    deadline_s = time.monotonic() + wait_s
    while time.monotonic() < deadline_s:
        subscriber.step(0.1)
        if found := database.run("SELECT ok, text FROM commands WHERE gateway = ? AND id = ? AND ok IS NOT NULL",
                                 (gateway, asked)):
            typer.echo(found[0][1])
            raise typer.Exit(0 if found[0][0] else 1)
    typer.echo(f"{gateway} 在 {wait_s:g} 秒内没有应答 no answer within {wait_s:g} s", err=True)
    raise typer.Exit(1)
