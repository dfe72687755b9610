"""`mingluo discover` from start to end: listen, search, tell, write down.

Owns: the order of a search as a person sees it. Promises: somebody else's wire is left alone unless forced; an
interrupted search tells and writes what it found. Never: overwrites a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from drivers import LinkError
from drivers.sensor import Serial, Template
from gateway.installer import document, screen
from gateway.installer.block import block, stable
from gateway.installer.evidence import weigh
from gateway.installer.link import Link
from gateway.installer.overheard import frames, is_noise
from gateway.installer.search import Search
from gateway.installer.settings import order, to_try
from gateway.installer.words import Lang, Text, Told, settings


def discover(link: Link, models: Sequence[Template], lang: Lang, *, given: Serial | None, full: bool,
         only: Sequence[int] | None, force: bool, listen_s: float, write: str, as_json: bool) -> None:
    """Search and tell.

    Raises:
        Told: somebody else is master on this wire, or the gateway does not lend the port.
        LinkError: the port cannot be opened.
        typer.Exit: 0 devices were found, 1 none, 130 interrupted.
    """
    choices = None if link.tcp else [given] if given else to_try(models, full)
    attempts = order(models, choices, only, full)
    ended: Told | LinkError | None = None
    interrupted = False
    with link:
        search = Search(link, models)
        try:
            _listen(link, lang, listen_s, force)
            total_s = sum(attempt.cost_s for attempt in attempts)
            _say(_PLAN.of(lang, settings=", ".join(settings(one) for one in choices) if choices else "TCP",
                          time=screen.duration(total_s, lang)))
            with screen.progress(total_s, lang) as (done, announce):
                shown = 0
                for attempt in attempts:
                    search.run((attempt,))
                    done(attempt, len(search.found))
                    for one in search.found[shown:]:
                        announce(screen.found_lines(one, lang))
                    shown = len(search.found)
        except KeyboardInterrupt:
            interrupted = True
        except (Told, LinkError) as error:
            if not search.tried:
                raise
            ended = error
    _tell(search, lang, port=stable(link.port), interrupted=interrupted, write=write, as_json=as_json)
    if ended is not None:
        raise ended
    raise typer.Exit(130 if interrupted else 0 if search.found else 1)


def _listen(link: Link, lang: Lang, listen_s: float, force: bool) -> None:
    """Stay silent for a while; somebody who talks is a master of his own."""
    if link.tcp or not listen_s:
        return
    _say(_LISTENING.of(lang, seconds=f"{listen_s:g}"))
    heard = link.listen(listen_s)
    if is_noise(heard) or len(heard) < 2:
        return
    units = sorted({frame.unit for frame in frames(heard)})
    told = (_TALKED if units else _BABBLED).told(count=len(heard), units=", ".join(map(str, units)))
    if not force:
        raise Told(told)
    _say(told.of(lang))


def _tell(search: Search, lang: Lang, *, port: str, interrupted: bool, write: str, as_json: bool) -> None:
    """Show what was found, and write it down."""
    found, doubts, hints = search.found, search.doubts(), search.general()
    measures = weigh(search.link.trials)
    if as_json:
        typer.echo(json.dumps({
            "port": port, "interrupted": interrupted, "echo": search.echo, "tried": search.tried,
            "found": [document.found(one) for one in found], "doubts": [document.doubt(one) for one in doubts],
            "hints": [document.row(one) for one in hints],
            "other_master": measures["unasked_requests"] > 0}, ensure_ascii=False, indent=2))
    console = screen.out(stderr=as_json or write == "-")
    if not as_json:
        lines = [(_INTERRUPTED if interrupted else _FOUND if found else _NOTHING).of(lang, count=len(found))]
        for one in sorted(found, key=lambda one: one.address):
            lines += screen.found_lines(one, lang)
        lines += [_ECHO.of(lang)] if search.echo else []
        lines += [_MASTER.of(lang)] if measures["unasked_requests"] else []
        for doubt in doubts:
            lines += screen.doubt_lines(doubt, lang)
        for row in hints if search.tried else ():
            lines += screen.hint_lines(row, lang)
        console.print("\n".join(lines), markup=False)
    if write and any(one.likeliest for one in found):
        usual = "tcp" if search.link.tcp else "rtu"
        text = block(port, found, search.echo, "" if search.link.framing == usual else search.link.framing)
        if write == "-":
            typer.echo(text, nl=False)
            return
        with Path(write).open("x", encoding="utf-8") as file:
            file.write(text)
        console.print(_WRITTEN.of(lang, file=write), markup=False)
    elif write:
        _say(_NOT_WRITTEN.of(lang))


def _say(text: str) -> None:
    typer.echo(text, err=True)


_LISTENING = Text("先静听 {seconds} 秒，看线上有没有别人在问……",
                  "listening for {seconds} s: is somebody else asking on this wire?")
_TALKED = Text("线上已有人在说话：{count} 个字节，涉及地址 {units}。可能有另一台主机（PLC、采集器），先断开它；"
               "确实要查就加 --force（会互相干扰）",
               "somebody else is talking: {count} bytes, addresses {units}. Perhaps another master (a PLC, a logger): "
               "disconnect it first; --force asks all the same and disturbs it")
_BABBLED = Text("没人问，线上却有 {count} 个字节（认不出报文）：可能是别的波特率的另一台主机，或缺偏置电阻的干扰；"
                "确实要查就加 --force",
                "{count} bytes came although nobody asks, and no frame among them: another master at another speed, or "
                "noise for want of a bias resistor; --force asks all the same")
_PLAN = Text("将依次试 {settings}，全程最多 {time}；Ctrl-C 随时停，找到的会保留",
             "trying {settings}; {time} at most; Ctrl-C ends it and keeps what was found")
_FOUND = Text("找到 {count} 台设备：", "{count} devices found:")
_NOTHING = Text("没有找到设备。", "No device was found.")
_INTERRUPTED = Text("已停止；到此找到 {count} 台：", "Stopped; {count} devices found so far:")
_ECHO = Text("适配器有回显：配置里要写 echo: true", "The adapter hears its own bytes: write echo: true on the wire")
_MASTER = Text("注意：查找中听到了别人的询问，线上可能有另一台主机", "Note: somebody else's questions were heard: "
               "there may be another master on this wire")
_WRITTEN = Text("已写入 {file}：改好名字，再并入 gateway.yaml，用 mingluo check 检查",
                "written to {file}: choose names, put it into gateway.yaml, run mingluo check")
_NOT_WRITTEN = Text("没有认出型号，没写文件", "no model was recognised, no file was written")
