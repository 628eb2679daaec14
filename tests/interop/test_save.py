"""Saving: whole or not at all, never over what is there; the card tells data, recipe and probes; the upload."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

import jepa
from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.interop import save as saving
from jepa.interop.card import card
from jepa.interop.notes import differences, notes

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("interop_fixtures.py"))))


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path, monkeypatch):
    model = made.random_model(made.VJEPA2)
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="there is there already"):
        model.save_pretrained(tmp_path / "there")
    with pytest.raises(ConfigError, match="no layout 'onnx'; there are: ours, hf, meta"):
        model.save_pretrained(tmp_path / "out", to="onnx")
    with pytest.raises(ConfigError, match=r"must end in \.pt"):
        model.save_pretrained(tmp_path / "out", to="meta")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    for layout in ("ours", "hf"):
        with pytest.raises(OSError, match="No space"):
            model.save_pretrained(tmp_path / "out", to=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("kind", made.CONFIGS)
def test_metas_file_is_read_by_the_restricted_unpickler_alone(tmp_path, kind):
    model = made.random_model(made.CONFIGS[kind])
    model.save_pretrained(tmp_path / "deep" / "model.pt", to="meta")
    again = jepa.load(tmp_path / "deep" / "model.pt", made.HEADS)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    # Two encoders in the file, and the weights of one.
    weights = sum(v.numel() * 4 for v in model.state_dict().values())
    assert (tmp_path / "deep" / "model.pt").stat().st_size < 1.4 * weights + 60_000


def test_the_card_tells_what_is_in_it_its_data_recipe_and_probes(tmp_path):
    run, probe = tmp_path / "run", tmp_path / "probe"
    for folder in (run, probe):
        folder.mkdir()
    (run / "config.json").write_text(json.dumps({"objective": {"type": "vjepa2"}, "seed": 7, "out": "secret"}))
    (run / "data.json").write_text(json.dumps({"shards/mine": "abc123"}))
    row = {"title": "skill", "probe": "linear", "view": "pooled", "row": "pretrained", "metric": "accuracy"}
    (probe / "probe.json").write_text(json.dumps({"rows": [row | {"mean": 0.5, "t95": [0.4, None]}]}))
    text = card(made.random_model(made.CONFIGS["classifier"]), run, probe)
    assert text.startswith("---\nlibrary_name: openjepa\npipeline_tag: video-classification\n")
    for part in ("shards/mine", "abc123", '"type": "vjepa2"', "| skill | linear | pooled | pretrained |", "0.400 to –"):
        assert part in text, part
    assert "secret" not in text and "jepa.load(" in text
    assert "AutoModel.from_pretrained" in card(made.random_model(made.VJEPA2), hf=True)
    (probe / "probe.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not what `jepa probe` writes"):
        card(made.random_model(made.VJEPA2), probe=probe)


def test_pushing_uploads_the_saved_folder(monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            calls.append((repo_id, private))
            return "https://hub/me/mine"

        def upload_folder(self, repo_id, folder_path):
            calls.append(sorted(path.name for path in Path(folder_path).iterdir()))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert made.random_model(made.VJEPA2).push_to_hub("me/mine") == "https://hub/me/mine"
    assert calls == [("me/mine", True), ["README.md", "config.json", "model.safetensors"]]


def test_an_untrained_mask_token_is_pointed_out():
    model = made.random_model(made.VJEPA2)
    told = "\n".join(notes(model))
    norm = model.predictor.mask_tokens[2].norm()
    assert f"2: {norm:.3g}; inference uses 1" in told and "never trained" not in told
    model.predictor.mask_tokens[1].zero_()
    assert "mask token 1 is zero and so was never trained; trained: 0, 2" in "\n".join(notes(model))


def test_what_a_layout_says_otherwise_is_told():
    probe, ac = made.random_model(made.CONFIGS["classifier"]), made.random_model(made.CONFIGS["action-conditioned"])
    assert "eps 1e-06 here, 1e-05 there" in differences(probe, "meta")[0]
    assert not differences(probe, "hf") and not differences(probe, "ours")
    assert "extrinsics_encoder" in differences(ac, "meta")[0]
    other = made.random_model(replace(made.VJEPA2, mask_index=2))
    for to in ("hf", "meta"):
        assert differences(other, to) == ["predictor: inference uses mask token 2 here, and 1 there"]
    assert not differences(other, "ours")
    assert not differences(made.random_model(replace(made.VJEPA2, mask_tokens=1, mask_index=0)), "hf")
    for model, part in ((probe, "trained with 16 heads"), (ac, "layer-normed again")):
        assert part in "\n".join(notes(model))
