"""`jepa.load` of every kind of source: ours, a file, the hub, runs; and of what is none."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import jepa
import jepa.runs
from jepa import runs
from jepa.checkpoint import CheckpointError
from jepa.cli import app
from jepa.config import ConfigError, build, load_config, to_dict
from jepa.interop import notes as telling
from jepa.interop import run as interop_run
from jepa.interop.encoders import load_encoder
from jepa.interop.model import Model
from jepa.models.encoder import build_encoder, encode_frames
from jepa.pretrain import PretrainConfig
from jepa.worlds.ac_jepa import Config as ACConfig
from jepa.worlds.ac_jepa import build as build_world
from jepa.worlds.base import WorldSpec

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("interop_fixtures.py"))))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", made.CONFIGS)
def test_what_is_saved_is_loaded_to_the_bit_with_its_config(tmp_path, kind):
    model = made.random_model(made.CONFIGS[kind])
    model.save_pretrained(tmp_path / "model")
    for source in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        again = jepa.load(source)
        assert again.config == model.config and same(again, model)
        assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert same(Model.from_pretrained(tmp_path / "model"), model)


def test_importing_jepa_brings_no_torch():
    assert subprocess.run([sys.executable, "-c", "import sys, jepa; assert 'torch' not in sys.modules"]).returncode == 0
    with pytest.raises(AttributeError, match="nosuch"):
        jepa.nosuch  # noqa: B018


def test_a_file_of_metas_and_a_classifier_from_another(tmp_path):
    torch.save(made.meta_checkpoint(), tmp_path / "vit.pt")
    probe = made.random_model(made.CONFIGS["classifier"])
    theirs = {f"module.{k}": v for k, v in probe.classifier.state_dict().items()}
    torch.save({"classifiers": [theirs], "opt": [], "scaler": [], "epoch": 1}, tmp_path / "probe.pt")
    model = jepa.load(tmp_path / "vit.pt", made.HEADS, classifier=tmp_path / "probe.pt")
    assert same(model.classifier, probe.classifier) and model.predictor is not None
    assert model.classifier(model.encoder(torch.randn(1, 2, 3, 32, 32))).shape == (1, 5)
    alone = jepa.load(tmp_path / "probe.pt", {"classifier": 2})
    assert alone.encoder is None and same(alone.classifier, probe.classifier)
    made.random_model(made.VJEPA2).save_pretrained(tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds no classifier of tokens of width 48"):
        jepa.load(tmp_path / "vit.pt", {"encoder": 2, "predictor": 2}, classifier=tmp_path / "none")
    with pytest.raises(ConfigError, match="width 48 with 5 heads"):
        jepa.load(tmp_path / "vit.pt", {**made.HEADS, "encoder": 5})


def test_half_precision_files_become_fp32_and_do_not_share_the_files_memory(tmp_path):
    file = made.meta_checkpoint()
    file["target_encoder"] = {k: v.bfloat16() for k, v in file["target_encoder"].items()}
    torch.save(file, tmp_path / "half.pt")
    model = jepa.load(tmp_path / "half.pt", made.HEADS)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.encoder.norm.bias, file["target_encoder"]["module.backbone.norm.bias"].float())


def test_the_hub_is_asked_for_what_is_no_path(tmp_path, monkeypatch, capsys):
    made.random_model(made.VJEPA2).save_pretrained(tmp_path / "model")
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        if name == "facebook/none":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")
        return tmp_path / "model"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert jepa.load("facebook/vjepa2-tiny").config == made.VJEPA2
    assert capsys.readouterr().err.startswith("facebook/vjepa2-tiny is no path here: asking the Hugging Face hub\n")
    with pytest.raises(
        CheckpointError, match=r"facebook/none is no path here, and the hub does not give it: no network$"
    ):
        jepa.load("facebook/none")
    for path in ("some/where.pt", "nosuch", "/some/where", "a/b/c"):
        with pytest.raises(CheckpointError, match=f"no run at {path}, and no model: no such file or folder"):
            jepa.load(path)
    assert asked == ["facebook/vjepa2-tiny", "facebook/none"]


@pytest.fixture
def pretrained(tmp_path, monkeypatch, request):
    """A pre-training run of ours, as `read_model` gives it, with other weights in the target encoder."""
    objective = getattr(request, "param", "vjepa2")
    given = ["encoder.width=48", "encoder.size=32", "encoder.patch=8", "encoder.depth=4", "encoder.heads=2"]
    given += ["predictor.width=24", "predictor.depth=1", "predictor.heads=2", "encoder.drop_path=0.1"]
    given += [f"objective.type={objective}", f"out={tmp_path}"]
    config = load_config(PretrainConfig, "pretrain", "debug", given)
    encoder = build_encoder(config.encoder, 0)
    trainable = build(config.objective, encoder, config.predictor, build(config.masks, 0), torch.Generator())
    if objective != "lejepa":
        torch.nn.init.ones_(trainable.target_encoder.norm.bias)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    stored = trainable.state_dict()
    monkeypatch.setattr(interop_run, "read_model", lambda run: (to_dict(config), stored, run / "checkpoints/step_1"))
    return SimpleNamespace(path=tmp_path, objective=trainable, config=config)


@pytest.mark.parametrize("pretrained", ["vjepa2", "vjepa2_1", "lejepa"], indirect=True)
def test_a_pretraining_run_of_ours(pretrained):
    model, frames = jepa.load(pretrained.path), torch.randn(1, 4, 3, 32, 32)
    trained = pretrained.objective
    assert torch.equal(model.encoder(frames), trained.target_encoder.eval()(frames))
    assert torch.equal(jepa.load(pretrained.path, which="encoder").encoder(frames), trained.encoder.eval()(frames))
    assert same(model.predictor, trained.predictor)
    assert model.config.frames == pretrained.config.data.frames and model.config.encoder.drop_path == 0
    if model.levels is not None:
        assert same(model.levels, trained.target_levels)
    with pytest.raises(CheckpointError, match="has no ema_encoder"):
        jepa.load(pretrained.path, which="ema_encoder")


def test_a_posttraining_run_of_ours_gives_its_predictor_but_is_not_saved_without_its_scales(tmp_path, monkeypatch):
    encoder = build_encoder(replace(made.ENCODER, rope_layout="interleaved"), 0)
    config = ACConfig(predictor=replace(made.CONFIGS["action-conditioned"].ac_predictor, residual=True))
    world = build_world(config, WorldSpec(48, 7, 7, (4, 4)), torch.Generator())
    (tmp_path / "config.json").write_text(json.dumps({"world": {"type": "ac_jepa"}}))
    monkeypatch.setattr(jepa.runs, "load_world", lambda run: (encoder, world))
    model = jepa.load(tmp_path)
    assert same(model.ac_predictor, world.predictor) and same(model.encoder, encoder) and model.config.ac_standardised
    with pytest.raises(CheckpointError, match="copy the run folder"):
        model.save_pretrained(tmp_path / "out")


def test_the_encoder_beside_a_world_model_says_its_own_shape(tmp_path):
    encoder = build_encoder(replace(made.ENCODER, rope_layout="interleaved"), 0)
    jepa.runs.save_encoder(tmp_path, encoder)
    model = jepa.load(tmp_path / "encoder.safetensors")
    assert model.config.encoder == encoder.config and same(model.encoder, encoder)


def test_a_bare_safetensors_file_is_metas(tmp_path):
    file = made.meta_checkpoint()["target_encoder"]
    save_file(file, tmp_path / "encoder.safetensors")
    model = jepa.load(tmp_path / "encoder.safetensors", 2)
    assert model.config.encoder.rope_layout == "tiled"
    assert torch.equal(model.encoder.norm.bias, file["module.backbone.norm.bias"])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "vit"}, "model_type 'vit'"),
        ({"name": "something"}, "neither ours nor transformers' nor that of a run"),
        ({"format": "jepa-model-1", "width": 48, "nosuch": 1}, "nosuch"),
        ({"format": "jepa-model-1", **to_dict(made.VJEPA2), "mask_index": 9}, "mask_index 9, and there are 3"),
    ],
)
def test_a_folder_that_is_no_model_is_said(tmp_path, config, said):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        jepa.load(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as refused:
        jepa.load(tmp_path)
    assert said in str(refused.value) and isinstance(refused.value, CheckpointError | ConfigError)


def test_a_choice_where_there_is_none_is_refused(tmp_path):
    made.random_model(replace(made.VJEPA2, which="encoder")).save_pretrained(tmp_path / "model")
    assert jepa.load(tmp_path / "model", which="encoder").config.which == "encoder"
    with pytest.raises(ConfigError, match="holds one encoder"):
        jepa.load(tmp_path / "model", which="target_encoder")
    with pytest.raises(ConfigError, match="says itself how many heads and blocks"):
        jepa.load(tmp_path / "model", heads=2)
    with pytest.raises(ConfigError, match="which='ema' is not one of target"):
        jepa.load(tmp_path / "model", which="ema")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"neither a \.safetensors file nor one of"):
        jepa.load(tmp_path / "notes.txt")


def test_a_model_that_is_no_run_of_ours_serves_where_a_run_does(tmp_path):
    model = made.random_model(made.VJEPA2)
    model.save_pretrained(tmp_path / "model", to="hf")
    assert runs.encoder_config(tmp_path / "model") == model.config.encoder
    found = runs.load_encoder(tmp_path / "model")
    assert runs.encoder_sha256(found) == runs.encoder_sha256(model.encoder)


def test_what_was_read_is_printed_once_by_whatever_loads_it_and_by_the_first_process(tmp_path, monkeypatch, capsys):
    model = made.random_model(replace(made.VJEPA2, origin="facebook/tiny", remarks=("odd",)))
    model.save_pretrained(tmp_path / "model")
    for i, load in enumerate((jepa.load, load_encoder, runs.load_encoder, runs.encoder_config)):
        monkeypatch.setattr(telling, "_TOLD", set())
        monkeypatch.setenv("RANK", "0")
        load(str(tmp_path / "model"))
        told = capsys.readouterr().err.splitlines()
        assert told[0] == "facebook/tiny:" and told[-1] == "odd", i
        assert sum(line.startswith("mask token norms: 0: ") for line in told) == 1
        load(str(tmp_path / "model"))
        monkeypatch.setattr(telling, "_TOLD", set())
        monkeypatch.setenv("RANK", "1")
        load(str(tmp_path / "model"))
        assert not capsys.readouterr().err


def test_parts_are_taken_as_asked_from_any_source(tmp_path):
    model = made.random_model(made.CONFIGS["classifier"])
    model.save_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "hf", to="hf")
    model.save_pretrained(tmp_path / "meta.pt", to="meta")
    for source, heads in (("ours", None), ("hf", None), ("meta.pt", made.HEADS)):
        alone = jepa.load(tmp_path / source, heads, parts=["encoder"])
        assert alone.predictor is alone.classifier is None and same(alone.encoder, model.encoder)
        assert alone.config.mask_tokens == 0
        probe = jepa.load(tmp_path / source, heads, parts=["classifier"])
        assert probe.encoder is probe.predictor is None and same(probe.classifier, model.classifier)
    for parts in (["decoder"], ["predictor"], ["classifier", "predictor"]):
        with pytest.raises(ConfigError, match="are of encoder, predictor, ac_predictor, classifier"):
            jepa.load(tmp_path / "ours", parts=parts)


def test_verbs_that_take_an_encoder_out_choose_it_as_load_does(tmp_path):
    file = made.meta_checkpoint()
    torch.save(file, tmp_path / "vit.pt")
    for which in ("encoder", "target_encoder"):
        encoder, _ = load_encoder(str(tmp_path / "vit.pt"), which=which, heads=made.HEADS)
        assert torch.equal(encoder.norm.bias, file[which]["module.backbone.norm.bias"])
    dense = made.random_model(made.CONFIGS["V-JEPA 2.1"])
    dense.save_pretrained(tmp_path / "dense")
    encoder, image = load_encoder(str(tmp_path / "dense"))[0], torch.randn(1, 1, 3, 32, 32)
    assert torch.equal(encoder(image), dense.encoder(image.expand(-1, 2, -1, -1, -1)))  # as it is when saved alone
    with pytest.raises(ConfigError, match="timm/x is one encoder, whose heads timm knows"):
        load_encoder("timm/x", which="encoder")


def test_a_released_robot_model_is_a_world_to_plan_with(tmp_path):
    config = made.CONFIGS["action-conditioned"]
    ac = made.random_model(config).eval()
    ac.save_pretrained(tmp_path / "ac")
    encoder, world = jepa.runs.load_world(tmp_path / "ac")
    assert jepa.runs.reading(tmp_path / "ac") == jepa.runs.Reading(4.0, crop="squeeze")
    assert not world.training and not world.extrinsics
    frames, rng = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8), torch.Generator().manual_seed(0)
    tokens = encode_frames(encoder, frames)
    pose, action = torch.rand(2, 1, 7, generator=rng), torch.rand(2, 7, generator=rng) / 10
    found = world.features(world.step(world.observe(None, tokens, pose), action).state)
    with torch.no_grad():
        wanted = ac.ac_predictor(encode_frames(ac.encoder, frames), action[:, None], pose)[:, -1]
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(wanted, wanted.shape[-1:]), atol=1e-5, rtol=1e-5)
    write_shards = runpy.run_path(str(Path(__file__).parents[1] / "encode_fixtures.py"))["write_shards"]
    (tmp_path / "raw").mkdir()
    shards = write_shards(tmp_path / "raw", [9] * 5)
    checked = CliRunner().invoke(app, ["plan", "check", str(tmp_path / "ac"), str(shards), "--each", "1"])
    assert checked.exit_code in (0, 2) and "actions: at fps=4 changes of pose" in " ".join(checked.output.split())
    assert json.loads((tmp_path / "ac" / "check" / "check.json").read_text())["transitions"] == 5
    made.random_model(made.VJEPA2).save_pretrained(tmp_path / "none")
    with pytest.raises(CheckpointError, match="none has no action-conditioned predictor"):
        jepa.runs.load_world(tmp_path / "none")
