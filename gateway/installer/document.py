"""Findings as JSON, for machines.

Owns: the shape of every ``--json`` answer. Promises: plain values, both languages where there are words, numbers with
their units beside them. Never: rounds what was measured.
"""

from __future__ import annotations

from typing import Any

import msgspec

from drivers.sensor import Template
from gateway.installer.diagnoses import Diagnosis
from gateway.installer.doctor import Finding
from gateway.installer.reading import Reading, Value
from gateway.installer.search import Doubt, Found
from gateway.installer.words import Lang, settings

Document = dict[str, Any]
BOTH: tuple[Lang, Lang] = ("zh", "en")


def value(one: Value) -> Document:
    """One point as JSON."""
    return {"point": one.point.id, "value": one.value, "unit": one.point.unit, "note": one.note or None,
            "outside_range": one.outside}


def reading(one: Reading) -> Document:
    """Give one reading as JSON."""
    return {"values": [value(v) for v in one.values], "asked": one.asked,
            "response_ms": [round(1000 * s, 1) for s in one.responses_s], "failed": dict(one.failed)}


def found(one: Found) -> Document:
    """Give one device as JSON."""
    serial = one.settings
    return {"address": one.address, "serial": msgspec.to_builtins(serial),
            "response_ms": round(1000 * one.response_s, 1), "refusal": one.code or None, "damaged": one.damaged,
            "proposals": [{"template": p.template.model, "title": msgspec.to_builtins(p.template.title),
                           "sure": round(p.sure, 3), **reading(p.reading)} for p in one.proposals]}


def row(one: Diagnosis) -> Document:
    """Give a diagnosis of a whole search as JSON."""
    return {"id": one.id, "what": one.what._asdict(), "do": one.do._asdict()}


def doubt(one: Doubt) -> Document:
    """Give an address that only ever answers damaged as JSON."""
    return {"address": one.address, "serial": msgspec.to_builtins(one.settings), **row(one.diagnosis)}


def finding(one: Finding) -> Document:
    """Give one finding as JSON."""
    told: Document = {lang: dict(zip(("what", "proof", "do"), one.texts(lang), strict=True)) for lang in BOTH}
    return {"id": one.diagnosis.id, "address": one.address, "serial": settings(one.settings) or None,
            **told, "measures": {name: n for name, n in one.measures.items() if n}}


def template(one: Template) -> Document:
    """Give a model as JSON, as its file says it with all defaults."""
    told: Document = msgspec.to_builtins(one, str_keys=True)
    return told
