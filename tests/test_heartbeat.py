"""Whose fault it is that a run stands still: decided on records alone, at times that the test makes up."""

import pytest

from jepa import heartbeat
from jepa.heartbeat import SILENT, UNWIND, Seen, judge

TIMEOUT = 1000.0


def record(at, beat=0, **more):
    return {"host": "node7", "pid": 42, "at": list(at), "time": beat, **more}


def ranks(*positions, at=0.0):
    """Ranks that are seen at these positions at time `at`, for the first time."""
    seen = {rank: Seen({}) for rank in range(len(positions))}
    for rank, position in enumerate(positions):
        seen[rank].note(record(position), at)
    return seen


def keep_alive(seen, now):
    for one in seen.values():
        one.note({**one.record, "time": now}, now)


def test_a_run_goes_on_while_its_least_far_rank_does():
    seen = ranks((7, 0), (8, 0), (8, 0))
    keep_alive(seen, 2 * TIMEOUT)
    seen[0].note(record((7, 1), 1), 2 * TIMEOUT)  # it measures, and the others wait in a collective
    assert judge(seen, 2 * TIMEOUT + 1, TIMEOUT) == ""


def test_of_ranks_that_stand_still_the_least_far_is_named():
    seen = ranks((8, 0), (7, 3), (8, 0))
    keep_alive(seen, TIMEOUT + 5)
    assert judge(seen, TIMEOUT, TIMEOUT) == ""
    line = judge(seen, TIMEOUT + 5, TIMEOUT)
    assert line == "rank 1 (on node7, process 42, last heard at step 7): no progress for 1005 s"


def test_many_ranks_make_one_short_line():
    seen = ranks(*[(7, 0)] * 100)
    keep_alive(seen, TIMEOUT + 5)
    line = judge(seen, TIMEOUT + 5, TIMEOUT)
    assert "rank 2 (" in line and "rank 3 (" not in line and " and 97 more" in line


def test_a_rank_without_heartbeat_is_gone_long_before_the_timeout():
    seen = ranks((7, 0), (7, 0), at=5.0)
    seen[0].note(record((7, 0), 1), 5.0 + SILENT)
    assert judge(seen, 5.0 + SILENT, TIMEOUT) == ""
    line = judge(seen, 6.0 + SILENT, TIMEOUT)
    assert line.startswith("rank 1 (on node7") and "no heartbeat for 121 s" in line and "last heard at step 7" in line
    assert "rank 1 (" in judge(ranks((1, 0), (1, 0), at=5.0), 16.0, 10.0)  # the timeout is shorter still


def test_what_an_earlier_attempt_left_does_not_count():
    stale = record((900, 0), left="ValueError: of an earlier attempt")
    seen = {0: Seen({}), 1: Seen(stale)}
    seen[0].note(record((0, 0)), 0.0)
    seen[1].note(stale, 50.0)
    assert judge(seen, SILENT + 1, TIMEOUT).startswith("rank 0 (on node7")  # heard once; 1 has yet to begin
    keep_alive({0: seen[0]}, TIMEOUT + 1)
    assert judge(seen, TIMEOUT + 1, TIMEOUT).startswith("rank 1 (has not begun): ")
    seen[1].note(record((0, 0)), TIMEOUT + 1)
    assert judge(seen, TIMEOUT + 2, TIMEOUT) == ""


def test_a_rank_that_left_with_an_error_leaves_the_others_time_to_do_so():
    seen = ranks((7, 0), (7, 0))
    seen[1].note(record((7, 0), left="ValueError: no such thing"), 1.0)
    assert judge(seen, 1.0 + UNWIND, TIMEOUT) == ""
    line = judge(seen, 2.0 + UNWIND, TIMEOUT)
    assert line.startswith("rank 1 (") and line.endswith("left with ValueError: no such thing")


def test_a_rank_that_is_done_may_be_silent_and_the_others_finish():
    seen = ranks((7, 0), (7, 0))
    seen[1].note(record((7, 0), left=""), 1.0)
    keep_alive({0: seen[0]}, TIMEOUT - 1)
    assert judge(seen, TIMEOUT - 1, TIMEOUT) == ""


def test_a_verdict_holds_for_all():
    seen = ranks((7, 0), (7, 0), (7, 0))
    seen[1].note(record((7, 0), left="", verdict="rank 2 is gone"), 1.0)
    assert judge(seen, 1.0, TIMEOUT) == "rank 2 is gone"


def test_records_are_overwritten_in_place_and_half_of_one_is_none(tmp_path):
    path = tmp_path / "rank.json"
    heartbeat.write(path, record((1000, 0), left="a long story " * 20))
    inode = path.stat().st_ino
    heartbeat.write(path, record((2, 0)))
    assert heartbeat.read(path) == record((2, 0)) and path.stat().st_ino == inode
    path.write_bytes(path.read_bytes()[:20])
    assert heartbeat.read(path) == {} == heartbeat.read(tmp_path / "none")
    seen = Seen({}, record((2, 0)), heard=1.0)
    seen.note({}, 5.0)
    assert seen.heard == 1.0


@pytest.mark.parametrize("text", [b"[1, 2]", b"\xff\xfe", b"3", b'{"a": 1}'])
def test_a_file_of_something_else_is_no_record(tmp_path, text):
    (tmp_path / "rank.json").write_bytes(text)
    assert heartbeat.read(tmp_path / "rank.json") == {}
