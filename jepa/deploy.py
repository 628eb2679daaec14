"""Models for machines without this package: `torch.export` or ONNX files, compared with what they come from."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.models.ac_predictor import ACPredictor
from jepa.models.encoder import Encoder, encode_frames
from jepa.models.image_encoder import ImageEncoder
from jepa.models.layers import norm_features
from jepa.pose import integrate
from jepa.worlds.ac_jepa import ACJepa
from jepa.worlds.base import WorldModel

FORMATS = {"torch": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-4  # of the largest difference between a file's outputs and the model's
ONNX_NEEDS = "ONNX files need: pip install 'openjepa[onnx]'"


@dataclass(frozen=True)
class Part:
    """A module to export by itself: example inputs and names of outputs, batch first in all of them."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class Encode(nn.Module):
    """uint8 frames (B, T, 3, h, w) -> the encoder's tokens (B, t·N, D): normalisation is inside."""

    def __init__(self, encoder: Encoder | ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> tuple[Tensor]:
        return (self.encoder(normalize(frames)),)


class Look(nn.Module):
    """A uint8 picture (B, 3, h, w) -> its tokens (B, N, D) in the scale in which the world imagines and compares."""

    def __init__(self, encoder: Encoder | ImageEncoder, world: ACJepa | None) -> None:
        super().__init__()
        self.encoder, self.world = encoder, world

    def forward(self, image: Tensor) -> tuple[Tensor]:
        tokens = encode_frames(self.encoder, image[:, None])[:, 0]
        return (tokens if self.world is None else self.world.standardise(tokens),)


class Imagine(nn.Module):
    """Tokens (B, t, N, D), poses and actions (B, t, 7) of t frames -> tokens (B, N, D) and pose (B, 7) of the next.

    `actions[:, i]` is taken after frame i, the last of them is the one to be imagined. A released predictor, which has
    no world of ours around it, gets its output layer-normed, as in its training.
    """

    def __init__(self, world: ACJepa | ACPredictor) -> None:
        super().__init__()
        self.world = world

    def forward(self, tokens: Tensor, poses: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.world, ACPredictor):
            return norm_features(self.world(tokens, actions, poses)[:, -1]), integrate(poses[:, -1], actions[:, -1])
        state = self.world.remember(None, tokens, poses, actions[:, :-1])
        step = self.world.step(state, actions[:, -1]).state
        return step["tokens"][:, -1], step["pose"][:, -1]


def encoder_part(encoder: Encoder | ImageEncoder, frames: int) -> Part:
    """The encoder for clips of `frames` frames of its own size; ConfigError where it cannot take so many."""
    c = encoder.config
    try:
        c.grid(frames, c.size, c.size)
    except ValueError as error:
        raise ConfigError(f"--frames {frames}: {error}") from error
    clips = torch.randint(0, 256, (2, frames, 3, c.size, c.size), dtype=torch.uint8, generator=_generator())
    return Part("encoder", Encode(encoder), {"frames": clips}, ("tokens",))


def world_parts(encoder: Encoder | ImageEncoder, world: WorldModel | ACPredictor, history: int) -> list[Part]:
    """`look` and `imagine` of a world model that sees `history` frames.

    Raises:
        ConfigError: a world of another kind, one without poses, or a Markov one, which sees one frame, with more.
    """
    if not isinstance(world, ACJepa | ACPredictor):
        raise ConfigError(f"a world of type {type(world).__module__.rsplit('.', 1)[1]} cannot be deployed; ac_jepa can")
    predictor = world.predictor if isinstance(world, ACJepa) else world
    if predictor.state_encoder is None or predictor.extrinsics_encoder is not None:
        raise ConfigError("only a world model that reads poses, and no camera's place, can be deployed")
    if history < 1 or (predictor.config.markov and history > 1):
        raise ConfigError(f"--frames {history}: this world model sees one frame; leave --frames out")
    size, rng = encoder.config.size, _generator()
    width, places = predictor.predictor_embed.in_features, predictor.grid[0] * predictor.grid[1]
    image = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=rng)
    known = {
        "tokens": torch.randn(2, history, places, width, generator=rng),
        "poses": 0.3 * torch.randn(2, history, predictor.state_encoder.in_features, generator=rng),
        "actions": 0.1 * torch.randn(2, history, predictor.action_encoder.in_features, generator=rng),
    }
    look = Look(encoder, world if isinstance(world, ACJepa) else None)
    return [
        Part("look", look, {"image": image}, ("tokens",)),
        Part("imagine", Imagine(world), known, ("next_tokens", "next_pose")),
    ]


@torch.no_grad()
def deploy(parts: Sequence[Part], out: Path, kind: str, batch: int, source: str) -> dict[str, Any]:
    """Write each part to `out` and deploy.json beside them; returns what that holds. `batch` 0 leaves it open.

    Every file is read back and run on inputs of its own, and must give what the module gives: none appears before.

    Raises:
        ConfigError: an unknown format, what ONNX needs is not installed, or a file's outputs are not the model's.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind}: must be {' or '.join(FORMATS)}")
    out.mkdir(parents=True, exist_ok=True)
    # A folder, and not a suffix: a large ONNX file names the file beside it that holds its weights.
    with TemporaryDirectory(dir=out, prefix=".partial-") as folder:
        described = {part.name: _written(part, Path(folder), kind, batch) for part in parts}
        result = {"source": source, "format": kind, "parts": described}
        (Path(folder) / "deploy.json").write_text(json.dumps(result, indent=1))
        for path in Path(folder).iterdir():
            path.replace(out / path.name)
    return result


def _written(part: Part, folder: Path, kind: str, batch: int) -> dict[str, Any]:
    """Write a part to the folder and compare it; what deploy.json says of it. Raises ConfigError where it differs."""
    path = folder / f"{part.name}{FORMATS[kind]}"
    example = tuple(_rows(x, batch or 2) for x in part.inputs.values())
    _save(part, example, path, kind, dynamic=not batch)
    run = _runner(path, kind, list(part.inputs))
    difference = max(_difference(part, run, rows) for rows in ([batch] if batch else [1, 2, 5]))
    if not difference <= TOLERANCE:
        raise ConfigError(f"{path.name}: its outputs differ from the model's by {difference:.1e}, so it was not kept")
    outputs = zip(part.outputs, part.module(*part.inputs.values()), strict=True)
    return {
        "file": path.name,
        "inputs": {name: _shape(x, batch) for name, x in part.inputs.items()},
        "outputs": {name: _shape(x, batch) for name, x in outputs},
        "difference": difference,
    }


def _save(part: Part, example: tuple[Tensor, ...], path: Path, kind: str, dynamic: bool) -> None:
    rows = torch.export.Dim("batch")
    shapes = tuple({0: rows} for _ in example) if dynamic else None
    program = torch.export.export(part.module.eval(), example, dynamic_shapes=shapes)
    if kind == "torch":
        torch.export.save(program, path)
        return
    try:
        from onnxscript import opset18 as op
    except ModuleNotFoundError as error:
        raise ConfigError(ONNX_NEEDS) from error

    def hypot(x: Any, y: Any) -> Any:  # which ONNX does not have
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    with warnings.catch_warnings():
        # torch copies a class of its own that it has deprecated.
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        converted = torch.onnx.export(
            program,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            custom_translation_table={torch.ops.prims.hypot.default: hypot},
            verbose=False,
        )
    converted.save(path)


def _runner(path: Path, kind: str, names: Sequence[str]) -> Callable[[list[Tensor]], Sequence[Any]]:
    """The file as a function of its inputs, as another machine would read it."""
    if kind == "torch":
        module = torch.export.load(path).module()
        return lambda given: module(*given)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, dict(zip(names, map(np.asarray, given), strict=True)))


def _difference(part: Part, run: Callable[[list[Tensor]], Sequence[Any]], rows: int) -> float:
    """The largest between what the file and the module say of `rows` rows."""
    given = [_rows(x, rows) for x in part.inputs.values()]
    pairs = zip(run(given), part.module(*given), strict=True)
    return max(float((torch.as_tensor(found) - wanted).abs().max()) for found, wanted in pairs)


def _rows(x: Tensor, rows: int) -> Tensor:
    """`rows` rows that differ from each other."""
    return torch.cat([x.roll(i, -1) for i in range(-(-rows // len(x)))])[:rows].contiguous()


def _shape(x: Tensor, batch: int) -> dict[str, Any]:
    return {"shape": [batch or "batch", *x.shape[1:]], "type": str(x.dtype).removeprefix("torch.")}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
