"""`jepa deploy`: exported files give what the model gives, and the documents' examples run where torch cannot load."""

import dataclasses
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import jepa.interop.encoders
from jepa import cli, runs
from jepa import deploy as exporting
from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.deploy import deploy, encoder_part, world_parts
from jepa.models.ac_predictor import ACPredictor, ACPredictorConfig
from jepa.models.encoder import build_encoder, encode_frames
from jepa.models.image_encoder import build_image_encoder
from jepa.models.layers import norm_features
from jepa.worlds import ac_jepa

DOCUMENT = Path(__file__).parent.parent / "docs" / "deployment.md"


def world_of(encoder, **changes):
    """A world whose scales and weights are none of the initial ones."""
    config = ac_jepa.Config(ACPredictorConfig(**{"width": 24, "depth": 1, "heads": 2, "residual": True, **changes}))
    rng = torch.Generator().manual_seed(1)
    world = ac_jepa.build(config, runs.world_spec(encoder, 7, 7), rng)
    with torch.no_grad():
        for tensor in (*world.parameters(), *world.buffers()):
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=rng))
    return world.eval().requires_grad_(False)


@pytest.fixture
def encoder(tiny):
    return build_encoder(dataclasses.replace(tiny, depth=1), 0).eval().requires_grad_(False)


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def called(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["jepa", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def run_example(number, folder):
    """The n-th Python block of the document, in a process that can import neither torch nor us."""
    block = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)[number]
    blocked = "import sys\nsys.modules.update(torch=None, jepa=None, onnx=None)\n"
    return subprocess.run([sys.executable, "-c", blocked + block], cwd=folder, capture_output=True, text=True)


def test_a_world_by_onnx_imagines_what_the_world_imagines(encoder, tmp_path, monkeypatch):
    """Through the command, from what looks like a post-training run, to the document's example."""
    world = world_of(encoder)
    monkeypatch.setattr(runs, "load_world", lambda run: (encoder, world))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "encoder.safetensors").touch()
    out = tmp_path / "deployed"
    assert called(monkeypatch, "deploy", tmp_path / "run", out) == 0
    told = json.loads((out / "deploy.json").read_text())
    assert told["parts"]["imagine"]["inputs"]["tokens"] == {"shape": ["batch", 1, 16, 32], "type": "float32"}

    rng = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=rng)
    pose, actions = torch.randn(3, 1, 7, generator=rng), 0.2 * torch.randn(3, 7, generator=rng)
    state = world.observe(None, encode_frames(encoder, images[:, None]), pose)
    step = world.step(state, actions).state
    tokens = session(out / "look.onnx").run(None, {"image": images.numpy()})[0]
    np.testing.assert_allclose(tokens, state["tokens"][:, 0], atol=1e-4)
    given = {"tokens": tokens[:, None], "poses": pose.numpy(), "actions": actions[:, None].numpy()}
    next_tokens, next_pose = session(out / "imagine.onnx").run(None, given)
    np.testing.assert_allclose(next_tokens, world.features(step), atol=1e-4)
    np.testing.assert_allclose(next_pose, step["pose"][:, -1], atol=1e-4)

    for i, name in enumerate(("now", "goal")):
        np.save(tmp_path / f"{name}.npy", images[i].permute(1, 2, 0).numpy())
    np.save(tmp_path / "pose.npy", pose[0, 0].numpy())
    done = run_example(0, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"next action: \[.*\]", done.stdout, re.DOTALL)


def test_an_encoder_by_onnx(encoder, tmp_path, monkeypatch):
    class Loaded:
        ac_predictor = None

    Loaded.encoder = encoder
    monkeypatch.setattr(jepa.interop.encoders, "load", lambda source, heads, which: Loaded)
    assert called(monkeypatch, "deploy", "runs/mine", tmp_path / "deployed", "--frames", 4) == 0
    for batch in (1, 3):
        frames = torch.randint(0, 256, (batch, 4, 3, 16, 16), dtype=torch.uint8)
        tokens = session(tmp_path / "deployed" / "encoder.onnx").run(None, {"frames": frames.numpy()})[0]
        np.testing.assert_allclose(tokens, encoder(normalize(frames)), atol=1e-4)
    done = run_example(1, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "pooled: (1, 32)\n"


def test_torch_files_with_any_batch_and_with_one(encoder, tmp_path):
    frames = torch.randint(0, 256, (3, 4, 3, 16, 16), dtype=torch.uint8)
    for batch in (0, 3):
        told = deploy([encoder_part(encoder, 4)], tmp_path, "torch", batch, "run")["parts"]["encoder"]
        assert told["inputs"]["frames"]["shape"][0] == (batch or "batch")
        program = torch.export.load(tmp_path / "encoder.pt2").module()
        torch.testing.assert_close(program(frames)[0], encoder(normalize(frames)), atol=1e-5, rtol=1e-5)
        if batch:
            with pytest.raises(AssertionError, match=r"batch|shape|3"):
                program(frames[:2])


def test_a_static_batch_by_onnx(encoder, tmp_path):
    deploy([encoder_part(encoder, 2)], tmp_path, "onnx", 3, "run")
    assert session(tmp_path / "encoder.onnx").get_inputs()[0].shape == [3, 2, 3, 16, 16]


def test_a_world_with_a_history(encoder, tmp_path):
    world = world_of(encoder)
    deploy(world_parts(encoder, world, 3)[1:], tmp_path, "torch", 2, "run")
    tokens, poses, actions = torch.randn(2, 3, 16, 32), torch.randn(2, 3, 7), 0.2 * torch.randn(2, 3, 7)
    step = world.step(world.remember(None, tokens, poses, actions[:, :2]), actions[:, 2]).state
    found = torch.export.load(tmp_path / "imagine.pt2").module()(tokens, poses, actions)
    torch.testing.assert_close(found[0], step["tokens"][:, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], step["pose"][:, -1], atol=1e-5, rtol=1e-5)


def test_a_history_by_onnx_with_any_batch_of_a_released_predictor(encoder, tmp_path):
    predictor = released(encoder)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=FutureWarning)
        deploy(world_parts(encoder, predictor, 3)[1:], tmp_path, "onnx", 0, "run")
    for batch in (1, 4):
        given = {
            "tokens": torch.randn(batch, 3, 16, 32),
            "poses": torch.randn(batch, 3, 7),
            "actions": 0.2 * torch.randn(batch, 3, 7),
        }
        found = session(tmp_path / "imagine.onnx").run(None, {key: x.numpy() for key, x in given.items()})
        with torch.no_grad():
            wanted = norm_features(predictor(given["tokens"], given["actions"], given["poses"])[:, -1])
        np.testing.assert_allclose(found[0], wanted, atol=1e-4)
        moved = given["poses"][:, -1, :3] + given["actions"][:, -1, :3]
        np.testing.assert_allclose(found[1][:, :3], moved, atol=1e-4)


def released(encoder):
    """A predictor as a file of Meta's has it, with loud weights."""
    rng = torch.Generator().manual_seed(0)
    predictor = ACPredictor(ACPredictorConfig(24, 1, 2, rope_layout="tiled"), 32, 7, 7, (4, 4), rng)
    with torch.no_grad():
        for tensor in predictor.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=rng))
    return predictor.eval().requires_grad_(False)


def test_a_released_predictor_gets_layer_normed_tokens(encoder):
    predictor = ACPredictor(ACPredictorConfig(24, 1, 2), 32, 7, 7, (4, 4), torch.Generator().manual_seed(0)).eval()
    _, imagine = world_parts(encoder, predictor, 2)
    tokens, poses, actions = imagine.inputs.values()
    wanted = norm_features(predictor(tokens, actions, poses)[:, -1])
    found = imagine.module(tokens, poses, actions)
    torch.testing.assert_close(found[0], wanted)
    torch.testing.assert_close(found[1][:, :3], poses[:, -1, :3] + actions[:, -1, :3])


def test_an_image_encoder_can_be_deployed(tmp_path):
    encoder = build_image_encoder("vit_tiny_patch16_224", "random", size=32)
    deploy([encoder_part(encoder, 2)], tmp_path, "torch", 0, "timm")
    frames = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    found = torch.export.load(tmp_path / "encoder.pt2").module()(frames)[0]
    torch.testing.assert_close(found, encoder(normalize(frames)), atol=1e-4, rtol=1e-4)


def test_a_file_that_is_not_the_model_is_refused(encoder, tmp_path, monkeypatch):
    save = exporting._save

    def other(part, *rest, **more):
        part.module.encoder.norm.bias.data += 1
        save(part, *rest, **more)
        part.module.encoder.norm.bias.data -= 1

    def first_well(part, *rest, **more):
        (save if part.name == "good" else other)(part, *rest, **more)

    monkeypatch.setattr(exporting, "_save", first_well)
    parts = [encoder_part(encoder, 2), encoder_part(encoder, 2)]
    with pytest.raises(ConfigError, match=r"encoder\.pt2: its outputs differ from the model's by 1.0e\+00"):
        deploy([dataclasses.replace(parts[0], name="good"), parts[1]], tmp_path, "torch", 2, "run")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_deployed_is_one_line(encoder, tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="--format caffe: must be torch or onnx"):
        deploy([encoder_part(encoder, 2)], tmp_path, "caffe", 0, "run")
    with pytest.raises(ConfigError, match=r"--frames 3: .* tubelets"):
        encoder_part(encoder, 3)
    with pytest.raises(ConfigError, match="--frames 2: this world model sees one frame"):
        world_parts(encoder, world_of(encoder, markov=True), 2)
    (tmp_path / "encoder.safetensors").touch()
    assert called(monkeypatch, "deploy", tmp_path, tmp_path / "out", "--which", "encoder") == 2
    assert "is a run with one encoder: leave --which and --heads out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="type linear cannot be deployed"):
        world_parts(encoder, torch.nn.Linear(2, 2), 1)
