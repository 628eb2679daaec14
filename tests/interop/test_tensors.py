"""Files of others: read where they hold tensors, refused in one line where not, and nothing in them is ever run."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from jepa.checkpoint import CheckpointError
from jepa.interop.tensors import read_folder, read_json, read_pickle, read_safetensors, tensors_of


class Gadget:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def dump(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize(
    ("write", "run"),
    [
        (torch.save, lambda path: torch.load(path, weights_only=False)),
        (dump, lambda path: pickle.loads(path.read_bytes())),
    ],
)
def test_a_gadget_is_refused_with_the_reason_and_does_not_run(tmp_path, write, run):
    trap, file = tmp_path / "trap", tmp_path / "weights.pt"
    write({"encoder": Gadget(trap)}, file)
    with pytest.raises(
        CheckpointError, match=r"weights.pt was refused, .* it asks for posix.mkdir, and only tensors"
    ) as e:
        read_pickle(file)
    assert not trap.exists() and "\n" not in str(e.value)
    run(file)
    assert trap.exists()  # the gadget is a real one


def test_a_whole_module_is_refused(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"it asks for torch\.nn\.modules"):
        read_pickle(tmp_path / "module.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_cut_off_is_one_line(tmp_path, suffix, share):
    file, read = tmp_path / f"weights.{suffix}", read_pickle if suffix == "pt" else read_safetensors
    (torch.save if suffix == "pt" else save_file)({"a": torch.randn(1000)}, file)
    read(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"it is (empty|cut off or damaged)") as refused:
        read(file)
    assert "\n" not in str(refused.value) and str(file) in str(refused.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("content", [b"no pickle at all", b"\x80\x02}q", b"PK\x03\x04 no zip", b"\x80\x04\x95"])
def test_rubbish_is_one_line(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        read_pickle(tmp_path / "weights.pt")
    assert "\n" not in str(refused.value) and "torch.load" not in str(refused.value)


def test_what_is_not_there_or_not_a_dict_is_said(tmp_path):
    for read in (read_pickle, read_safetensors):
        with pytest.raises(CheckpointError, match="there is no such file"):
            read(tmp_path / "none")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_pickle(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="'a' is a int, not a tensor"):
        tensors_of({"a": 1}, "weights")
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_json(tmp_path / "c.json")


def test_a_folder_is_one_file_or_several_of_its_own(tmp_path):
    with pytest.raises(CheckpointError, match="no weights in"):
        read_folder(tmp_path)
    torch.save({"old": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert set(read_folder(tmp_path)) == {"old"}
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(read_folder(tmp_path)) == {"a", "b"}
    index["weight_map"]["b"] = "../model-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_folder(tmp_path)


def test_a_legacy_file_cut_off_anywhere_is_one_line(tmp_path):
    file = tmp_path / "old.pt"
    torch.save({"encoder": {"a": torch.zeros(3)}}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"old\.pt"):
            read_pickle(file)
