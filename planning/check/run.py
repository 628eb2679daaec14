"""`jepa plan check`: do a robot's signs, scales and axes agree with a world model, on held-out episodes?

For transitions of packed episodes it searches the single action whose imagined outcome is nearest to the frame that
followed, and compares it with the action that was logged, read through the robot's adapter.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.data.index import Manifest
from jepa.encode import rate
from jepa.logs import console
from jepa.planning.check import page as check_page
from jepa.planning.check.conventions import likeliest, named
from jepa.planning.check.measure import (
    camera_shifts,
    falls,
    landscapes,
    search,
    search_range,
    transitions,
)
from jepa.planning.check.verdict import AXES, summary, verdicts
from jepa.planning.embodiment import Embodiment, load
from jepa.planning.placement import check_placement
from jepa.planning.rotations import from_matrix
from jepa.pose import rotation
from jepa.runs import load_world, reading, trained_on

PICTURES = 3  # transitions whose landscapes are drawn
RATE = 0.1  # share by which rates may differ: every 4th of 15 frames a second is 3.75, which V-JEPA 2-AC calls 4
ELSEWHERE = (0.1, 0.2)  # m, rad: a camera further than this from all recorded ones stands elsewhere


def run(
    world_run: str | Path,
    shards: str | Path,
    *,
    embodiment: str = "",
    out: str | Path = "",
    count: int = 30,
    each: int = 4,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Check, print, and write OUT/check.json and OUT/report.html; returns what check.json holds, without the points.

    `ok` is whether an axis was confirmed and none looks wrong.

    Args:
        world_run: the folder of a post-training, or a released V-JEPA 2-AC.
        shards: packed episodes that it was not trained on.
        embodiment: a preset of `configs/embodiment` or a YAML path; "" means V-JEPA 2-AC's own conventions.
        out: a folder; "" is WORLD_RUN/check, or beside FILE.pt FILE_check.
        count: episodes, the first of the shards. each: transitions of each, those with the largest actions.
        seed: of the bootstrap over episodes.
        device: cpu or cuda, where encoder and world lie.

    Raises:
        ConfigError: a device that is not there, no actions or states, of another width than the embodiment's, too few
            episodes, or a world whose actions are not of 7 numbers.
        CheckpointError, DataError: world or shards cannot be read.
    """
    check_placement(device)
    adapter, manifest = load(embodiment), Manifest.load(shards)
    encoder, world = (part.to(device) for part in load_world(world_run))
    reach = search_range(world, adapter)
    read = reading(world_run)
    data = transitions(manifest, encoder, read, adapter, reach, count, each)  # type: ignore[arg-type]
    found, energy = search(world, data, reach)
    fell = falls(world, data, reach)
    logged, lowest = data.change.double().numpy(), found.double().numpy()
    rng = np.random.default_rng(seed)
    axes = verdicts(lowest, logged, fell.numpy(), data.episode, reach.numpy(), rng)
    convention = likeliest(world, data, rng)
    axes = named(axes, convention)
    shown = data.firsts[:PICTURES]
    result = {
        **summary(axes),
        "world": str(world_run),
        "shards": str(shards),
        "embodiment": asdict(adapter.embodiment),
        "notes": [
            *_camera_notes(adapter.embodiment, data.camera),
            *_notes(manifest, read.fps, adapter.embodiment, trained_on(world_run, manifest)),
        ],
        "episodes": len(data.firsts),
        "transitions": len(data.pose),
        "searched": dict(zip(AXES, reach.tolist(), strict=True)),
        "energy": {"lowest": float(energy.mean()), "logged": convention.given, "still": convention.still},
        "convention": asdict(convention),
        "camera_shift": camera_shifts(encoder, world, data, reach),  # type: ignore[arg-type]
        "seed": seed,
    }
    given = Path(world_run)
    folder = Path(out or (given.with_name(f"{given.stem}_check") if given.is_file() else given / "check"))
    folder.mkdir(parents=True, exist_ok=True)
    points = {"logged": logged.tolist(), "lowest": lowest.tolist(), "episode": data.episode.tolist()}
    (folder / "check.json").write_text(json.dumps({**result, "points": points}, indent=1))
    pictures = landscapes(encoder, world, data, shown, reach)  # type: ignore[arg-type]
    page = check_page.write(result, lowest, logged, data.frames[shown].numpy(), pictures, folder)
    check_page.show(result, console)
    console.print(f"wrote {page}", soft_wrap=True)
    return result


def _notes(manifest: Manifest, fps: float, embodiment: Embodiment, remembered: bool) -> list[str]:
    """Whether the data are not what they should be, and what the embodiment's author says of the camera."""
    e, steps = embodiment, rate(manifest, fps)
    notes = [f"{name}: {text}" for name, text in (("camera", e.camera), ("crop", e.crop)) if text]
    if fps:
        notes.insert(0, f"actions: at fps={fps:g} changes of pose stand in for them; the robot's own are not checked")
    if steps and abs(steps / e.rate - 1) > RATE:
        notes.insert(0, f"rate: these recordings give {steps:.3g} steps a second, embodiment {e.name} says {e.rate:g}")
    if remembered:
        notes.insert(0, "shards: the world was trained on these episodes and may know them by heart; give others")
    return notes


def _camera_notes(embodiment: Embodiment, recorded: Tensor) -> list[str]:
    """Whether the robot's camera stands where those of the recordings stood: (n, 6), or (n, 0) if nothing reads it."""
    if not recorded.shape[1]:
        return []
    if not embodiment.camera_pose:
        return [f"camera_pose: embodiment {embodiment.name} says none; without it an agent refuses to move the robot"]
    here = torch.tensor(embodiment.camera_pose)
    metres = (recorded[:, :3] - here[:3]).norm(dim=1)
    radians = from_matrix(rotation(recorded[:, 3:]) @ rotation(here[3:]).mT, "rotation_vector").norm(dim=1)
    near = torch.maximum(metres / ELSEWHERE[0], radians / ELSEWHERE[1]).argmin()
    if metres[near] <= ELSEWHERE[0] and radians[near] <= ELSEWHERE[1]:
        return []
    return [
        f"camera_pose: embodiment {embodiment.name}'s is {metres[near]:.2f} m and {radians[near]:.2f} rad from the "
        "nearest camera of these recordings: another camera, another unit, or another convention of angles"
    ]
