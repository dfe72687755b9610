"""Staging: what append returned from is read back; a torn tail is cut; committed segments go."""

import os

import pytest

from gateway.journal.entries import FORMAT, Adopted, Group, Head, Latch, Mark, entries
from gateway.journal.rows import Part
from gateway.journal.staging import Staging
from gateway.model import Door, Inventory

HEAD = Head(FORMAT, "gw", "boot", "e1", 7, None, ())
DOOR = Door("boot", 5, "synced")


def part(seq, number=0, lane="data", payload=b"x" * 50):
    return Part("e1", lane, seq, number, 0, 1, DOOR, 1, payload)


def segments(folder):
    return sorted(p.name for p in folder.glob("*.seg"))


@pytest.fixture
def staging(tmp_path):
    staging = Staging(tmp_path / "staging", segment_bytes=400)
    staging.read()
    staging.begin(HEAD)
    yield staging
    staging.close()


def test_everything_appended_is_read_by_the_next_process(staging):
    latch = Latch(b"red", "boot", 3, 8)
    staging.append(Group(1, (part(1), part(1, lane="alarm")), latch))
    staging.append(Adopted(Inventory(9, ())))
    staging.append(Mark(8))
    staging.close()
    found = Staging(staging.folder).read()
    assert (found.head, found.commit, found.t_ms, found.latch, found.torn) == (HEAD, 8, 1, latch, 0)
    assert [p for _, p in found.parts] == [part(1), part(1, lane="alarm")]
    assert found.inventories == {9: Inventory(9, ())}


def test_a_tail_torn_at_any_byte_is_cut_and_what_was_whole_stays(staging):
    sizes, first = [], staging.bytes
    for seq in (1, 2, 3):
        staging.append(Group(seq, (part(seq),), None))
        sizes.append(staging.bytes)
    path = staging.folder / "00000001.seg"
    raw = path.read_bytes()
    staging.close()
    for cut in range(len(raw) + 1):
        path.write_bytes(raw[:cut])
        reading = Staging(staging.folder)
        found = reading.read()
        whole = sum(size <= cut for size in sizes)
        assert found.torn == (cut not in (0, *sizes, first)), cut
        assert [p.seq for _, p in found.parts] == list(range(1, whole + 1)), cut
        reading.close()


def test_a_flipped_byte_ends_the_segment_and_never_changes_a_part(staging):
    for seq in (1, 2, 3):
        staging.append(Group(seq, (part(seq),), None))
    raw = (staging.folder / segments(staging.folder)[0]).read_bytes()
    true = [repr(e) for e in entries(raw)[0]]
    for at in range(len(raw)):
        broken = bytearray(raw)
        broken[at] ^= 0xFF
        got = [repr(e) for e in entries(bytes(broken))[0]]
        assert got == true[:len(got)]
        assert len(got) < len(true)


def test_a_segment_goes_when_its_last_row_is_released(staging):
    staging.append(Group(1, (part(1),), None))
    staging.begin(HEAD)
    staging.append(Group(2, (part(1, 1), part(2)), None))
    staging.begin(HEAD)
    assert segments(staging.folder) == ["00000001.seg", "00000002.seg", "00000003.seg"]
    staging.release(("e1", "data", 1))
    assert segments(staging.folder) == ["00000002.seg", "00000003.seg"]
    staging.release(("e1", "data", 2))
    assert segments(staging.folder) == ["00000003.seg"]
    assert staging.bytes == (staging.folder / "00000003.seg").stat().st_size


def test_the_latch_outlives_the_segment_it_was_said_in(staging):
    latch = Latch(b"red", "boot", 3, None)
    staging.append(Group(1, (part(1),), latch))
    staging.begin(Head(FORMAT, "gw", "boot", "e1", 8, latch, ()))
    staging.release(("e1", "data", 1))
    staging.close()
    assert Staging(staging.folder).read().latch == latch


def test_one_process_at_a_time(staging):
    with pytest.raises(BlockingIOError):
        Staging(staging.folder).read()


def test_no_room_is_an_error_and_leaves_what_was_there(staging, monkeypatch):
    staging.append(Group(1, (part(1),), None))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    with pytest.raises(OSError, match="only 10 of"):
        staging.append(Group(2, (part(2),), None))
    monkeypatch.undo()
    staging.append(Group(3, (part(3),), None))
    staging.close()
    assert [p.seq for _, p in Staging(staging.folder).read().parts] == [1, 3]


def test_a_folder_cleaned_by_somebody_is_noticed_and_made_again(staging):
    assert staging.intact()
    for path in staging.folder.glob("*.seg"):
        path.unlink()
    assert not staging.intact()
    staging.begin(HEAD)
    assert staging.intact()
