"""Open what a run left behind: encoders, world models and caches of features."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa.checkpoint import CheckpointError, load_weights, read_model
from jepa.checkpoint_format import step_of
from jepa.config import ConfigError, build, from_dict, to_dict
from jepa.data.index import Manifest
from jepa.data.transforms import CROPS
from jepa.models.encoder import Encoder, EncoderConfig, build_encoder
from jepa.models.image_encoder import ImageEncoder, build_image_encoder
from jepa.models.pixel_encoder import PixelEncoder, PixelEncoderConfig
from jepa.worlds.base import WorldModel, WorldSpec

_ENCODER = "encoder.safetensors"


@dataclass(frozen=True)
class Reading:
    """How recordings are read for a world: `fps` frames a second (0: all), with the camera's pose if `extrinsics`.

    `crop` is what of a picture becomes the square that is encoded: `centre` is the largest centred square; `squeeze` is
    the picture itself, squeezed, but for what is wider than 1.35 : 1 or narrower than 0.75 : 1, as of V-JEPA 2-AC.

    Raises ConfigError for a value outside its range.
    """

    fps: float = 0.0
    extrinsics: bool = False
    crop: str = "centre"

    def __post_init__(self) -> None:
        if self.fps < 0:
            raise ConfigError(f"fps {self.fps:g}: must be 0 (every frame) or more")
        if self.crop not in CROPS:
            raise ConfigError(f"crop '{self.crop}' is not one of {', '.join(CROPS)}")

    def __str__(self) -> str:
        rate = f"fps={self.fps:g}" if self.fps else "every frame"
        return rate + ", with extrinsics" * self.extrinsics + f", crop={self.crop}" * (self.crop != Reading.crop)


AnyEncoder = Encoder | ImageEncoder | PixelEncoder
"""What a world model can be trained on."""


def encoder_config(run: str | Path) -> EncoderConfig:
    """The shape of the encoder of a pre-training run or a released model. Raises CheckpointError for anything else."""
    if not _is_run(run):
        return _released(run).config
    folder = run_and_step(run)[0]
    encoder = read_config(folder).get("encoder")
    if not isinstance(encoder, dict):
        raise CheckpointError(f"{run} is not a pre-training run: its config has no encoder")
    return from_dict(EncoderConfig, encoder, str(folder / "config.json"))


def load_encoder(run: str | Path, which: str = "target") -> Encoder:
    """The frozen encoder of a pre-training run: `target` (the EMA, the one to use) or `online`; or a released model's.

    It is that of the newest valid checkpoint, unless one is named: RUN/checkpoints/step_00000123.
    Where an objective has no target encoder, the only one is both.

    Raises:
        CheckpointError: no run, no valid checkpoint, or weights that do not fit.
    """
    if not _is_run(run):
        return _released(run)
    prefix = {"target": "target_encoder.", "online": "encoder."}[which]
    encoder = build_encoder(encoder_config(run), seed=0)
    _, tensors, folder = read_model(*run_and_step(run))
    prefix = prefix if any(key.startswith(prefix) for key in tensors) else "encoder."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    load_weights(encoder, own, str(folder))
    return encoder.eval().requires_grad_(False)


def run_and_step(run: str | Path) -> tuple[Path, int | None]:
    """A run's folder, and the step where one of its checkpoints is named: RUN/checkpoints/step_00000123."""
    path = Path(run)
    named = path.parent.name == "checkpoints" and re.fullmatch(r"step_\d{8}", path.name)
    return (path.parent.parent, step_of(path)) if named else (path, None)


def _is_run(run: str | Path) -> bool:
    """Whether the folder holds a training run, and not a model in a layout of its own."""
    folder = run_and_step(run)[0]
    return (folder / "config.json").is_file() and not read_config(folder).keys() & {"format", "model_type"}


def _released(name: str | Path) -> Encoder:
    from jepa.interop.load import load  # which reads runs as well

    encoder = load(name).encoder
    if encoder is None:
        raise CheckpointError(f"{name} holds no encoder; give the checkpoint that does")
    return encoder


def is_released(name: str | Path) -> bool:
    """Whether this is a file, or a folder in a released model's layout, and not a training run's."""
    path = Path(name) / "config.json"
    return Path(name).is_file() or (path.is_file() and not _is_run(name))


def _released_world(name: str | Path) -> tuple[AnyEncoder, WorldModel]:
    from jepa.interop.encoders import load_encoder
    from jepa.worlds.ac_jepa import wrap

    encoder, predictor = load_encoder(str(name))
    if predictor is None:
        raise CheckpointError(f"{name} has no action-conditioned predictor: it is no world model")
    return encoder.eval().requires_grad_(False), wrap(predictor).eval().requires_grad_(False)


def save_encoder(run: Path, encoder: AnyEncoder) -> None:
    """Put a frozen encoder beside the world model that is trained on it.

    Raises:
        CheckpointError: another encoder lies there already: the world belongs to that one.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (run / _ENCODER).is_file():
        known = load_file(run / _ENCODER)
        own = encoder.state_dict()
        if known.keys() != own.keys() or not all(torch.equal(known[k], own[k]) for k in own):
            raise CheckpointError(f"{run} was trained on an encoder with other weights; choose another out=…")
        return
    save_file(encoder.state_dict(), run / _ENCODER, metadata={"config": json.dumps(to_dict(encoder.config))})


def load_world(run: str | Path) -> tuple[AnyEncoder, WorldModel]:
    """The frozen encoder and world model of a post-training run, or of a released V-JEPA 2-AC.

    Raises:
        CheckpointError: no run, no valid checkpoint, or weights that do not fit; a model without a world.
    """
    from jepa.posttrain import PosttrainConfig  # the schema of the run's config

    if is_released(run):
        return _released_world(run)
    run = Path(run)
    values, tensors, folder = read_model(run)
    try:
        with safe_open(run / _ENCODER, "pt") as file:
            shape = json.loads(file.metadata()["config"])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{run} is not a post-training run: cannot read {_ENCODER}: {error}") from error
    encoder = _shaped(shape, run)
    load_weights(encoder, weights, str(run / _ENCODER))
    config = from_dict(PosttrainConfig, values, str(run))
    world = build(config.world, _spec_of(tensors, encoder), torch.Generator())
    load_weights(world, tensors, str(folder))
    return encoder.eval().requires_grad_(False), world.eval().requires_grad_(False)


def read_config(run: str | Path) -> dict[str, Any]:
    """The config that a run was made with, as plain values. Raises CheckpointError where there is none."""
    path = Path(run) / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run} is no run: cannot read {path.name}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{run} is no run: {path.name} holds no keys")
    return values


def reading(run: str | Path) -> Reading:
    """How the shards of a post-training were read. Raises CheckpointError where there is no such run.

    A released V-JEPA 2-AC was trained at 4 frames a second (arXiv 2506.09985, §3.1), on squeezed pictures: its config
    asks for crops that are larger than any picture, and its transform falls back to the centre.
    """
    from jepa.posttrain import PosttrainConfig  # the schema of the run's config

    if is_released(run):
        return Reading(fps=4.0, crop="squeeze")
    return from_dict(PosttrainConfig, read_config(run), str(run)).reading


def trained_on(run: str | Path, manifest: Manifest) -> bool:
    """Whether a post-training was trained on these very shards, wherever they lie now."""
    path = Path(run) / "data.json"
    return path.is_file() and json.loads(path.read_text()).get(read_config(run).get("shards")) == manifest.sha256


def check_weights(run: str | Path, wanted: str, row: str) -> None:
    """Raise ConfigError where a post-training's `weights` are not what its `row` in a table says of them."""
    if (weights := read_config(run).get("weights")) != wanted:
        raise ConfigError(f"row '{row}' wants a run with weights={wanted}; {run} has {weights}")


def _shaped(shape: dict[str, Any], run: Path) -> AnyEncoder:
    """An encoder of that config, of ours, of timm's or of pixels, whatever its weights."""
    if "name" in shape:
        return build_image_encoder(shape["name"], "random", size=shape["size"])
    if "width" not in shape:
        return PixelEncoder(from_dict(PixelEncoderConfig, shape, str(run)))
    return build_encoder(from_dict(EncoderConfig, shape, str(run)), seed=0)


def world_spec(encoder: AnyEncoder, action_dim: int, state_dim: int) -> WorldSpec:
    """What a world model must know of its encoder and robot."""
    _, rows, columns = encoder.grid(encoder.config.tubelet, encoder.config.size, encoder.config.size)
    return WorldSpec(encoder.embed_dim, action_dim, state_dim, (rows, columns))


def weights_sha256(module: nn.Module) -> str:
    """A digest of all weights of a module, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def encoder_sha256(encoder: AnyEncoder) -> str:
    """A digest of weights and shape: heads and positions change what an encoder says, and no weight."""
    return hashlib.sha256(f"{weights_sha256(encoder)} {to_dict(encoder.config)}".encode()).hexdigest()


def read_cache(path: Path, key: str) -> dict[str, Tensor] | None:
    """Tensors cached under `key`, or None where there are none or they were made from something else."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def write_cache(path: Path, key: str, tensors: dict[str, Tensor]) -> None:
    """Cache tensors under `key`; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"key": key})
    partial.replace(path)


def _spec_of(tensors: dict[str, Tensor], encoder: AnyEncoder) -> WorldSpec:
    return world_spec(encoder, len(tensors["action_scale"]), len(tensors["state_scale"]))
