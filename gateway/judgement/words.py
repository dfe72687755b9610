"""What people read: one sentence in Chinese and one in English for every kind of event and every reply.

Owns: the wording, and how numbers, colours and reasons are written in it.
Promises: every event kind has both languages; a number is rounded to its point's resolution.
Never: decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

COLOURS_ZH = ("无", "蓝色", "黄色", "橙色", "红色")
COLOURS_EN = ("none", "blue", "yellow", "orange", "red")

REASONS_ZH: Mapping[str, str] = {
    "": "未说明原因", "no_answer": "传感器无应答", "bad_crc": "校验错误", "foreign_answer": "应答不符",
    "refused": "设备拒绝应答", "busy": "设备忙", "link_down": "线路中断", "quarantined": "多次无应答，已隔离",
    "borrowed": "端口借用中", "no_data": "设备无数据", "warm_up": "预热中", "sensor_fault": "传感器故障",
    "unit_mismatch": "单位不符", "not_a_number": "不是数字", "out_of_range": "超出合理范围", "saturated": "超量程",
    "over_range": "超上量程", "under_range": "低于下量程", "rate": "变化过快", "flat_line": "长时间不变",
    "stale": "长时间没有数据",
}
SERVICES_ZH: Mapping[str, str] = {
    "commissioning": "调试", "trial": "试运行", "in_service": "正式运行", "maintenance": "检修", "retired": "停用"}

EVENTS: Mapping[str, tuple[str, str]] = {
    "alarm.raised": ("{object}：{cause_zh}，{colour_zh}预警", "{object}: {cause_en}: {colour_en} alarm"),
    "alarm.raised_to": ("{object}：{cause_zh}，{was_zh}升为{colour_zh}预警",
                        "{object}: {cause_en}: alarm raised from {was_en} to {colour_en}"),
    "alarm.lowered_to": ("{object}：{was_zh}降为{colour_zh}预警",
                         "{object}: alarm lowered from {was_en} to {colour_en}"),
    "alarm.acknowledged": ("{object}：{who}已知晓{colour_zh}预警",
                           "{object}: {who} has acknowledged the {colour_en} alarm"),
    "alarm.silenced": ("{object}：{who}已静音 {for_s} 秒，预警仍有效",
                       "{object}: {who} silenced the siren for {for_s} s; the alarm stands"),
    "alarm.silence_ended": ("{object}：静音结束，{colour_zh}预警仍有效",
                            "{object}: the silence has ended; the {colour_en} alarm stands"),
    "alarm.confirm_asked": ("{object}：{colour_zh}预警等待责任人确认，{for_s} 秒内未答复将{unanswered_zh}",
                            "{object}: {colour_en} awaits an officer; in {for_s} s the siren will {unanswered_en}"),
    "alarm.confirmed": ("{object}：{answer_zh}，{colour_zh}预警鸣笛",
                        "{object}: {answer_en}: siren on for {colour_en}"),
    "alarm.refused": ("{object}：{answer_zh}，{colour_zh}预警不鸣笛",
                      "{object}: {answer_en}: no siren for {colour_en}"),
    "alarm.cleared": ("{object}：{was_zh}预警解除（{ending_zh}）", "{object}: {was_en} alarm cleared ({ending_en})"),
    "alarm.input_lost": ("{object}：预警期间{point}失去数据（{reason_zh}），保持最后判断",
                         "{object}: {point} lost during an alarm ({reason_en}); its last vote is kept"),
    "point.lost": ("{object}：{point}失去数据（{reason_zh}）", "{object}: {point} is lost ({reason_en})"),
    "point.returned": ("{object}：{point}恢复数据", "{object}: {point} is back"),
    "point.suspect": ("{object}：{point}数据可疑（{reason_zh}）", "{object}: {point} is suspect ({reason_en})"),
    "object.service": ("{object}：{was_service_zh}转为{service_zh}（{who_zh}）",
                       "{object}: from {was_service} to {service} ({who_en})"),
    "wire.down": ("线路 {wire} 中断：{reason_en}", "wire {wire} is down: {reason_en}"),
    "wire.up": ("线路 {wire} 恢复", "wire {wire} is up again"),
    "anomaly": ("{object}：{point}疑似异常，读数 {value}，预计 {expected}",
                "{object}: {point} looks unusual, reading {value}, expected {expected}"),
    "box.poison": ("设备 {device} 的一条读数无法处理，已丢弃：{error}",
                   "a reading of device {device} could not be judged and was dropped: {error}"),
}

REPLIES: Mapping[str, tuple[str, str]] = {
    "done": ("已执行", "done"),
    "no_object": ("没有名为 {object} 的监测对象，请核对编号", "no object is called {object}: check its id"),
    "no_alarm": ("{object} 当前没有预警", "{object} has no alarm now"),
    "other_alarm": ("{object} 的当前预警编号不是 {alarm}，请刷新后再试",
                    "the alarm of {object} is not {alarm}: look again and repeat"),
    "no_siren": ("{object} 没有可静音的警报器", "{object} has no siren to silence"),
    "cause_persists": ("{object} 的预警原因仍在（{colour_zh}），不能解除；传感器损坏时请先转入检修",
                       "the cause still stands at {object} ({colour_en}); use maintenance if a sensor is broken"),
    "nothing_asked": ("{object} 没有等待确认的预警", "nothing at {object} waits for an answer"),
    "bad_time": ("时长应为大于 0 的秒数", "expected a time in seconds above 0"),
    "no_service": ("请说明要转入的运行状态", "say which service state is wanted"),
    "no_authority": ("{object} 未签署发布授权，不能转为正式运行",
                     "{object} has no signed authority, so it cannot go in service"),
}


@lru_cache(maxsize=256)
def _decimals(resolution: float) -> int:
    return 6 if resolution <= 0 else min(6, max(0, math.ceil(-math.log10(resolution) - 1e-9)))


def number(value: float | None, resolution: float, language: str = "zh") -> str:
    """A reading as people read it: rounded to `resolution`; off the scale in words; absent as a dash."""
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        zh, en = ("超上量程", "above its range") if value > 0 else ("低于下量程", "below its range")
        return zh if language == "zh" else en
    if resolution <= 0:
        return f"{value:g}"
    return f"{value:.{_decimals(resolution)}f}"


def cause(point: str, value: float | None, limit: float, unit: str, resolution: float, *, below: bool,
          level: int) -> tuple[str, str]:
    """Return the sentence that names what crossed which limit, in Chinese and English."""
    reached = value is not None and math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-9)
    verb_zh = "达到" if reached else "低于" if below else "超过"
    verb_en = "at" if reached else "below" if below else "above"
    tail = f" {unit}" if unit else ""
    value_zh, value_en = (f"{number(value, resolution, lang)}{'' if value is None or math.isinf(value) else tail}"
                          for lang in ("zh", "en"))
    return (f"{point} {value_zh}，{verb_zh}{COLOURS_ZH[level]} {limit:g}{tail}",
            f"{point} {value_en}, {verb_en} {COLOURS_EN[level]} {limit:g}{tail}")


def event(kind: str, facts: Mapping[str, object]) -> tuple[str, str]:
    """Return (Chinese, English) for an event of `kind`; `facts` fill the blanks."""
    zh, en = EVENTS[kind]
    return zh.format_map(facts), en.format_map(facts)


def reply(kind: str, facts: Mapping[str, object]) -> tuple[str, str]:
    """Return (Chinese, English) for a reply; `facts` fill the blanks."""
    zh, en = REPLIES[kind]
    return zh.format_map(facts), en.format_map(facts)
