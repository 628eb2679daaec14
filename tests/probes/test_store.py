"""A store gives back what was written, goes on after a kill, and never takes a torn row for a whole one."""

import os
import signal
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from jepa.probes import store as module
from jepa.probes.kinds.base import ProbeError
from jepa.probes.store import Rows, digest, open_store, reopen

SHAPE = (3, 4)


def rows_of(count: int) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_come_back_as_they_were_written_in_any_order(tmp_path, dtype):
    values, store = rows_of(7), open_store(tmp_path, {"a": 1}, 7, SHAPE, dtype)
    store.write(torch.tensor([5, 0, 1]), values[[5, 0, 1]])
    assert store.missing().tolist() == [2, 3, 4, 6] and not store.complete
    open_store(tmp_path, {"a": 1}, 7, SHAPE, dtype).write([2, 3, 4, 6], values[[2, 3, 4, 6]])
    assert store.complete and torch.equal(store.values, values.to(dtype))
    assert torch.equal(reopen(store.folder).values, store.values)


def test_another_key_shape_or_number_of_rows_is_another_store(tmp_path):
    first = open_store(tmp_path, {"a": 1}, 2, SHAPE)
    first.write([0, 1], rows_of(2))
    others = [({"a": 2}, 2, SHAPE), ({"a": 1}, 3, SHAPE), ({"a": 1}, 2, (4, 3))]
    assert all(not open_store(tmp_path, *other).complete for other in others)
    assert open_store(tmp_path, {"a": 1}, 2, SHAPE).complete
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 2})


@pytest.mark.parametrize("cut", [1, 3 * 4 * 2, 3 * 4 * 2 + 1, 6 * 3 * 4 * 2])
def test_rows_that_a_shortened_file_lost_are_missing_again(tmp_path, cut):
    store = open_store(tmp_path, {}, 6, SHAPE)
    store.write(range(6), rows_of(6))
    file = store.folder / "values.bin"
    os.truncate(file, file.stat().st_size - cut)
    lost = -(-cut // (3 * 4 * 2))
    again = open_store(tmp_path, {}, 6, SHAPE)
    assert again.missing().tolist() == list(range(6 - lost, 6))
    assert torch.equal(again.values[: 6 - lost], rows_of(6)[: 6 - lost].half())


def test_a_lost_mark_is_a_lost_row(tmp_path):
    store = open_store(tmp_path, {}, 6, SHAPE)
    store.write(range(6), rows_of(6))
    os.truncate(store.folder / "done.bin", 4)
    assert open_store(tmp_path, {}, 6, SHAPE).missing().tolist() == [4, 5]


def test_a_writer_that_dies_between_values_and_mark_has_written_nothing(tmp_path, monkeypatch):
    store = open_store(tmp_path, {}, 4, SHAPE)
    store.write([0], rows_of(1))
    written = []

    def dies(file, data, offset):
        if written:  # the second write is the mark
            raise KeyboardInterrupt
        written.append(data)
        os.pwrite(file, data, offset)

    monkeypatch.setattr(module, "_write_at", dies)
    with pytest.raises(KeyboardInterrupt):
        store.write([2, 3], rows_of(2))
    assert store.missing().tolist() == [1, 2, 3]


WRITER = """
import sys
from pathlib import Path
import torch
from jepa.probes.store import open_store
store = open_store(Path(sys.argv[1]), {}, 4000, (64,))
for row in store.missing().tolist():
    store.write([row], torch.full((1, 64), float(row % 1000)))
    print(row, flush=True)
"""


def test_a_killed_writer_is_gone_on_from(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        for _ in range(5):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    store = open_store(tmp_path, {}, 4000, (64,))
    missing = store.missing()
    there = torch.ones(4000, dtype=torch.bool)
    there[missing] = False
    assert 5 <= there.sum() < 4000
    expected = (torch.arange(4000.0) % 1000).half()[:, None].expand(-1, 64)
    assert torch.equal(store.values[there], expected[there])
    store.write(missing, expected[missing])
    assert store.complete and torch.equal(store.values, expected)


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(ProbeError, match=r"2.5 GB are needed, the disk has 0.0 GB; make room"):
        open_store(tmp_path, {}, 10**8, SHAPE)
    open_store(tmp_path, {}, 3, SHAPE)


def test_values_that_do_not_fit_are_an_error(tmp_path):
    store = open_store(tmp_path, {}, 1, (1,))
    with pytest.raises(ProbeError, match="float16 cannot hold"):
        store.write([0], torch.tensor([[7e4]]))
    with pytest.raises(ProbeError, match="are not finite"):
        store.write([0], torch.tensor([[float("nan")]]))
    assert not store.complete


def test_rows_stand_for_a_tensor():
    values, ids = rows_of(6), torch.tensor([4, 1, 3])
    rows = Rows(values, ids)
    assert len(rows) == 3 and rows.shape == (3, *SHAPE)
    assert torch.equal(rows[torch.tensor([2, 0])], values[[3, 4]]) and torch.equal(rows[0], values[4])
    assert torch.equal(torch.cat(list(rows.split(2))), values[ids])
