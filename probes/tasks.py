"""What is asked of features: each task names its labels, its metric, and the probes and views that answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor

from jepa.data.clip import Spec
from jepa.probes import made
from jepa.probes.clips import ClipSet, Episodes, load_clips
from jepa.probes.kinds.base import Features, Probe, ProbeError

CLASSIFY = (("attentive", "tokens"), ("linear", "pooled"), ("knn", "pooled"))
ORDERED = (*CLASSIFY, ("linear", "flat"))  # where pooling over time would drop what is asked for
REGRESS = (("regression", "pooled"), ("regression", "flat"), ("attentive_regression", "tokens"))

Make = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """`target` gives classes (B) int64 or values (B, O), and a mask (B) of the clips that have one.

    `needs` names the per-frame array it reads (none: any video will do). Where the question is made, `make` turns
    frames (B, T, 3, h, w) uint8 and coins (B) in [0, 1) into the frames that are shown and the same targets (B).
    """

    title: str
    target: Callable[[ClipSet], tuple[Tensor, Tensor]]
    metric: str
    probes: tuple[tuple[str, str], ...]
    needs: str = ""
    make: Make | None = None
    applies: Callable[[Spec], bool] = lambda spec: True


def _all(clips: ClipSet) -> Tensor:
    return torch.ones(len(clips.episodes), dtype=torch.bool)


def _classes(found: Tensor) -> tuple[Tensor, Tensor]:
    """Classes (B), and which clips (B) have one: a class below 0 is none."""
    return found.long().clamp(min=0), found >= 0


def _values(found: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, O), and which clips (B) have all of them: NaN is none."""
    return found, found.isfinite().all(1)


def skill(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """The behaviour shown; only of clips that show one from their first frame to their last."""
    labels = clips.arrays["skill"]  # (B, T)
    last, known = _classes(labels[:, -1])
    return last, known & (labels == labels[:, :1]).all(1)


def gripper(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """Gripper xyz at the last frame, metres."""
    return _values(clips.arrays["states"][:, -1, :3])


def state(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """The whole state at the last frame, in the data's units."""
    return _values(clips.arrays["states"][:, -1])


def object_position(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """Where on the table the first object is at the last frame: xy, metres. Its height hardly ever changes."""
    return _values(clips.arrays["object_pos"][:, -1, :2])


def phase(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """The phase of the last frame."""
    return _classes(clips.arrays["phase"][:, -1])


def _starts_with_metres(spec: Spec) -> bool:
    return spec.state_units[:3] == ("m", "m", "m")


def _made(title: str, make: Make, classes: Callable[[Tensor], Tensor]) -> Task:
    """A task that any video can answer: classes (B) of coins (B), as `make` gives them too."""
    return Task(title, lambda clips: (classes(clips.coins), _all(clips)), "accuracy", ORDERED, make=make)


TASKS = {
    "skill": Task("skill", skill, "balanced_accuracy", CLASSIFY, needs="skill"),
    "gripper": Task("gripper position", gripper, "r2", REGRESS, needs="states", applies=_starts_with_metres),
    "object": Task("object position", object_position, "r2", REGRESS, needs="object_pos"),
    "state": Task("robot state", state, "r2", REGRESS, needs="states"),
    "arrow": _made("arrow of time", made.arrow, made.two),
    "order": _made("temporal order", made.order, made.two),
    "speed": _made("speed", made.speed, made.two),
    "direction": _made("direction of motion", made.direction, made.four),
    "phase": Task("phase", phase, "balanced_accuracy", ORDERED, needs="phase"),
}
"""By name. A probe draws by the number of its task: new ones come last."""


def applicable(names: tuple[str, ...], train: Episodes, test: Episodes) -> tuple[list[str], dict[str, str]]:
    """Tasks that the shards can answer, and the reason for each of the others.

    Raises:
        ProbeError: an unknown task, or none that applies.
    """
    if unknown := [n for n in names if n not in TASKS]:
        raise ProbeError(f"no task '{unknown[0]}'; there are: {', '.join(TASKS)}")
    reasons = {}
    for name in names:
        task = TASKS[name]
        if task.needs and task.needs not in train.arrays() & test.arrays():
            reasons[name] = f"n/a: shards carry no label '{task.needs}'"
        elif not task.applies(train.manifest.spec):
            reasons[name] = f"n/a: '{task.needs}' does not start with a position in metres"
    chosen = [n for n in names if n not in reasons]
    if not chosen:
        raise ProbeError("; ".join(f"{n}: {r}" for n, r in reasons.items()) or "no task is asked for")
    return chosen, reasons


def without_labels(names: list[str], files: list[Path]) -> tuple[list[str], dict[str, str]]:
    """Tasks whose labels say something in every one of these clip files, and the reason for each of the others."""
    reasons = {}
    for path in files:
        clips = load_clips(path)
        for name in names:
            targets, rows = TASKS[name].target(clips)
            if not rows.any():
                reasons[name] = "n/a: no clip has a label"
            elif len(targets[rows].unique(dim=0)) < 2:
                reasons[name] = "n/a: all clips have the same label"
    chosen = [n for n in names if n not in reasons]
    if not chosen:
        raise ProbeError("; ".join(f"{n}: {r}" for n, r in reasons.items()))
    return chosen, reasons


class Chance(Probe):
    """The best guess that reads no features: the most frequent class, or the mean."""

    def fit(self, features: Features, targets: Tensor) -> None:
        dummy = DummyClassifier(strategy="most_frequent") if targets.ndim == 1 else DummyRegressor()
        self.model = dummy.fit(torch.zeros(len(features), 1), targets.numpy())
        self.chosen: dict[str, float] = {}

    def predict(self, features: Features) -> Tensor:
        predicted = torch.from_numpy(self.model.predict(torch.zeros(len(features), 1)))
        return predicted if isinstance(self.model, DummyClassifier) else predicted.view(len(features), -1)
