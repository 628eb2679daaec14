"""Predictions are read as they were written; folds become one; a file that is something else is one line."""

from dataclasses import fields

import pytest
import torch
from safetensors.torch import save_file

from jepa.probes.kinds.base import ProbeError
from jepa.probes.predictions import Predictions, pool, read, write


def made(seed=0, kind="linear", view="pooled", best=True, values=False, first=0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(5, 3, generator=generator) if values else torch.randint(0, 4, (5,), generator=generator)
    return Predictions(
        *("arrow", kind, view, "pretrained", seed),
        predicted=true * 2,
        true=true,
        episodes=torch.arange(5) + first,
        first=torch.arange(5) * 3,
        best=true + 1 if best else None,
        chosen=({"c": 0.1, "validation": float("nan")},),
        train_clips=7 + first,
    )


def same(a: Predictions, b: Predictions) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Predictions) if f.name != "chosen"]
    alike = all(torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y for x, y in pairs)
    return alike and repr(a.chosen) == repr(b.chosen)


def test_what_is_written_is_read(tmp_path):
    given = [made(), made(3, "chance", "", best=False), made(1, "regression", values=True)]
    write(tmp_path / "new" / "p.safetensors", given, "clips-1")
    found, test = read(tmp_path / "new" / "p.safetensors")
    assert test == {0: "clips-1", 3: "clips-1", 1: "clips-1"} and len(found) == 3
    by_key = {m.key: m for m in found}
    assert all(same(m, by_key[m.key]) for m in given)
    assert "arrow/chance//pretrained/3" in by_key
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.safetensors"]


def test_folds_become_one():
    one = pool([made(), made(first=5)])
    assert one.episodes.tolist() == list(range(10)) and len(one.true) == len(one.best) == 10
    assert len(one.chosen) == 2 and one.train_clips == round((7 + 12) / 2)
    assert pool([made(), made(best=False)]).best is None


def test_something_else_is_one_line(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(ProbeError, match="no such file"):
        read(path)
    write(path, [made()], "clips-1")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ProbeError, match=r"damaged .*remove it"):
        read(path)
    save_file({"probabilities": torch.zeros(2)}, path)
    with pytest.raises(ProbeError, match="not what `jepa probe PRESET` writes"):
        read(path)
    save_file({"probabilities": torch.zeros(2)}, path, {"test": "clips-1"})
    with pytest.raises(ProbeError, match="of another version"):
        read(path)


def test_each_seed_names_its_clips(tmp_path):
    write(tmp_path / "p", [made(0), made(1)], {0: "clips-1", 1: "clips-2"})
    assert read(tmp_path / "p")[1] == {0: "clips-1", 1: "clips-2"}
