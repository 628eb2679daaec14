"""timm's image encoders behind our contract: frames apart, prefix tokens gone, weights whole or not at all."""

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.models.encoder import encode_frames
from jepa.models.image_encoder import build_image_encoder
from jepa.runs import encoder_sha256, world_spec

DINO3, DINO2, TINY = "vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2", "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def dino3():
    return build_image_encoder(DINO3, "random", size=48)


@pytest.mark.parametrize(("name", "size", "patch"), [(DINO3, 48, 16), (DINO2, 28, 14), (TINY, 32, 16)])
def test_tokens_are_those_of_each_frame_alone_without_the_prefix(name, size, patch):
    encoder = build_image_encoder(name, "random", size=size)
    frames = normalize(torch.randint(0, 256, (2, 3, 3, size, 2 * size), dtype=torch.uint8))
    tokens = encoder(frames)
    t, rows, columns = encoder.grid(3, size, 2 * size)
    assert (t, rows, columns) == (3, size // patch, 2 * size // patch)
    assert tokens.shape == (2, t * rows * columns, encoder.embed_dim)
    assert encoder.config.patch == patch and encoder.config.tubelet == 1
    alone = encoder(frames[1:, 2:])
    torch.testing.assert_close(tokens[1:].unflatten(1, (t, -1))[:, 2], alone, atol=1e-4, rtol=1e-4)
    known = encoder.net.pretrained_cfg
    pixels = frames[1, 2] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = pixels + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    pixels = (pixels - torch.tensor(known["mean"]).view(3, 1, 1)) / torch.tensor(known["std"]).view(3, 1, 1)
    direct = encoder.net.forward_features(pixels[None])
    torch.testing.assert_close(alone, direct[:, -rows * columns :], atol=1e-4, rtol=1e-4)


def test_places_of_a_convolutional_nets_map_are_its_tokens():
    encoder = build_image_encoder("resnet18", "random", size=64)
    frames = torch.randn(2, 3, 3, 64, 96)
    tokens = encoder(frames)
    assert encoder.grid(3, 64, 96) == (3, 2, 3) and encoder.config.patch == 32
    direct = encoder.net.forward_features(frames[1, 2:] * encoder.scale + encoder.shift)  # (1, D, 2, 3)
    torch.testing.assert_close(tokens[1].unflatten(0, (3, 2, 3))[2], direct[0].permute(1, 2, 0), atol=1e-4, rtol=1e-4)
    assert not encoder.training  # its BatchNorms keep the statistics that they have


def test_other_sizes_are_resized_and_keep_their_shape(dino3):
    assert dino3.grid(1, 90, 160) == (1, 3, 5)
    assert dino3(torch.randn(1, 1, 3, 90, 160)).shape == (1, 15, 384)
    assert build_image_encoder(DINO2, "random").config.size == 518  # the size it was trained at


def test_it_serves_where_our_encoder_does(dino3):
    """What post-training and planning ask of an encoder."""
    tokens = encode_frames(dino3, torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8))
    assert tokens.shape == (2, 2, 9, 384)
    assert world_spec(dino3, 7, 7).grid == (3, 3)
    assert encoder_sha256(dino3) != encoder_sha256(build_image_encoder(DINO3, "random", size=64))


def test_random_weights_are_the_seeds_and_global_randomness_is_left_alone(dino3):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    same, other = (build_image_encoder(DINO3, "random", seed=seed).state_dict() for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    key = "net.patch_embed.proj.weight"
    assert torch.equal(dino3.state_dict()[key], same[key]) and not torch.equal(same[key], other[key])
    assert not dino3.training and not any(p.requires_grad for p in dino3.parameters())


def test_weights_of_a_file_and_of_the_hub(dino3, tmp_path, monkeypatch):
    given = {k: v + 1 for k, v in dino3.net.state_dict().items()}
    save_file({**given, "head.weight": torch.zeros(10, 384)}, tmp_path / "model.safetensors")

    def downloaded(repo, file):
        assert (repo, file) == ("timm/vit_small_patch16_dinov3.lvd1689m", "model.safetensors")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", downloaded)
    for weights in (str(tmp_path / "model.safetensors"), "hub"):
        loaded = build_image_encoder(DINO3, weights).net.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in given.items())


def test_both_classifiers_of_a_distilled_net_are_left_out(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    given = dict(build_image_encoder(name, "random", size=32).net.state_dict())
    path = tmp_path / "model.safetensors"
    save_file({**given, "head.weight": torch.zeros(10, 192), "head_dist.weight": torch.zeros(10, 192)}, path)
    assert build_image_encoder(name, str(path), size=32).net.state_dict().keys() == given.keys()


def test_weights_that_do_not_fit_are_refused(dino3, tmp_path):
    given = dict(dino3.net.state_dict())
    del given["blocks.3.attn.proj.weight"]
    save_file(given, tmp_path / "part.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "part.safetensors").read_bytes()[:999])
    for name, message in [
        ("part.safetensors", "blocks.3.attn.proj.weight is missing"),
        ("cut.safetensors", "not a whole .safetensors file"),
        ("nosuch.safetensors", "no file .*nosuch"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            build_image_encoder(DINO3, str(tmp_path / name))


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match=r"timm/vit_small_patch16_dinov3.lvd1689m cannot be downloaded"):
        build_image_encoder(DINO3)


@pytest.mark.parametrize(
    ("name", "message"),
    [("vit_small_dinov9", "no model"), ("levit_128s", "neither a plain ViT"), ("mixer_s16_224", "neither")],
)
def test_what_gives_no_tokens_of_any_size_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        build_image_encoder(name, "random")


@pytest.mark.parametrize("pattern", ["vit_*dinov2", "vit_*dinov3"])
def test_timm_knows_the_names_in_the_documents(pattern):
    assert timm.list_models(pattern)
