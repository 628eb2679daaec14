"""Encodes every frame of robot episodes once, by all processes together, into files that outlast a kill."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from jepa import runs
from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.data.index import Manifest
from jepa.data.loader import episodes
from jepa.data.sampling import stride
from jepa.encoded import Episodes, Part, file_names
from jepa.logs import progress_bar
from jepa.models.encoder import encode_frames
from jepa.pose import UNITS, delta
from jepa.training import together

PART = 1024  # frames of a file, more only where an episode ends later: 0.7 GB of ViT-g at 256 px
CHUNK = 64  # frames encoded together
EXTRINSICS = "extrinsics"  # the array of the camera's pose in the robot's base
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def encode_shards(
    encoder: runs.AnyEncoder, manifest: Manifest, reading: runs.Reading, folder: Path, accelerator: Accelerator
) -> Episodes:
    """Every frame by itself, in half precision, as `reading` says; all processes call it together.

    The files of `folder` are keyed by the encoder's weights, the shards and the reading. Each is there whole or not at
    all, so that what was encoded before a kill stays.

    Raises:
        ConfigError: these shards have no actions, none at this rate, or no extrinsics; another process cannot go on.
        CheckpointError: what another process wrote cannot be seen here.
    """
    frames = -(-manifest.samples["frames"].astype(int) // stride(manifest.samples["fps"], reading.fps))
    ends = frames.cumsum()
    parts = np.split(np.arange(len(ends)), np.flatnonzero(np.diff(ends // PART)) + 1)  # ids of samples
    paths = [folder / name for name in file_names(len(parts))]
    key = f"{runs.encoder_sha256(encoder)} {manifest.sha256} {reading.fps:g} {accelerator.mixed_precision} {PART}"
    key += " extrinsics" * reading.extrinsics + f" {reading.crop}" * (reading.crop != runs.Reading.crop)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    if rank == 0:
        for stale in set(folder.glob("*.safetensors")).difference(paths):  # of another rate
            stale.unlink()
    encoder.to(accelerator.device)

    def make(i: int) -> None:
        if i < len(parts) and runs.read_cache(paths[i], key) is None:
            runs.write_cache(paths[i], key, _encode(encoder, manifest, parts[i], reading, accelerator))

    with progress_bar(disable=rank > 0) as bar:
        task = bar.add_task(f"encode {Path(manifest.location).name}", total=len(manifest), figures="")
        for first in range(0, len(parts), ranks):  # nobody waits for longer than one part takes
            together(accelerator, lambda first=first: make(first + rank))
            bar.advance(task, sum(map(len, parts[first : first + ranks])))
    encoder.cpu()  # the device is the world's from here on
    read = [runs.read_cache(path, key) for path in paths]
    if None in read:
        raise CheckpointError(f"{paths[read.index(None)]} is gone; all processes must share the folder out=…")
    return Episodes(read)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trajectory:
    """frames (T, C, h, w) uint8, actions (T-1, A) and states (T, S) of sample `id`; S is 0 where none are known.

    camera: (T, 6) the camera's pose, m and rad, where it was asked for; (T, 0) else.
    """

    frames: Tensor
    actions: Tensor
    states: Tensor
    camera: Tensor
    id: int

    @property
    def proprio(self) -> Tensor:
        """What the world reads of each frame beside the picture: the robot's state and the camera's pose behind it."""
        return torch.cat((self.states, self.camera), dim=1)


def rate(manifest: Manifest, fps: float) -> float | None:
    """Steps a second of `trajectories` at `fps`; None where the recordings do not say theirs."""
    return manifest.spec.fps and float(manifest.spec.fps / stride(manifest.spec.fps, fps))


def trajectories(
    manifest: Manifest, size: int, reading: runs.Reading, ids: Iterable[int] | None = None
) -> Iterator[Trajectory]:
    """Samples, as a world model is trained on them.

    With `reading.fps` frames are left out, and actions are the changes of pose between the others, as in V-JEPA 2-AC
    (arXiv 2506.09985, §3.1). Frames are cut as `reading.crop` says, and resized to `size`.

    Raises:
        ConfigError: there are no actions, `fps` is given and states are not poses, or extrinsics and there are none.
    """
    spec, shards, fps = manifest.spec, manifest.location, reading.fps
    if not spec.action_dim:
        raise ConfigError(f"{shards}: the samples have no actions, which a world model needs")
    poses = _poses(spec.state_units or ("unknown",) * spec.state_dim, UNITS)
    if fps > 0 and not (poses and spec.action_dim == len(UNITS)):
        raise ConfigError(
            f"{shards}: fps={fps:g} needs states that are 7-D poses, to compute the actions between the frames that "
            f"it keeps; here states have {spec.state_dim} and actions {spec.action_dim} numbers, and not all are "
            "of a pose: train with fps=0, on recordings at the rate that you want"
        )
    if reading.extrinsics and not _poses(spec.extra.get(EXTRINSICS, ()), UNITS[:6]):
        raise ConfigError(
            f"{shards}: a world with extrinsics reads where the camera stands, and these samples have no array "
            f"{EXTRINSICS} in {', '.join(UNITS[:6])}, as `jepa pack droid` writes; or train without extrinsics"
        )
    for episode in episodes(manifest, size, ids, fps, reading.crop):
        nothing = np.empty((len(episode.frames), 0))
        states = torch.from_numpy(episode.arrays.get("states", nothing)).float()
        camera = torch.from_numpy(episode.arrays[EXTRINSICS] if reading.extrinsics else nothing).float()
        if fps > 0:
            actions = delta(states[:-1].double(), states[1:].double()).float()
        else:
            actions = torch.from_numpy(episode.arrays["actions"]).float()
        yield Trajectory(episode.frames, actions, states, camera, episode.id)


def _poses(units: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Whether numbers of these units are as many as a pose has, and may be one."""
    return len(units) == len(own) and all(unit in (wanted, "unknown") for unit, wanted in zip(units, own, strict=True))


@torch.no_grad()
def _encode(
    encoder: runs.AnyEncoder, manifest: Manifest, ids: np.ndarray, reading: runs.Reading, accelerator: Accelerator
) -> Part:
    device, low = accelerator.device, LOW.get(accelerator.mixed_precision)
    rows = []
    for seen in trajectories(manifest, encoder.config.size, reading, ids.tolist()):
        with torch.autocast(device.type, low, enabled=low is not None):
            parts = [encode_frames(encoder, part[None].to(device))[0].half().cpu() for part in seen.frames.split(CHUNK)]
        rows.append((torch.tensor([len(seen.frames)]), torch.cat(parts), seen.actions, seen.proprio))
    names = ("lengths", "tokens", "actions", "states")
    return {name: torch.cat(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
