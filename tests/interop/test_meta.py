"""Meta's layout: prefixes, choice of encoder, stale tables, V-JEPA 2.1, AC and probes; all of it there and back."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.interop.fit import MismatchError
from jepa.interop.meta import from_meta, to_meta
from jepa.interop.model import DenseEncoder, assemble
from jepa.interop.notes import notes
from jepa.interop.shapes import Choice
from jepa.models.pooler import EPS

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("interop_fixtures.py"))))


def load(file, which="target", heads=made.HEADS, **choice):
    return assemble(*from_meta(file, Choice(which, heads, **choice), "file.pt"), "file.pt")


@pytest.mark.parametrize(("which", "key"), [("target", "target_encoder"), ("encoder", "encoder")])
def test_prefixes_go_stale_tables_are_left_and_the_encoder_is_the_chosen_one(which, key):
    file = made.meta_checkpoint()
    model = load(file, which)
    assert model.config.which == key
    assert (model.config.encoder.width, model.config.encoder.depth, model.config.encoder.rope_layout) == (
        48,
        2,
        "tiled",
    )
    assert (model.config.mask_tokens, model.config.mask_index) == (3, 1)
    theirs = {f"encoder.{k.removeprefix('module.backbone.')}": v for k, v in file[key].items()}
    theirs |= {f"predictor.{k.removeprefix('module.backbone.')}": v for k, v in file["predictor"].items()}
    stale = {"encoder.pos_embed", "predictor.predictor_pos_embed"}
    assert theirs.keys() - stale == model.state_dict().keys()
    assert all(torch.equal(theirs[k], v) for k, v in model.state_dict().items())


def test_the_average_has_another_name_in_some_files_and_a_missing_one_is_said():
    file = made.meta_checkpoint()
    file["ema_encoder"] = file.pop("target_encoder")
    assert load(file).config.which == load(file, "ema_encoder").config.which == "ema_encoder"
    del file["ema_encoder"]
    with pytest.raises(CheckpointError, match=r"has no target_encoder or ema_encoder; it has encoder"):
        load(file)


def test_the_state_dict_of_one_encoder_will_do():
    file = made.meta_checkpoint()["encoder"]
    model = load(file)
    assert model.predictor is None and torch.equal(model.encoder.norm.bias, file["module.backbone.norm.bias"])
    assert not model.config.which and "which does not say whether it is the EMA" in notes(model)[0]
    for which in ("encoder", "target_encoder"):
        with pytest.raises(ConfigError, match=r"file\.pt holds one encoder, and does not say which: leave which="):
            load(file, which)


@pytest.mark.parametrize("kind", made.CONFIGS)
def test_there_and_back_again_is_the_same_to_the_bit(kind):
    model = made.random_model(made.CONFIGS[kind])
    known = model.state_dict()
    again = load(to_meta(model.config, known))
    assert again.state_dict().keys() == known.keys()
    assert all(torch.equal(v, known[k]) for k, v in again.state_dict().items())
    told = {"which": "", "origin": "", "frames": 0, "classifier": None, "remarks": ()}  # the rest says how to compute
    size = {"encoder": replace(again.config.encoder, size=32)}
    assert replace(again.config, **told, **size) == replace(model.config, **told)
    if model.classifier:
        assert again.config.classifier.eps == EPS and again.config.classifier.classes == model.config.classifier.classes


def test_what_is_written_has_the_names_that_metas_code_asks_for():
    file = made.meta_checkpoint()
    names = {k for k in file["encoder"] if "pos_embed" not in k}
    model = load(file)
    written = to_meta(model.config, model.state_dict())
    assert written["encoder"].keys() == written["target_encoder"].keys() == names
    assert written["predictor"].keys() == {k for k in file["predictor"] if "pos_embed" not in k}
    ac = made.random_model(made.CONFIGS["action-conditioned"])
    written = to_meta(ac.config, ac.state_dict())["predictor"]
    assert written["module.extrinsics_encoder.weight"].shape == (24, 6)
    assert written["module.action_encoder.weight"].shape == (24, 7)
    probe = made.random_model(made.CONFIGS["classifier"])
    (written,) = to_meta(probe.config, probe.state_dict())["classifiers"]
    assert written["module.pooler.cross_attention_block.xattn.kv.weight"].shape == (96, 48)


@torch.no_grad()
def test_the_vector_of_a_modality_is_added_to_every_token():
    model = made.random_model(made.CONFIGS["V-JEPA 2.1"])
    file = to_meta(model.config, model.state_dict())
    encoder = {k.removeprefix("module.backbone."): v for k, v in file["target_encoder"].items()}
    assert {"patch_embed_img.proj.weight", "norms_block.3.weight", "norms_block.0.bias"} < encoder.keys()
    assert "norm.weight" not in encoder
    encoder["video_mod_embed"] = torch.full((1, 1, 48), 0.5)
    encoder["img_mod_embed"] = torch.full((1, 1, 48), -1.0)
    told = load({**file, "target_encoder": encoder})
    video, image = torch.randn(1, 2, 3, 32, 32), torch.randn(1, 1, 3, 32, 32)
    for embed, other, frames, added in (
        (model.encoder.patch_embed, told.encoder.patch_embed, video, 0.5),
        (model.levels.image_patch_embed, told.levels.image_patch_embed, image, -1.0),
    ):
        torch.testing.assert_close(other(frames, None), embed(frames, None) + added)
    assert told.config.encoder.rope_interpolate and told.config.encoder.rope_layout == "interleaved"
    assert len(told.levels(told.encoder, video)) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda e: [e.pop(f"module.backbone.norms_block.3.{k}") for k in ("weight", "bias")],
            "norms_block.3 is missing",
        ),
        (
            lambda e: [e.pop(f"module.backbone.norms_block.1.{k}") for k in ("weight", "bias")],
            "norms_block.1 is missing",
        ),
        (lambda e: e.update({"norm.weight": torch.ones(48)}), "norm is unexpected"),
    ],
)
def test_the_norms_of_a_dense_encoder_are_all_there_and_each_once(change, said):
    model = made.random_model(made.CONFIGS["V-JEPA 2.1"])
    file = to_meta(model.config, model.state_dict())
    change(file["target_encoder"])
    with pytest.raises(MismatchError, match=said):
        load(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: f["target_encoder"].pop("module.backbone.blocks.0.norm1.bias"),
            "encoder.blocks.0.norm1.bias is missing",
        ),
        (lambda f: f["target_encoder"].update(cls_token=torch.zeros(1)), "encoder.cls_token is unexpected"),
        (lambda f: f.update(decoder={"a": torch.zeros(1)}), "decoder is unexpected"),
        (
            lambda f: f["predictor"].update({"module.backbone.predictor_proj.bias": torch.zeros(47)}),
            "(47 in the file, 48",
        ),
    ],
)
def test_every_tensor_must_fit(change, said):
    file = made.meta_checkpoint()
    change(file)
    with pytest.raises(MismatchError) as refused:
        load(file)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda f: [f.pop(k) for k in ("encoder", "target_encoder")],
            ConfigError,
            "neither an encoder nor a classifier",
        ),
        (
            lambda f: f["target_encoder"].pop("module.backbone.norm.weight"),
            ConfigError,
            "'encoder.norm.weight' is missing",
        ),
        (lambda f: f.update(target_encoder=3), CheckpointError, "target_encoder is a int"),
        (lambda f: f["target_encoder"].update(step=4), CheckpointError, "'step' is a int, not a tensor"),
        (
            lambda f: f["predictor"].update({"predictor_proj.bias": torch.zeros(48)}),
            CheckpointError,
            "two tensors of one",
        ),
        (lambda f: f.update(classifiers=[{}, {}]), CheckpointError, "holds 2 classifiers"),
        (lambda f: f.update(classifiers=3), CheckpointError, "classifiers is a int, not a list"),
    ],
)
def test_what_is_no_model_is_said(change, error, said):
    file = made.meta_checkpoint()
    change(file)
    with pytest.raises(error) as refused:
        load(file)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_heads_come_from_known_sizes_or_must_be_given():
    file = made.meta_checkpoint()
    with pytest.raises(ConfigError, match=r"encoder of 2 blocks of width 48 is no known size.*heads={'encoder': N}"):
        load(file, heads={})
    with pytest.raises(ConfigError, match="predictor of 2 blocks of width 24"):
        load(file, heads={"encoder": 2})
    vitl = made.meta_names(1024, 8, 24, "blocks") | {
        "norm.weight": (1024,),
        "patch_embed.proj.weight": (1024, 3, 2, 16, 16),
    }
    bare = {name: torch.empty(shape, device="meta") for name, shape in vitl.items()}
    config, _ = from_meta(bare, Choice(), "vitl-384.pt")
    assert (config.encoder.heads, config.encoder.size) == (16, 384)
    short = {name: value for name, value in bare.items() if not name.startswith("blocks.23.")}
    for heads in ({}, {"encoder": 16}):
        with pytest.raises(ConfigError, match=r"encoder has 23 blocks, and it should have 24; .* --blocks encoder=23 "):
            from_meta(short, Choice(heads=heads), "vitl.pt")
    told = Choice(heads={"encoder": 16}, blocks={"encoder": 23})
    assert from_meta(short, told, "vitl.pt")[0].encoder.depth == 23
    with pytest.raises(ConfigError, match="encoder has 24 blocks, and 23 were asked for"):
        from_meta(bare, told, "vitl.pt")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (replace(made.VJEPA2, encoder=replace(made.ENCODER, rope_layout="interleaved")), "rope_layout=tiled"),
        (replace(made.CONFIGS["V-JEPA 2.1"], encoder=made.ENCODER, levels=(0, 1)), "rope_layout=interleaved"),
        (
            replace(
                made.CONFIGS["action-conditioned"],
                ac_predictor=replace(made.CONFIGS["action-conditioned"].ac_predictor, markov=True),
            ),
            "turns tiled",
        ),
    ],
)
def test_what_metas_code_would_compute_otherwise_is_not_written(config, said):
    model = made.random_model(config)
    with pytest.raises(CheckpointError, match=said):
        to_meta(model.config, model.state_dict())


@pytest.mark.parametrize(
    ("part", "key", "tokens", "masks"),
    [
        ("target_encoder", "pos_embed", 1568, 3),
        ("predictor", "predictor_pos_embed", 4608, 3),
        (None, "pos_embed", 32, 2),
    ],
)
def test_positions_from_a_table_are_refused(part, key, tokens, masks):
    file = made.meta_checkpoint()
    if part:
        file[part][f"module.backbone.{key}"] = torch.zeros(1, tokens, 24 if part == "predictor" else 48)
    for k in range(masks, 3):
        del file["predictor"][f"module.backbone.mask_tokens.{k}"]
    with pytest.raises(
        CheckpointError, match=rf"file.pt takes its positions from a table \({key}, 1×{tokens}×"
    ) as error:
        load(file)
    assert "V-JEPA 1" in str(error.value) and "\n" not in str(error.value)


def test_what_is_left_out_or_odd_is_told():
    file = made.meta_checkpoint()
    assert load(file).config.remarks == (
        "left out: pos_embed (1×32×48), a table of positions, which models with rotary ones do not read",
        "left out: predictor_pos_embed (1×32×24), a table of positions, which models with rotary ones do not read",
        "predictor: 3 mask tokens, where files of Meta's have 2, 6, 8 or 10: some may be missing",
    )
    for part in ("target_encoder", "predictor"):
        file[part] = {key: value for key, value in file[part].items() if "pos_embed" not in key}
    del file["predictor"]["module.backbone.mask_tokens.2"]
    assert load(file).config.remarks == ()
    ac = made.random_model(made.CONFIGS["action-conditioned"])
    told = load(to_meta(ac.config, ac.state_dict()))
    assert "left out: ac_predictor.extrinsics_encoder, which no released model is given" in notes(told)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("action-conditioned", {"extrinsics_encoder.weight": (24, 7)}, r"\(24×7 in the file, 24×6 wanted\)"),
        ("action-conditioned", {"extrinsics_encoder.bias": None}, "extrinsics_encoder.bias is missing"),
        (
            "encoder and predictor",
            {"backbone.extrinsics_encoder.bias": (24,)},
            "predictor.extrinsics_encoder.bias is unex",
        ),
    ],
)
def test_an_extrinsics_encoder_is_left_out_where_it_is_one(kind, change, said):
    model = made.random_model(made.CONFIGS[kind])
    file = to_meta(model.config, model.state_dict())
    for key, shape in change.items():
        file["predictor"].pop(f"module.{key}", None)
        if shape:
            file["predictor"][f"module.{key}"] = torch.zeros(shape)
    with pytest.raises(MismatchError, match=said):
        load(file)


@pytest.mark.parametrize("key", ["video_mod_embed", "img_mod_embed", "patch_embed_img.proj.bias"])
def test_what_is_added_to_images_and_videos_is_there_for_both(key):
    model = made.random_model(made.CONFIGS["V-JEPA 2.1"])
    file = to_meta(model.config, model.state_dict())
    del file["target_encoder"][f"module.backbone.{key}"]
    with pytest.raises(MismatchError, match=f"encoder.{key} is missing"):
        load(file)


def test_a_classifier_without_its_last_block_is_refused_unless_it_is_said_to_be_whole():
    model = made.random_model(made.CONFIGS["classifier"])
    file = to_meta(model.config, model.state_dict())
    (probe,) = file["classifiers"]
    file["classifiers"] = [{key: value for key, value in probe.items() if ".blocks.2." not in key}]
    with pytest.raises(ConfigError, match=r"classifier has 3 blocks, and it should have 4; .* --blocks classifier=3 "):
        load(file)
    assert load(file, blocks={"classifier": 3}).config.classifier.depth == 3


def test_an_encoder_is_read_without_a_predictor_that_does_not_fit():
    """As a distilled model's, whose predictor speaks of its teacher's wider tokens."""
    model = made.random_model(made.CONFIGS["V-JEPA 2.1"])
    file = to_meta(model.config, model.state_dict())
    for key in ("proj", "proj_context"):
        file["predictor"][f"module.backbone.predictor_{key}.weight"] = torch.zeros(4 * 64, 24)
        file["predictor"][f"module.backbone.predictor_{key}.bias"] = torch.zeros(4 * 64)
    with pytest.raises(
        MismatchError, match=r"predictor\.predictor_proj.* 3 more .*--parts encoder` takes the encoder alone"
    ):
        load(file)
    alone = load(file, parts=("encoder",))
    assert alone.predictor is None and torch.equal(alone.encoder.norm.weight, model.encoder.norm.weight)


@torch.no_grad()
def test_a_single_frame_is_an_image_to_a_dense_encoder_and_a_still_video_to_the_plain_one():
    model = made.random_model(made.CONFIGS["V-JEPA 2.1"])
    image = torch.randn(2, 1, 3, 32, 32)
    assert isinstance(model.encoder, DenseEncoder)
    tokens, plain = model.encoder(image), model.encoder.plain()
    assert torch.equal(tokens, model.levels(model.encoder, image)[-1])
    still = image.expand(-1, 2, -1, -1, -1)
    assert torch.equal(plain(image), model.encoder(still)) and torch.equal(plain(still), model.encoder(still))
    assert (tokens - plain(image)).abs().max() > 0.1
    assert plain.state_dict().keys() == model.encoder.state_dict().keys() and not plain.training
