"""How findings look on a screen.

Owns: tables, lines and the progress bar. Promises: answers on stdout, progress on stderr and only on a
terminal; nothing here asks a wire. Never: decides what is true.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text as Styled

from drivers.sensor import Point, Template
from gateway.installer.diagnoses import Diagnosis
from gateway.installer.doctor import Finding
from gateway.installer.proposal import Proposal
from gateway.installer.reading import Reading, Value, Word
from gateway.installer.search import Doubt, Found
from gateway.installer.settings import Attempt
from gateway.installer.watching import Watch
from gateway.installer.words import NOTES, Lang, Text, decimals, number, settings

WIDTH = 140
SMALL, LARGE = 1e-9, 1e12
"""Floats beyond are two other numbers read as one."""
SHOWN = 3
"""Candidates and values shown in a line."""
UNLIKELY = 0.01
Done = Callable[[Attempt, int], None]
Announce = Callable[[list[str]], None]


def out(stderr: bool = False) -> Console:
    """Return where to print; a pipe gets wide plain lines."""
    tty = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if tty else WIDTH)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for n, column in enumerate(columns):
        table.add_column(column, no_wrap=True, justify="right" if n == 1 else "left")
    return table


# --- readings


def title(template: Template, lang: Lang) -> str:
    """Name a model for people."""
    return f"{template.title.zh if lang == 'zh' else template.title.en} ({template.model})"


def state(value: Value, lang: Lang) -> str:
    """Say what a value is worth."""
    if value.outside and not value.note:
        return _OUTSIDE.of(lang)
    word = NOTES.get(value.note)
    return (word.of(lang) if word else value.note) + (f" ({value.code})" if value.code else "")


def _range(point: Point) -> str:
    if not point.range:
        return ""
    places = decimals(point.resolution)
    low, high = (f"{end:.{places}f}".rstrip("0").rstrip(".") if places else f"{end:.0f}" for end in point.range)
    return f"{low} … {high}"


def _value(value: Value) -> str:
    return "—" if value.value is None else number(value.value, value.point)


def reading_table(reading: Reading, lang: Lang) -> Table:
    """Lay out one reading, a point a line."""
    table = _table(*_COLUMNS.of(lang).split("|"))
    for value in reading.values:
        style = "" if value.good else "yellow" if value.value is not None else "red"
        table.add_row(value.point.id, _value(value), Styled(state(value, lang), style), _range(value.point))
    return table


def watch_table(watch: Watch, lang: Lang) -> Table:
    """Lay out the figures of a watch."""
    table = _table(*_WATCH.of(lang).split("|"))
    for name, seen in watch.points.items():
        point = seen.last.point
        low, high = ("—" if end is None else number(end, point) for end in (seen.low, seen.high))
        failed = ", ".join(f"{NOTES[note].of(lang) if note in NOTES else note}×{n}" for note, n in seen.notes.items())
        table.add_row(name, _value(seen.last), low, high, f"{seen.good}/{watch.readings}",
                      Styled(state(seen.last, lang), "" if seen.last.good else "yellow"), failed)
    return table


def watch_line(watch: Watch, lang: Lang) -> str:
    """Sum up how well the device answers."""
    median = watch.response_ms
    failed = ", ".join(f"{NOTES[note].of(lang) if note in NOTES else note}×{n}" for note, n in watch.failed.items())
    return _SUMMARY.of(lang, readings=watch.readings, answered=watch.answered, asked=watch.asked,
                       response="—" if median is None else f"{median[0]:.0f} / {median[1]:.0f} ms",
                       failed=failed or _NO_ERRORS.of(lang))


@contextlib.contextmanager
def live(plain: bool = False) -> Iterator[Callable[[Table, str], None]]:
    """Give a place that shows a table and a line, anew each time; on a pipe, or plain, one line each time."""
    console = out()
    if plain or not console.is_terminal:
        yield lambda _, line: console.print(line, markup=False)
        return
    with Live(console=console, auto_refresh=False) as shown:
        def show(table: Table, line: str) -> None:
            table.caption, table.caption_justify = line, "left"
            shown.update(table, refresh=True)
        yield show


def one_line(reading: Reading, lang: Lang) -> str:
    """Write a reading in one line, for a pipe."""
    return "  ".join(f"{value.point.id}={_value(value)}" + ("" if value.good else f" [{state(value, lang)}]")
                     for value in reading.values)


def words_table(words: Sequence[Word], lang: Lang) -> Table:
    """Lay out raw registers in several interpretations."""
    table = _table(*_WORDS.of(lang).split("|"))
    for word in words:
        pair = ["" if n is None else str(n) for n in (word.u32, word.u32_swapped)]
        real = ["" if f is None or not SMALL < abs(f) < LARGE else f"{f:.6g}" for f in (word.f32, word.f32_swapped)]
        table.add_row(str(word.register), str(word.raw), str(word.signed), word.hex, word.text, *real, *pair, word.bits)
    return table


# --- discover


def found_lines(one: Found, lang: Lang) -> list[str]:
    """Describe a device: where it is, what it may be, and what it says."""
    head = _FOUND.of(lang, address=one.address, settings=settings(one.settings), ms=1000 * one.response_s)
    if one.damaged:
        head += _DAMAGED.of(lang, count=one.damaged)
    shown = [head.replace("  ", " ").strip()]
    shown += [f"    {_proposal(proposal, lang, n == 0)}" for n, proposal in enumerate(one.proposals[:SHOWN])
              if n == 0 or proposal.sure >= UNLIKELY]
    return shown if one.proposals else [*shown, f"    {_NO_MODEL.of(lang)}"]


def _proposal(proposal: Proposal, lang: Lang, with_values: bool) -> str:
    told = [f"{v.point.id} {_value(v)}" + ("" if v.good else f" [{state(v, lang)}]")
            for v in proposal.reading.values if v.value is not None]
    more = " …" if len(told) > SHOWN else ""
    values = f": {', '.join(told[:SHOWN])}{more}" if with_values and told else ""
    return f"{min(proposal.sure, 0.99):3.0%}  {title(proposal.template, lang)}{values}"


@contextlib.contextmanager
def progress(total_s: float, lang: Lang) -> Iterator[tuple[Done, Announce]]:
    """Give two calls: one after each attempt (with how many devices there are), one to announce a device."""
    console = out(stderr=True)
    bar = Progress(TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(),
                   TimeRemainingColumn(compact=True), console=console, disable=not console.is_terminal,
                   transient=True, speed_estimate_period=120)
    with bar:
        task = bar.add_task(_STARTING.of(lang), total=total_s)

        def done(attempt: Attempt, found: int) -> None:
            where = settings(attempt.settings)
            bar.update(task, advance=attempt.cost_s, description=_TRYING.of(
                lang, settings=where, address=attempt.address, found=found))

        def announce(lines: list[str]) -> None:
            if console.is_terminal:
                bar.console.print(*lines, sep="\n", markup=False)
        yield done, announce


def duration(seconds: float, lang: Lang) -> str:
    """Write a span for people."""
    whole = max(1, round(seconds))
    minutes, rest = divmod(whole, 60)
    if lang == "zh":
        return f"{minutes} 分 {rest} 秒" if minutes else f"{rest} 秒"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- doctor


def finding_lines(finding: Finding, n: int, lang: Lang) -> list[str]:
    """Describe a finding: what, how that is known, what to do."""
    what, proof, do = finding.texts(lang)
    where = ""
    if finding.address is not None:
        where = _AT.of(lang, address=finding.address, settings=settings(finding.settings)).replace(" )", ")")
    return [f"{n}. {where}{what}", f"   {_PROOF.of(lang)}{proof}", f"   {_DO.of(lang)}{do}"]


def doubt_lines(doubt: Doubt, lang: Lang) -> list[str]:
    """Describe an address that only ever answers damaged."""
    row = doubt.diagnosis
    where = _AT.of(lang, address=doubt.address, settings=settings(doubt.settings))
    return [f"{where}{row.what.of(lang)}", f"   {_DO.of(lang)}{row.do.of(lang)}"]


def hint_lines(row: Diagnosis, lang: Lang) -> list[str]:
    """Describe a diagnosis of a whole search."""
    return [row.what.of(lang), f"   {_DO.of(lang)}{row.do.of(lang)}"]


# --- templates


def template_lines(template: Template, lang: Lang) -> list[str]:
    """Describe a model: the sheet an installer wants beside the cabinet."""
    factory = _FACTORY.of(lang, settings=settings(template.serial), address=template.address)
    shown = [title(template, lang),
             f"{_MAKER.of(lang)}{template.maker}", f"{_MANUAL.of(lang)}{template.manual}", factory]
    if template.warm_up_s:
        shown.append(_WARM_UP.of(lang, warm_up=duration(template.warm_up_s, lang)))
    if template.min_gap_ms:
        shown.append(_GAP.of(lang, gap=f"{template.min_gap_ms:g}"))
    if template.set_address:
        shown.append((_ALONE if template.alone else _MOVABLE).of(lang))
    shown += [f"! {trap.zh if lang == 'zh' else trap.en}" for trap in template.traps]
    shown += [_PARAMETER.of(lang, name=name, title=one.title.zh if lang == "zh" else one.title.en, unit=one.unit,
                            default="—" if one.default is None else f"{one.default:g}")
              for name, one in template.parameters.items()]
    return shown


def points_table(template: Template, lang: Lang) -> Table:
    """Lay out what a model measures."""
    table = _table(*_POINTS.of(lang).split("|"))
    for point in template.points:
        unit = "" if point.unit == "1" else point.unit
        table.add_row(point.id, unit, _range(point), f"{point.resolution:g}",
                      f"{point.function} / {point.register} {point.type}")
    return table


_COLUMNS = Text("测点|数值|状态|量程", "point|value|state|range")
_WATCH = Text("测点|现在|最小|最大|好/次|状态|失败", "point|last|min|max|good/of|state|failures")
_WORDS = Text("寄存器|无符号|有符号|十六进制|字符|浮点 ABCD|浮点 CDAB|32位 ABCD|32位 CDAB|二进制",
              "register|unsigned|signed|hex|text|float ABCD|float CDAB|32 bits ABCD|32 bits CDAB|binary")
_POINTS = Text("测点|单位|量程|分辨力|读法（功能/寄存器 类型）",
               "point|unit|range|resolution|read by (function/register type)")
_OUTSIDE = Text("在量程外", "outside its range")
_SUMMARY = Text("读 {readings} 遍 · 应答 {answered}/{asked} · 应答时间 中位/最长 {response} · {failed}",
                "{readings} readings · answered {answered} of {asked} · response median/longest {response} · {failed}")
_NO_ERRORS = Text("没有失败", "no failures")
_FOUND = Text("地址 {address} · {settings} · 应答 {ms:.0f} ms",
              "address {address} · {settings} · answers in {ms:.0f} ms")
_DAMAGED = Text(" · 另有 {count} 次应答损坏", " · {count} more answers were damaged")
_NO_MODEL = Text("没有一个型号模板对得上"
                 "（mingluo read 端口 --address N --function 3 --register 0 --count 10 可看原始数）",
                 "no model of the library fits (mingluo read PORT --address N --function 3 --register 0 --count 10 "
                 "shows raw numbers)")
_STARTING = Text("开始", "starting")
_TRYING = Text("{settings} 地址 {address} · 已找到 {found}", "{settings} address {address} · found {found}")
_AT = Text("[地址 {address} {settings}] ", "[address {address} {settings}] ")
_PROOF = Text("依据：", "evidence: ")
_DO = Text("怎么办：", "what to do: ")
_MAKER = Text("厂家：", "maker: ")
_MANUAL = Text("依据：", "registers from: ")
_FACTORY = Text("出厂：{settings}，地址 {address}", "as from the factory: {settings}, address {address}")
_WARM_UP = Text("上电后 {warm_up} 才有真值", "true values {warm_up} after power-on")
_GAP = Text("两次询问之间至少歇 {gap} ms", "wants {gap} ms of rest between questions")
_ALONE = Text("可用 mingluo set-address 改地址；改时线上只能有它一台", "mingluo set-address can change its address; "
              "it must be alone on the wire for that")
_MOVABLE = Text("可用 mingluo set-address 改地址", "mingluo set-address can change its address")
_PARAMETER = Text("参数 {name}：{title}，单位 {unit}，缺省 {default}",
                  "parameter {name}: {title}, unit {unit}, default {default}")
