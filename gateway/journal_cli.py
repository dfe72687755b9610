"""`mingluo journal`: look into a journal, on the box or on an office PC.

Owns: their arguments, exit codes and how figures look. Promises: what is wrong is said in both languages, the asked one
first, with what to do. Never: writes into a journal, apart from `vacuum` while no gateway has it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import typer

from gateway import site
from gateway.journal.archive import Archive, Unusable
from gateway.journal.claim import claimed
from gateway.model import LANES, Lane

Lang = Annotated[Literal["zh", "en"], typer.Option(help="language of the answer")]
Folder = Annotated[Path | None, typer.Option(help="where journal.sqlite lies, or the file itself, also a copy")]
Config = Annotated[Path | None, typer.Option(help="the site's gateway.yaml, which names the folder")]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
FOLDER = Path("/var/lib/mingluo")

app = typer.Typer(no_args_is_help=True, help="Look into a journal: on a running box, or a copied file on any computer.")


@contextlib.contextmanager
def telling(lang: str) -> Iterator[None]:
    """Say what is wrong with a file in both languages, and leave with 1."""
    try:
        yield
    except Unusable as error:
        fail(lang, error.text_zh, error.text_en)


def fail(lang: str, zh: str, en: str, code: int = 1) -> NoReturn:
    """Say it in both languages, the asked one first, and leave."""
    for text in (zh, en) if lang == "zh" else (en, zh):
        typer.echo(text, err=True)
    raise typer.Exit(code)


def where(folder: Path | None, config: Path | None) -> Path:
    """The folder or file that is meant; the box's own when nothing was said."""
    if folder is not None:
        return folder
    return Path(site.load(config).journal.folder) if config is not None else FOLDER


@app.command("stats")
def show_stats(folder: Folder = None, config: Config = None, lang: Lang = "zh", as_json: Json = False) -> None:
    """Show epochs, lanes, times, sizes, what each platform has had, and gaps nobody was told of yet."""
    from gateway.journal.stats import stats

    with telling(lang), Archive(where(folder, config)) as archive:
        found = stats(archive)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), ensure_ascii=False, indent=2))
        return
    zh = lang == "zh"
    typer.echo(f"{found.path} · {found.gateway} · {_size(found.file_bytes)}"
               + (f" · {found.reading_bytes:.1f} {'字节/读数' if zh else 'bytes a reading'}"
                  if found.reading_bytes else ""))
    typer.echo("通道" if zh else "lanes")
    for one in found.lanes:
        times = f"{date(one.oldest_ms)} – {date(one.newest_ms)}" if one.oldest_ms is not None else "-"
        untrusted = "" if one.trusted else ("（未校时）" if zh else " (clock not set)")
        typer.echo(f"  {one.lane:<6} {one.rows:>8} {'行' if zh else 'rows'} {one.records:>10} "
                   f"{'条' if zh else 'records'} {_size(one.bytes):>10}  {times}{untrusted}")
    typer.echo("编号段" if zh else "epochs")
    for epoch in found.epochs:
        held = ", ".join(f"{lane} {e['oldest_seq']}–{e['next_seq'] - 1} ({e['rows']})"
                         for lane, e in epoch["lanes"].items())
        current = " *" if epoch["current"] else ""
        typer.echo(f"  {epoch['number']:>3} {epoch['epoch']} {epoch['reason']}{current}  {held}")
    typer.echo("平台" if zh else "platforms")
    for mark in found.platforms:
        words = ("已发送", "已入库", "积压") if zh else ("sent", "stored", "backlog")
        typer.echo(f"  {mark.platform} {mark.lane}: {words[0]} {mark.sent}, {words[1]} {mark.stored}, "
                   f"{words[2]} {mark.waiting} {'行' if zh else 'rows'}")
    for gap in found.gaps:
        seqs = f"{gap['epoch']} {gap['lane']} {gap['from']}–{gap['to']}"
        typer.echo(f"  {'缺口' if zh else 'gap'} {seqs} {gap['reason']}")


@app.command("export")
def write_export(
    to: Annotated[Path, typer.Option(help="a new file: .csv, .json or .sqlite")],
    folder: Folder = None, config: Config = None,
    point: Annotated[list[str] | None, typer.Option(help="only this point id; again for more")] = None,
    since: Annotated[str, typer.Option(help="2026-05-01, 2026-05-01T08:00 (local), …Z (UTC), or 36h, 7d ago")] = "",
    until: Annotated[str, typer.Option(help="likewise; a day alone means its end")] = "",
    lane: Annotated[list[str] | None, typer.Option(help="alarm, event or data; again for more")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
    lang: Lang = "zh",
) -> None:
    """Write readings and events to a file: a spreadsheet (.csv), JSON, or a database (.sqlite)."""
    from gateway.journal.export import export
    from gateway.journal.readings import Wanted, Words

    now = datetime.now(UTC)
    with telling(lang):
        wanted = Wanted(points=tuple(point or ()), lanes=_lanes(lane),
                        since_ms=moment(since, now, end=False) if since else Wanted().since_ms,
                        until_ms=moment(until, now, end=True) if until else Wanted().until_ms)
        with Archive(where(folder, config)) as archive:
            done = export(Words(archive, wanted), to, overwrite=overwrite)
    files = ", ".join(map(str, done.files))
    typer.echo(f"{files}：{done.readings} 个读数，{done.events} 个事件" if lang == "zh" else
               f"{files}: {done.readings} readings, {done.events} events")
    if done.damaged:
        fail(lang, f"{done.damaged} 行已损坏，未导出；用 mingluo journal verify 查看",
              f"{done.damaged} rows are damaged and were left out; see mingluo journal verify")


@app.command("verify")
def show_verify(folder: Folder = None, config: Config = None, lang: Lang = "zh", as_json: Json = False) -> None:
    """Read everything and say what is not as it was written; exit 1 when something is not."""
    from gateway.journal.verify import verify

    with telling(lang), Archive(where(folder, config)) as archive:
        found = verify(archive, live=claimed(archive.path.parent))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), ensure_ascii=False, indent=2))
    else:
        for fault in found.faults:
            typer.echo(f"{'错误' if lang == 'zh' else 'fault'}: {fault.where}: {getattr(fault, f'text_{lang}')}")
        for note in found.notes:
            typer.echo(f"{'说明' if lang == 'zh' else 'note'}: {note.where}: {getattr(note, f'text_{lang}')}")
        typer.echo(f"{found.rows} 行，{found.records} 条，{len(found.faults)} 处错误" if lang == "zh" else
                   f"{found.rows} rows, {found.records} records, {len(found.faults)} faults")
    raise typer.Exit(1 if found.faults else 0)


@app.command("vacuum")
def do_vacuum(folder: Folder = None, config: Config = None, lang: Lang = "zh") -> None:
    """Give empty pages back to the disk. Refused while a gateway runs on the folder."""
    from gateway.journal.vacuum import vacuum

    with telling(lang):
        done = vacuum(where(folder, config))
    typer.echo(f"{_size(done.before)} → {_size(done.after)}")


def _lanes(names: list[str] | None) -> tuple[Lane, ...]:
    if wrong := [name for name in names or () if name not in LANES]:
        raise Unusable(f"--lane {wrong[0]}: expected {', '.join(LANES)}", f"--lane {wrong[0]}：应为 {'、'.join(LANES)}")
    return tuple(lane for lane in LANES if not names or lane in names)


def moment(text: str, now: datetime, *, end: bool) -> int:
    """UTC ms of what a person wrote; without a zone it is this computer's time."""
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhd])", text.strip()):
        return round((now.timestamp() - float(ago[1]) * {"m": 60, "h": 3600, "d": 86400}[ago[2]]) * 1000)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Unusable(f"{text!r} is no time: expected 2026-05-01, 2026-05-01T08:00, 2026-05-01T00:00Z, or 36h, 7d",
                       f"{text!r} 不是时间：应为 2026-05-01、2026-05-01T08:00、2026-05-01T00:00Z，或 36h、7d") from None
    ms = round(found.astimezone().timestamp() * 1000)
    return ms + 86_400_000 - 1 if end and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text.strip()) else ms


def date(t_ms: int | None) -> str:
    """UTC ms in this computer's time."""
    if t_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(t_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{t_ms} ms"


def _size(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def add(cli: Any) -> None:
    """Put these commands beside the others."""
    cli.add_typer(app, name="journal")
