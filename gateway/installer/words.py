"""What these commands say, in Chinese and English.

Owns: the pair of texts every sentence comes in, the words for what a reading is worth, and how settings are written.
Promises: both languages always exist; a failure a person can do something about is a `Told`. Never: prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from drivers import Note
from drivers.sensor import Point, Serial

Lang = Literal["zh", "en"]


class Text(NamedTuple):
    """One sentence in both languages; `{name}` is filled in by `of`."""

    zh: str
    en: str

    def of(self, lang: Lang, **values: Any) -> str:
        """Return it in one language."""
        return (self.zh if lang == "zh" else self.en).format(**values)

    def told(self, **values: Any) -> Text:
        """Return both with the values filled in."""
        return Text(self.zh.format(**values), self.en.format(**values))


class Told(Exception):  # noqa: N818 (a sentence for a person, not a fault of this program)
    """The command cannot go on; says why and what to do."""

    def __init__(self, text: Text, code: int = 1) -> None:
        super().__init__(text.en)
        self.text, self.code = text, code


NOTES: Mapping[str, Text] = {
    "": Text("正常", "good"),
    Note.NO_ANSWER: Text("无应答", "no answer"),
    Note.BAD_CRC: Text("应答损坏", "damaged answer"),
    Note.FOREIGN: Text("答非所问", "some other answer"),
    Note.REFUSED: Text("设备拒绝", "refused by the device"),
    Note.BUSY: Text("设备忙", "device busy"),
    Note.LINK: Text("线路断开", "wire is down"),
    Note.QUARANTINED: Text("隔离中", "in quarantine"),
    Note.BORROWED: Text("端口借出", "port is lent"),
    Note.NO_DATA: Text("设备无数据", "device has no value"),
    Note.WARM_UP: Text("预热中", "warming up"),
    Note.SENSOR_FAULT: Text("传感器故障", "sensor fault"),
    Note.UNIT_MISMATCH: Text("单位设置不同", "set to another unit"),
    Note.NOT_A_NUMBER: Text("不是数", "not a number"),
    "parameter": Text("缺本机参数", "a parameter is missing"),
    Note.OVER_RANGE: Text("超量程", "over range"),
    Note.UNDER_RANGE: Text("低于量程", "under range"),
}

REFUSALS: Mapping[int, Text] = {
    # Modbus Application Protocol V1.1b3, 7
    1: Text("设备不支持这种读法（功能码）", "the device does not know this kind of read (function)"),
    2: Text("设备没有这个寄存器", "the device has no such register"),
    3: Text("一次读的个数设备不接受", "the device does not accept this number of registers"),
    4: Text("设备内部出错", "the device failed inside"),
    5: Text("设备已收到，还在处理", "the device took it and is still at work"),
    6: Text("设备忙", "the device is busy"),
    10: Text("转换器不通：没有通向该设备的路", "the converter has no path to the device"),
    11: Text("转换器说后面的设备无应答", "the converter says the device behind it does not answer"),
}


def settings(serial: Serial | None) -> str:
    """Write settings as on a datasheet: ``9600 8N1``; empty on a network."""
    return f"{serial.baud} {serial.data_bits}{serial.parity[0].upper()}{serial.stop_bits}" if serial else ""


def decimals(resolution: float) -> int:
    """Return how many decimals a value of this resolution deserves."""
    text = f"{resolution:.9f}".rstrip("0")
    return len(text) - text.index(".") - 1


def number(value: float, point: Point) -> str:
    """Write a value with its unit, to its resolution; the unit ``1`` is none."""
    unit = "" if point.unit == "1" else f" {point.unit}"
    return f"{value:.{decimals(point.resolution)}f}{unit}"
