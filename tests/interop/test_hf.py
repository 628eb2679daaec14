"""Parity with transformers, both ways, tiny and ViT-L-shaped; and where its positions are wrong and ours are not."""

import copy
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jepa.checkpoint import CheckpointError
from jepa.interop.fit import MismatchError
from jepa.interop.hf import from_hf, to_hf
from jepa.interop.hf_config import to_hf_config
from jepa.interop.model import assemble
from jepa.interop.shapes import Choice
from jepa.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before transformers asks for torchvision
transformers = pytest.importorskip("transformers")
made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("interop_fixtures.py"))))

TINY = {
    **{"crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "hidden_size": 48, "num_attention_heads": 2},
    **{"num_hidden_layers": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 2},
    **{"pred_num_mask_tokens": 3, "num_pooler_layers": 2, "num_labels": 5},
}
VITL = {
    "crop_size": 64,
    "frames_per_clip": 4,
    "num_hidden_layers": 2,
    "pred_num_hidden_layers": 2,
    "num_pooler_layers": 1,
}
CONTEXT, TARGET = torch.tensor([[0, 3, 9], [1, 2, 30]]), torch.tensor([[17, 1], [31, 0]])


@pytest.fixture(scope="module", params=["tiny", "vitl"])
def theirs(request):
    """A classifier of transformers with loud random weights, and what it holds."""
    config = transformers.VJEPA2Config(**(TINY if request.param == "tiny" else VITL))
    model = transformers.VJEPA2ForVideoClassification(config).eval()
    scale = 0.1 if request.param == "tiny" else 0.02
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g) + ("norm" in name and name.endswith("weight")))
    return model


def clip(config, frames=4, height=None, width=None):
    shape = (2, frames, 3, height or config.crop_size, width or config.crop_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_what_transformers_has_gives_the_same_features_and_logits(theirs):
    config, tensors = from_hf(theirs.config.to_dict(), theirs.state_dict(), Choice(), "theirs")
    ours, frames = assemble(config, tensors, "theirs"), clip(theirs.config)
    wanted = theirs.vjepa2(frames, context_mask=[CONTEXT], target_mask=[TARGET])
    tokens = ours.encoder(frames)
    assert wanted.last_hidden_state.std() > 0.5
    torch.testing.assert_close(tokens, wanted.last_hidden_state, atol=1e-5, rtol=0)
    seen = tokens.gather(1, CONTEXT[..., None].expand(-1, -1, config.width))
    grid = ours.encoder.grid(*frames.shape[1:2], *frames.shape[-2:])
    predicted = ours.predictor(seen, CONTEXT, TARGET, grid, config.mask_index)
    torch.testing.assert_close(predicted, wanted.predictor_output.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.classifier(tokens), theirs(frames).logits, atol=1e-4, rtol=0)


def test_a_round_trip_gives_every_tensor_and_the_config_back(theirs):
    known = theirs.state_dict()
    config, tensors = from_hf(theirs.config.to_dict(), known, Choice(), "theirs")
    back = to_hf(config, tensors)
    assert back.keys() == known.keys()
    assert all(torch.equal(back[key], known[key]) for key in known)
    written = to_hf_config(config)
    assert transformers.VJEPA2Config(**written).to_dict() | {"architectures": None, "dtype": None} == (
        theirs.config.to_dict() | {"architectures": None, "dtype": None}
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["encoder and predictor", "classifier"])
def test_transformers_loads_what_we_write_and_says_the_same(tmp_path, kind):
    ours = made.random_model(made.CONFIGS[kind])
    ours.save_pretrained(tmp_path / "model", to="hf")
    auto = transformers.AutoModelForVideoClassification if ours.classifier else transformers.AutoModel
    theirs, told = auto.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(told.values()), told
    frames = clip(theirs.config)
    core = theirs.vjepa2 if ours.classifier else theirs
    tokens = ours.encoder(frames)
    torch.testing.assert_close(core(frames).last_hidden_state, tokens, atol=1e-5, rtol=0)
    if ours.classifier:
        torch.testing.assert_close(theirs(frames).logits, ours.classifier(tokens), atol=1e-4, rtol=0)
        assert theirs.config.id2label[3] == "right"


@torch.no_grad()
def test_beyond_the_trained_resolution_ours_counts_rows_and_transformers_does_not():
    """transformers cuts ids into rows by `crop_size`. Where that is right it agrees with us; else it is off."""
    config = transformers.VJEPA2Config(**TINY)
    theirs = transformers.VJEPA2Model(config).eval()
    g = torch.Generator().manual_seed(0)
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=g))
    own, tensors = from_hf(config.to_dict(), theirs.state_dict(), Choice(), "theirs")
    ours = assemble(own, tensors, "theirs")
    large = clip(config, height=48, width=48)
    told = transformers.VJEPA2Model(transformers.VJEPA2Config(**{**TINY, "crop_size": 48})).eval()
    told.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.encoder(large), told(large).last_hidden_state, atol=1e-5, rtol=0)
    assert (ours.encoder(large) - theirs(large).last_hidden_state).abs().max() > 1e-2

    wide = clip(config, height=16, width=48)  # 2 rows of 6; no crop_size can say that
    assert (ours.encoder(wide) - theirs(wide).last_hidden_state).abs().max() > 1e-2
    for layer in theirs.encoder.layer:  # the same layers, told the true rows
        layer.attention.get_position_ids = lambda x, masks=None: (
            torch.arange(24) // 12,
            torch.arange(24) % 12 // 6,
            torch.arange(24) % 6,
        )
    torch.testing.assert_close(ours.encoder(wide), theirs(wide).last_hidden_state, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_predictor_follows_the_clip_and_that_of_transformers_the_config():
    config = transformers.VJEPA2Config(**TINY)
    theirs = transformers.VJEPA2Model(config).eval()
    g = torch.Generator().manual_seed(0)
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=g))
    own, tensors = from_hf(config.to_dict(), theirs.state_dict(), Choice(), "theirs")
    ours, large = assemble(own, tensors, "theirs"), clip(config, height=48, width=48)
    told = transformers.VJEPA2Model(transformers.VJEPA2Config(**{**TINY, "crop_size": 48})).eval()
    told.load_state_dict(theirs.state_dict())
    context, target = torch.tensor([[0, 9, 40], [7, 2, 30]]), torch.tensor([[71, 1], [35, 6]])
    wanted = told(large, context_mask=[context], target_mask=[target]).predictor_output.last_hidden_state
    seen = ours.encoder(large).gather(1, context[..., None].expand(-1, -1, own.width))
    found = ours.predictor(seen, context, target, (2, 6, 6), own.mask_index)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    off = theirs.predictor(ours.encoder(large), context_mask=[context], target_mask=[target]).last_hidden_state
    assert (found - off).abs().max() > 1e-2  # the same tokens, cut into rows by crop_size


def test_a_classifier_whose_heads_are_chosen_is_read_as_meta_trained_it():
    values, tensors = hf_parts()
    config, _ = from_hf(values, tensors, Choice(heads={"classifier": 4}), "file")
    assert (config.classifier.heads, config.classifier.eps) == (4, 1e-5) and config.encoder.heads == 2
    config, _ = from_hf(values, tensors, Choice(), "file")
    assert (config.classifier.heads, config.classifier.eps) == (2, 1e-6)


def hf_parts():
    model = made.random_model(made.CONFIGS["classifier"])
    return to_hf_config(model.config), to_hf(model.config, model.state_dict())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("vjepa2.encoder.layer.1.attention.key.bias"), "missing"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("vjepa2.encoder.layer.1.")], "missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected"),
        (lambda t: t.update({"classifier.weight": torch.zeros(5, 47)}), "of another shape"),
        (lambda t: t["vjepa2.encoder.layernorm.bias"].fill_(float("nan")), "not finite"),
        (lambda t: t.update({"classifier.bias": torch.zeros(5, dtype=torch.long)}), "not finite"),
    ],
)
def test_every_tensor_must_fit_by_its_name_in_the_file(change, problem):
    values, tensors = hf_parts()
    tensors = copy.deepcopy(tensors)
    change(tensors)
    with pytest.raises(CheckpointError) as refused:
        config, found = from_hf(values, tensors, Choice(), "file")
        assemble(config, found, "file")
    assert isinstance(refused.value, MismatchError) and problem in str(refused.value)
    assert str(refused.value).startswith("file was not loaded: ") and "\n" not in str(refused.value)
    assert all(problem in p.problem for p in refused.value.problems)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "vit", "model_type 'vit', not 'vjepa2'"),
        ("layer_norm_eps", 1e-5, "layer_norm_eps=1e-05"),
        ("qkv_bias", False, "qkv_bias=False"),
        ("hidden_size", "wide", "hidden_size=wide, which is not of the right type"),
        ("patch_size", [16, 16], "patch_size="),
        ("id2label", {"zero": "up"}, "id2label="),
    ],
)
def test_a_config_that_we_do_not_have_is_refused(key, value, said):
    values, tensors = hf_parts()
    with pytest.raises(CheckpointError, match="its config says") as refused:
        from_hf({**values, key: value}, tensors, Choice(), "file")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (replace(made.VJEPA2, predictor=None, mask_tokens=0), "a predictor"),
        (made.CONFIGS["V-JEPA 2.1"], "no V-JEPA 2.1"),
        (made.CONFIGS["anticipation"], "one linear layer"),
        (replace(made.VJEPA2, encoder=replace(made.ENCODER, rope_layout="interleaved")), "rope_layout=tiled"),
        (replace(made.VJEPA2, encoder=replace(made.ENCODER, swiglu=True)), "no SwiGLU"),
        (replace(made.VJEPA2, classifier=replace(made.CLASSIFIER, heads=3)), "this one has 3"),
        (replace(made.CONFIGS["action-conditioned"], predictor=made.VJEPA2.predictor, mask_tokens=2), "no action"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_not_written(tmp_path, config, why):
    with pytest.raises(CheckpointError, match=f"transformers cannot hold this model: .*{why}"):
        made.random_model(config).save_pretrained(tmp_path / "model", to="hf")
    assert not list(tmp_path.iterdir())
