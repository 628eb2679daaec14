"""`jepa convert` as a user meets it: what it prints, all directions, and one line, exit 2 and nothing written."""

import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import jepa
from jepa import cli

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("interop") / "interop_fixtures.py")))
HEADS = ["--heads", "encoder=2,predictor=2,classifier=2"]


@pytest.fixture
def convert(monkeypatch, capsys, tmp_path):
    """Runs `jepa convert` in this process; returns the exit code and what it printed to stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jepa", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return call


def test_round_the_layouts_and_back(convert):
    made.random_model(made.CONFIGS["classifier"]).save_pretrained("a")
    for arguments in (["a", "b", "--to", "hf"], ["b", "c"], ["c", "d.pt", "--to", "meta"], ["d.pt", "e", *HEADS]):
        assert convert(*arguments)[0] == 0, arguments
    first, last = jepa.load("a"), jepa.load("e")
    assert all(torch.equal(v, last.state_dict()[k]) for k, v in first.state_dict().items())


def test_it_shows_what_was_read_and_chosen(convert):
    torch.save(made.meta_checkpoint(), "vit.pt")
    code, said = convert("vit.pt", "out", "--which", "encoder", *HEADS)
    assert code == 0
    for part in ("rope_layout=tiled", "taken: encoder", "mask token norms: 0: ", "inference uses 1", "out: written"):
        assert part in said, part
    assert jepa.load("out").config.which == "encoder" and "mask token norms" in Path("out/README.md").read_text()


class Gadget:
    def __reduce__(self):
        return os.mkdir, ("trap",)


def truncated(file):
    torch.save(file, "vit.pt")
    Path("vit.pt").write_bytes(Path("vit.pt").read_bytes()[:-5000])


def without_a_block(file):
    target = file["target_encoder"]
    torch.save({**file, "target_encoder": {k: v for k, v in target.items() if ".blocks.0." not in k}}, "vit.pt")


WRONG = {
    "truncated": (truncated, "cannot read vit.pt: it is cut off or damaged"),
    "gadget": (lambda file: torch.save({**file, "opt": Gadget()}, "vit.pt"), "it asks for posix.mkdir"),
    "legacy gadget": (
        lambda file: torch.save({**file, "opt": Gadget()}, "vit.pt", _use_new_zipfile_serialization=False),
        "it asks for posix.mkdir",
    ),
    "another architecture": (
        lambda file: torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(9)}, "vit.pt"),
        "vit.pt was not loaded: conv1.weight is unexpected, and 1 more",
    ),
    "a missing block": (without_a_block, "vit.pt was not loaded: encoder.blocks.0.attn.proj.bias is missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_file_is_refused_with_the_reason_and_nothing_is_written(convert, case):
    make, message = WRONG[case]
    make(made.meta_checkpoint())
    code, said = convert("vit.pt", "out", *HEADS)
    assert code == 2
    assert said.splitlines()[-1].startswith("jepa: ") and message in said.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["vit.pt"]
    table = said.splitlines()[:-1]
    if case == "a missing block":
        assert sum("encoder.blocks.0." in line and "missing" in line for line in table) == 12
    elif case != "another architecture":
        assert not table


def test_a_file_that_lacks_what_is_not_wanted_is_converted_when_told_so(convert):
    model = made.random_model(made.CONFIGS["classifier"])
    model.save_pretrained("whole.pt", to="meta")
    file = torch.load("whole.pt")
    del file["predictor"]["module.backbone.predictor_proj.bias"]
    file["classifiers"] = [{k: v for k, v in file["classifiers"][0].items() if ".blocks.2." not in k}]
    torch.save(file, "vit.pt")
    code, said = convert("vit.pt", "out", *HEADS)
    assert code == 2 and "classifier has 3 blocks, and it should have 4; if the file is whole" in said
    code, said = convert("vit.pt", "out", *HEADS, "--blocks", "classifier=3")
    assert code == 2 and "`jepa convert --parts encoder` takes the encoder alone" in said.splitlines()[-1]
    code, said = convert("vit.pt", "out", *HEADS, "--blocks", "classifier=3", "--parts", "encoder,classifier")
    assert code == 0
    assert jepa.load("out").classifier is not None and jepa.load("out").predictor is None
    assert "blocks 'two'" in convert("vit.pt", "out", "--blocks", "two")[1]


@pytest.mark.parametrize("heads", ["two", "encoder=0", "decoder=2", "encoder=2=3"])
def test_heads_are_numbers_by_part(convert, heads):
    code, said = convert("vit.pt", "out", "--heads", heads)
    assert code == 2 and f"heads '{heads}': give a number, or PART=NUMBER" in said
