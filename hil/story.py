"""What happens in the demo, minute by minute: data, not code.

Owns: the script. Promises: every deed is one line with its second and what the viewer is told. Never: does anything.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Deed(NamedTuple):
    """At `at_s` after the first reading reached the county, do `what` with `argument`; say `zh` or `en`."""

    at_s: float
    what: Literal["say", "rain", "creep", "press", "cut", "restore", "unplug", "plug", "end"]
    argument: float | str
    zh: str
    en: str


# `rain` is mm per second into the gauge, `creep` mm per second of the crack: exaggerated, a minute stands for weeks.
STORY = (
    Deed(0.0, "say", "", "一切正常，静静监测", "all quiet"),
    Deed(6.0, "rain", 0.4, "开始下雨", "rain begins"),
    Deed(10.0, "creep", 4.0, "坡体开始蠕动：黄、橙、红，警报响起", "the slope creeps: yellow, orange, red, siren"),
    Deed(27.0, "creep", 0.0, "坡体暂停", "the slope pauses"),
    Deed(29.0, "press", "ack-button", "责任人按下确认按钮", "the officer acknowledges: the siren rests"),
    Deed(31.0, "cut", "", "断网 15 秒，监测不停", "the network is cut for 15 s; readings go on"),
    Deed(46.0, "restore", "", "网络恢复，积压补传", "the network is back; the backlog drains"),
    Deed(50.0, "unplug", "rain", "雨量计被拔掉", "the rain gauge is unplugged"),
    Deed(56.0, "plug", "rain", "雨量计接回", "the rain gauge is plugged in again"),
    Deed(61.0, "end", "", "清点", "counting"),
)
