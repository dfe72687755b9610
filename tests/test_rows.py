"""Bodies of rows: what goes in comes out, bit by bit, or an error does."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.rows import checksum, decode, decode_events, encode, pack_events
from gateway.model import SAMPLE, Colour, Door, Event, Row


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=21 * 40), steps=st.sampled_from(["any", "narrow"]))
def test_any_samples_come_back_bit_by_bit(raw, steps):
    samples = np.frombuffer(raw[:len(raw) // 21 * 21], SAMPLE).copy()
    if steps == "narrow":
        samples["t_ms"] = 1_700_000_000_000 + np.arange(len(samples)) * 20
    assert decode(encode(samples.tobytes(), "data")).tobytes() == samples.tobytes()


def test_extreme_times_and_all_kinds_of_nothing_survive():
    samples = np.zeros(4, SAMPLE)
    samples["t_ms"] = [np.iinfo("i8").min, np.iinfo("i8").max, 0, -1]
    samples["value"] = [float("nan"), float("inf"), -0.0, 5e-324]
    assert decode(encode(samples.tobytes(), "data")).tobytes() == samples.tobytes()


def test_a_second_of_a_typical_site_takes_less_than_five_bytes_a_reading():
    rng = np.random.default_rng(7)
    samples = np.zeros(500, SAMPLE)
    samples["t_ms"] = np.repeat(np.arange(10) * 1000, 50)
    samples["point"] = np.tile(np.arange(50), 10)
    samples["flag"] = 1
    samples["value"] = np.round(rng.normal(20, 1, 500), 1)
    assert len(encode(samples.tobytes(), "data")) < 5 * 500


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_events_come_back_with_their_chinese(texts):
    events = [Event(id=str(n), kind="alarm.raised", t_ms=n, text_zh=text, colour=Colour.RED, why={"值": 1.5})
              for n, text in enumerate(texts)]
    assert decode_events(encode(pack_events(events), "alarm")) == events


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_never_another_number(at, bit):
    samples = np.zeros(50, SAMPLE)
    samples["value"] = np.arange(50) * 1.1
    body = bytearray(encode(samples.tobytes(), "data"))
    body[at % len(body)] ^= 1 << bit
    try:
        same = decode(bytes(body)).tobytes() == samples.tobytes()
    except ValueError:
        same = True
    assert same


@pytest.mark.parametrize("plain", [b"", b"\x01", b"\x09\x04" + bytes(12), b"\x01\x04\x05\x00\x00\x00" + bytes(8)])
def test_a_well_packed_but_wrong_body_is_refused(plain):
    with pytest.raises(ValueError, match="row body has"):
        decode(zlib.compress(plain))
    with pytest.raises(ValueError, match="row body"):
        decode_events(zlib.compress(b"\xc1"))


def test_the_checksum_covers_everything_a_row_says():
    def row(**changes):
        fields = {"epoch": "e", "lane": "data", "seq": 1, "inventory": 2, "door": Door("b", 3, "synced"), "count": 4,
                  "body": b"x"}
        return Row(**{**fields, **changes})

    others = [row(epoch="f"), row(lane="event"), row(seq=2), row(inventory=3), row(door=Door("c", 3, "synced")),
              row(door=Door("b", 4, "synced")), row(door=Door("b", 3, "unset")), row(count=5), row(body=b"y"),
              row(thinned="thin", of=9), row(thinned="aggregate", of=9), row(thinned="thin", of=8), row(of=9)]
    sums = {checksum(r, 9) for r in [row(), *others]} | {checksum(row(), 10)}
    assert len(sums) == len(others) + 2
