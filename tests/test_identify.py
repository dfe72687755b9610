"""Is it this model, and how sure is that."""

import struct

import pytest

from drivers.identify import Check, Identify


def regs(*words):
    return struct.pack(f">{len(words)}H", *words)


@pytest.mark.parametrize(("rule", "yes", "no"), [
    (Identify(register=10, count=2), regs(1, 2), regs(1)),
    (Identify(register=10, count=2, checks=(Check(register=11, among=(2, 3)),)), regs(0, 3), regs(3, 4)),
    (Identify(register=0, count=1, checks=(Check(register=0, bits=(4, 4), among=(7,)),)), regs(0x0170), regs(0x0700)),
    (Identify(register=0, count=1, checks=(Check(register=0, type="s16", between=(-400, 800)),)), regs(0xFF00),
     regs(0xF000)),
    (Identify(register=0, count=2, checks=(Check(register=0, type="f32", order="CDAB", between=(0, 20)),)),
     regs(0, 0x4120), regs(0x4120, 0xFFFF)),
    (Identify(register=5, count=4, checks=(Check(register=6, text="ZJDC"),)), regs(0, 0x5A4A, 0x4443, 0),
     regs(0, 0x5A4A, 0x4444, 0)),
    (Identify(register=0, count=1, checks=(Check(register=0, type="u8", byte="high", among=(0x1A,)),)), regs(0x1A01),
     regs(0x011A)),
    (Identify(function=2, register=3, count=9, checks=(Check(register=11, type="bit", among=(1,)),)), b"\0\x01",
     b"\xff\0"),
    (Identify(register=0, count=2, checks=(Check(register=0, type="f32", between=(0, 20)),)), regs(0x4120, 0),
     regs(0x7FC0, 0)),   # not a number is in no range
])
def test_a_rule_knows_its_model(rule, yes, no):
    assert rule.matches(yes)
    assert not rule.matches(no)


@pytest.mark.parametrize(("check", "bits"), [
    (Check(register=0, among=(1,)), 16), (Check(register=0, among=(1, 2, 3, 4)), 14),
    (Check(register=0, bits=(0, 4), among=(1,)), 4), (Check(register=0, type="u32", among=(1,)), 32),
    (Check(register=0, between=(0, 255)), 8), (Check(register=0, between=(0, 65535)), 0),
    (Check(register=0, type="u8", byte="low", among=(1,)), 8), (Check(register=0, type="bit", among=(1,)), 1),
    (Check(register=0, text="ZJDC"), 32),
    (Check(register=0, type="f32", between=(-3.4e38, 3.4e38)), pytest.approx(0, abs=0.01)),
])
def test_evidence_is_how_many_numbers_a_check_rules_out(check, bits):
    assert check.weight() == pytest.approx(bits)


def test_a_specific_rule_outweighs_a_generic_one():
    generic = Identify(register=0, count=1)
    loose = Identify(register=0, count=2, checks=(Check(register=0, type="f32", between=(0, 20)),))
    strict = Identify(register=0, count=4, checks=(Check(register=0, among=(26,)), Check(register=2, among=(1, 2, 5))))
    assert generic.weight() == 0 < loose.weight() < strict.weight()


@pytest.mark.parametrize("rule", [
    Identify(register=2, count=4, checks=(Check(register=2, among=(26, 27)), Check(register=3, text="AB"),
                                          Check(register=4, type="f32", between=(1.5, 2.5)))),
    Identify(function=1, register=0, count=3, checks=(Check(register=2, type="bit", among=(1,)),)),
    Identify(register=2, count=1, checks=(Check(register=2, type="s16", bits=(4, 4), between=(-3.5, -2.0)),)),
])
def test_a_simulated_device_passes_its_own_rule(rule):
    held = bytearray(12 if rule.function == 3 else 1)
    rule.fake(held)
    read = bytes(held[2 * rule.register:2 * (rule.register + rule.count)]) if rule.function == 3 else bytes(held)
    assert rule.matches(read)
    before = bytes(held)
    rule.fake(held)
    assert bytes(held) == before
