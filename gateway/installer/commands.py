"""The installer's commands: find and try sensors.

Owns: their arguments, their exit codes, and the port while one runs. Promises: the port is borrowed from a running
gateway and given back; whatever ends a command, what was found is shown. Never: runs inside the service.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drivers.exchange import Ask
from drivers.sensor import Serial, Template
from gateway.installer import options
from gateway.installer.link import Link
from gateway.installer.words import Lang, Text, Told, settings


def _json(document: Any) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def discover(
    port: options.Port, lang: options.Language = "zh",
    write: Annotated[str, typer.Option(help="a new file for the wire's configuration; - = print it")] = "",
    full: Annotated[bool, typer.Option("--full", help="all speeds and parities, with more patience")] = False,
    addresses: Annotated[str, typer.Option(help="only these, e.g. 1-30 or 1,2,200")] = "",
    baud: Annotated[int | None, typer.Option(help="only this speed")] = None,
    parity: Annotated[Literal["none", "even", "odd"] | None, typer.Option(help="only this parity")] = None,
    force: Annotated[bool, typer.Option("--force", help="ask although somebody else is asking on this line")] = False,
    listen_s: Annotated[float, typer.Option(min=0, max=60, help="how long to listen first")] = 3.0,
    framing: options.Framing = None,
    sensors: options.Sensors = options.SITE, socket: options.Socket = options.SOCKET, as_json: options.Json = False,
) -> None:
    """Find and name the devices on a wire: listens first, only reads, proposes models. Ctrl-C keeps what was found."""
    from gateway.installer import discover as whole

    options.interruptible()
    if write not in ("", "-") and Path(write).exists():
        options.fail(_EXISTS.told(file=write), lang)
    if write and write != "-" and not Path(write).absolute().parent.is_dir():
        options.fail(_NO_FOLDER.told(file=write), lang)
    given = options.serial(baud, parity, None) if baud or parity else None
    with options.telling(lang):
        link = options.link(port, given or options.FACTORY, socket, 300, framing=framing)
        whole.discover(link, options.models(options.library(sensors)), lang, given=given,
                       full=full, only=options.addresses(addresses), force=force, listen_s=listen_s, write=write,
                       as_json=as_json)


def read(
    port: options.Port, model: options.Model = "", address: options.Address = None, baud: options.Baud = None,
    parity: options.Parity = None, stop_bits: options.Stop = None, echo: options.Echo = False,
    framing: options.Framing = None,
    function: Annotated[int | None, typer.Option(min=1, max=4, help="raw: 3 or 4 registers, 1 or 2 bits")] = None,
    register: Annotated[int, typer.Option(min=0, max=65535, help="raw: the first, counted from 0")] = 0,
    count: Annotated[int, typer.Option(min=1, max=125, help="raw: how many")] = 1,
    parameter: options.Parameter = [],  # noqa: B006 (typer copies it)
    timeout_ms: options.Timeout = 300, sensors: options.Sensors = options.SITE, socket: options.Socket = options.SOCKET,
    lang: options.Language = "zh", as_json: options.Json = False,
) -> None:
    """Read a device once: all its points by a model, or raw registers with --function."""
    options.interruptible()
    if bool(model) == bool(function):
        raise typer.BadParameter("give --template MODEL, or --function N --register N --count N")
    if function:
        serial = options.serial(baud, parity, stop_bits)
        with options.telling(lang), options.link(port, serial, socket, timeout_ms, echo, framing) as link:
            _raw(link, Ask(address or 1, function, min(register, 65536 - count), count), lang, as_json)
        return
    sensor = options.model(model, options.library(sensors))
    serial = options.serial(baud, parity, stop_bits, sensor)
    given = options.parameters(parameter, sensor)
    with options.telling(lang), options.link(port, serial, socket, timeout_ms, echo, framing) as link:
        _read(link, sensor, address or sensor.address, serial, given, lang, as_json)


def _read(link: Link, sensor: Template, address: int, serial: Serial, given: dict[str, float], lang: Lang,
          as_json: bool) -> None:
    """Read and show one device once."""
    from gateway.installer import document, reading, screen

    taken = reading.read(link, sensor, address, serial, given=given)
    said = reading.read_texts(link, sensor, address, serial) if taken.answered else {}
    if as_json:
        _json({"template": sensor.model, "address": address, **document.reading(taken), "texts": said})
    else:
        median = f" · {_RESPONSE.of(lang)} {1000 * max(taken.responses_s):.0f} ms" if taken.responses_s else ""
        at = "" if link.tcp else f" · {settings(serial)}"
        screen.out().print(f"{screen.title(sensor, lang)} · {_ADDRESS.of(lang)} {address}{at}{median}", markup=False)
        screen.out().print(screen.reading_table(taken, lang))
        for name, text in said.items():
            typer.echo(f"{name}: {text}")
        lacking = sorted(set(sensor.parameters) - set(sensor.known(given)))
        if lacking:
            options.say(_LACKING, lang, names=" ".join(f"--parameter {name}=…" for name in lacking))
    if not any(value.value is not None for value in taken.values):
        options.say(_ASK_DOCTOR, lang, err=True, port=link.port, model=sensor.model, address=address)
        raise typer.Exit(1)


def _raw(link: Link, ask: Ask, lang: Lang, as_json: bool) -> None:
    """Read and show raw registers or bits."""
    import msgspec

    from gateway.installer import reading, screen
    from gateway.installer.words import NOTES, REFUSALS

    heard = link.exchange(ask)
    if heard.note is not None:
        why = REFUSALS.get(heard.code) or NOTES[heard.note]
        data = bytes(heard.data)[:64].hex(" ").upper()
        options.fail(_NOTHING_READ.told(address=ask.unit, zh=why.zh, en=why.en), lang, detail=data)
    data_bytes = bytes(heard.data[heard.start:heard.start + ask.data_bytes])
    if ask.function < 3:
        bits = [int.from_bytes(data_bytes, "little") >> n & 1 for n in range(ask.count)]
        if as_json:
            _json({"first": ask.first, "bits": bits})
        else:
            typer.echo("\n".join(f"{ask.first + n}: {bit}" for n, bit in enumerate(bits)))
        return
    words = reading.words(data_bytes, ask.first)
    if as_json:
        _json(msgspec.to_builtins(words))
    else:
        screen.out().print(screen.words_table(words, lang))


def watch(
    port: options.Port, model: options.Model, address: options.Address = None, baud: options.Baud = None,
    parity: options.Parity = None, stop_bits: options.Stop = None, echo: options.Echo = False,
    framing: options.Framing = None,
    every_s: Annotated[float, typer.Option(min=0.05, max=3600, help="from one reading to the next")] = 1.0,
    count: Annotated[int, typer.Option(min=0, help="end after so many readings; 0 = until Ctrl-C")] = 0,
    parameter: options.Parameter = [],  # noqa: B006 (typer copies it)
    timeout_ms: options.Timeout = 300, sensors: options.Sensors = options.SITE, socket: options.Socket = options.SOCKET,
    lang: options.Language = "zh", as_json: options.Json = False,
) -> None:
    """Read a device again and again: last, least, greatest, response times, failures. Ctrl-C prints the sum."""
    from gateway.installer import document, reading, screen
    from gateway.installer.watching import Watch

    options.interruptible()
    sensor = options.model(model, options.library(sensors))
    serial = options.serial(baud, parity, stop_bits, sensor)
    given = options.parameters(parameter, sensor)
    figures = Watch()
    try:
        with (options.telling(lang), options.link(port, serial, socket, timeout_ms, echo, framing) as link,
              screen.live(as_json) as show, contextlib.suppress(KeyboardInterrupt)):
            next_s = link.now()
            while True:
                taken = reading.read(link, sensor, address or sensor.address, serial, given=given)
                figures.add(taken)
                show(screen.watch_table(figures, lang),
                     json.dumps(document.reading(taken)) if as_json else screen.one_line(taken, lang))
                if figures.readings == count:
                    break
                next_s = max(next_s + every_s, link.now())
                link.rest(max(0.0, next_s - link.now()))
    finally:
        if figures.readings and not as_json:
            screen.out().print(screen.watch_table(figures, lang))
            typer.echo(screen.watch_line(figures, lang))
    if not figures.answered:
        raise typer.Exit(1)


def doctor(
    port: options.Port, model: options.Model = "", address: options.Address = None, baud: options.Baud = None,
    parity: options.Parity = None, stop_bits: options.Stop = None,
    listen_s: Annotated[float, typer.Option(min=0, max=60, help="how long to listen first")] = 2.0,
    framing: options.Framing = None,
    sensors: options.Sensors = options.SITE, socket: options.Socket = options.SOCKET,
    lang: options.Language = "zh", as_json: options.Json = False,
) -> None:
    """Say in plain words what is wrong with a wire or a device, by which evidence, and what to do. Only reads."""
    from gateway.installer import document, screen
    from gateway.installer.doctor import Doctor

    options.interruptible()
    library = options.library(sensors)
    sensor = options.model(model, library) if model else None
    given = options.serial(baud, parity, stop_bits, sensor) if baud or parity or stop_bits else None
    link = options.link(port, given or (sensor.serial if sensor else options.FACTORY), socket, 300, framing=framing)
    if not as_json:
        options.say(_EXAMINING, lang, err=True, port=port)
    with options.telling(lang):
        findings = Doctor(link, options.models(library), sensor, address, given).examine(listen_s)
    if as_json:
        _json({"port": port, "findings": [document.finding(one) for one in findings]})
    else:
        for n, one in enumerate(findings, 1):
            typer.echo("\n".join(screen.finding_lines(one, n, lang)))
        if not findings:
            options.say(_NO_IDEA, lang)
    raise typer.Exit(0 if findings and all(one.diagnosis.id == "well" for one in findings) else 1)


def set_address(
    port: options.Port, model: options.Model,
    new: Annotated[int, typer.Option(min=1, max=247, help="the address it shall have")],
    old: Annotated[int | None, typer.Option(min=1, max=247, help="the one it has; absent = factory address")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask, write")] = False,
    baud: options.Baud = None, parity: options.Parity = None, stop_bits: options.Stop = None,
    echo: options.Echo = False,
    framing: options.Framing = None, sensors: options.Sensors = options.SITE, socket: options.Socket = options.SOCKET,
    lang: options.Language = "zh",
) -> None:
    """Give a device another address. It should be alone on the wire. Asks before it writes, proves it afterwards."""
    from gateway.installer.address import Move

    options.interruptible()
    sensor = options.model(model, options.library(sensors))
    serial = options.serial(baud, parity, stop_bits, sensor)
    with options.telling(lang), options.link(port, serial, socket, 500, echo, framing) as link:
        move = Move(link, sensor, old or sensor.address, new, serial)
        options.say(_ONE_ALONE, lang)
        others = move.look()
        options.say(_FOUND_AT, lang, old=move.old, model=sensor.model, new=new)
        if others:
            options.say(_OTHERS, lang, others=", ".join(map(str, others)))
        for step in move.steps():
            typer.echo(f"  {step.of(lang)}")
        if not yes:
            if not sys.stdin.isatty():
                raise Told(_SAY_YES)
            if not typer.confirm(_SURE.of(lang)):
                raise Told(_NOT_DONE)
        move.write()
        outcome = move.prove()
    if outcome.done:
        options.say(_DONE, lang, new=new, old=outcome.old)
        return
    if outcome.at_new and outcome.at_old:
        options.fail(_BOTH.told(old=outcome.old, new=new), lang)
    if outcome.at_new:
        options.fail(_STRANGE.told(new=new, model=sensor.model), lang)
    options.fail((_STILL_OLD if outcome.at_old else _LOST).told(old=outcome.old, new=new), lang)


def template(
    file: Annotated[str, typer.Argument(help="a template file, or the name of a model")],
    try_: Annotated[str, typer.Option("--try", help="read a device by it: /dev/ttyUSB0 or tcp://host:port")] = "",
    address: options.Address = None, baud: options.Baud = None, parity: options.Parity = None,
    stop_bits: options.Stop = None,
    echo: options.Echo = False,
    framing: options.Framing = None, parameter: options.Parameter = [],  # noqa: B006 (typer copies it)
    timeout_ms: options.Timeout = 300, sensors: options.Sensors = options.SITE, socket: options.Socket = options.SOCKET,
    lang: options.Language = "zh", as_json: options.Json = False,
) -> None:
    """Check a sensor model and show what it measures; with --try read a device by it."""
    from gateway.installer import document, screen

    options.interruptible()
    sensor = options.model(file, options.library(sensors))
    if not as_json:
        console = screen.out()
        for line in screen.template_lines(sensor, lang):
            console.print(line, markup=False)
        console.print(screen.points_table(sensor, lang))
        options.say(_PROVED, lang, count=len(sensor.examples))
    elif not try_:
        _json(document.template(sensor))
    if try_:
        serial = options.serial(baud, parity, stop_bits, sensor)
        given = options.parameters(parameter, sensor)
        with options.telling(lang), options.link(try_, serial, socket, timeout_ms, echo, framing) as link:
            _read(link, sensor, address or sensor.address, serial, given, lang, as_json)


def add(cli: typer.Typer) -> None:
    """Register the commands."""
    for command in (discover, read, watch, doctor, template):
        cli.command()(command)
    cli.command("set-address")(set_address)


_EXISTS = Text("{file} 已存在，不覆盖：换一个文件名", "{file} exists and is not overwritten: give another name")
_NO_FOLDER = Text("{file} 所在的文件夹不存在", "the folder of {file} does not exist")
_ADDRESS, _RESPONSE = Text("地址", "address"), Text("应答", "answers in")
_LACKING = Text("本机参数见标定单，加上：{names}",
                "this instrument's own numbers are on its calibration sheet, add: {names}")
_ASK_DOCTOR = Text("什么也没读到。试试：mingluo doctor {port} --template {model} --address {address}",
                   "nothing could be read. Try: mingluo doctor {port} --template {model} --address {address}")
_NOTHING_READ = Text("地址 {address}：{zh}", "address {address}: {en}")
_EXAMINING = Text("正在检查 {port} …… 最多约一分钟", "examining {port} … a minute at most")
_NO_IDEA = Text("没有看出毛病，也没有足够的证据说一切正常",
                "nothing stands out, and there is too little evidence to call it well")
_ONE_ALONE = Text("改地址时线上应只有这一台设备。", "The device should be alone on the wire for this.")
_FOUND_AT = Text("地址 {old} 有应答，像 {model}；地址 {new} 空着。将要：",
                 "Address {old} answers and looks like {model}; address {new} is free. This will")
_OTHERS = Text("注意：线上还有别的设备（地址 {others}）。", "Note: other devices are on the wire (address {others}).")
_SURE = Text("现在写吗？", "Write now?")
_SAY_YES = Text("没有终端可以询问，什么也没写：加 --yes", "there is no terminal to ask, nothing was written: add --yes")
_NOT_DONE = Text("没有写，设备未变", "nothing was written")
_DONE = Text("完成：设备在新地址 {new} 应答，旧地址 {old} 已无应答。把新地址写在标签上。",
             "Done: it answers at {new}, and {old} is silent. Write the new address on its label.")
_BOTH = Text("新地址 {new} 有应答，但旧地址 {old} 也有：线上不止一台，或设备两个地址都答。断电重启再查",
             "{new} answers, but {old} does too: another device is there, or it obeys both. "
             "Power it off and on and look again")
_STRANGE = Text("新地址 {new} 有应答，但读不出 {model} 的样子：用 mingluo discover 查看",
                "{new} answers, but not like a {model}: look with mingluo discover")
_STILL_OLD = Text("设备仍在旧地址 {old}：有的型号要断电重启才生效，重启后用 mingluo read --address {new} 试",
                  "it still is at {old}: some models change after power off and on; "
                  "then try mingluo read --address {new}")
_LOST = Text("新旧地址（{new}、{old}）都没有应答：断电重启设备，再用 mingluo discover 找",
             "neither {new} nor {old} answers: power the device off and on, then look with mingluo discover")
_PROVED = Text("模板正确：{count} 个实例报文全部按说明书读出。",
               "The template is right: its {count} example frames read as written.")
