"""Action anticipation on EPIC-KITCHENS-100: `jepa probe anticipation PRESET [key=value …]`."""

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from omegaconf import MISSING
from rich.console import Console

from jepa.config import ConfigError, plugin, to_dict
from jepa.engines.launch import launched
from jepa.logs import progress_bar
from jepa.probes.published import anticipation_report
from jepa.probes.published.anticipation_clips import Actions, Observed, find_actions
from jepa.probes.published.anticipation_features import FEATURES, Foresight, make_foresight
from jepa.probes.published.anticipation_row import AnticipationRow, Schedule
from jepa.probes.published.benchmark import PATIENCE
from jepa.probes.published.labelled import read_annotations
from jepa.probes.published.protocol import check_grid, grid, need_at_least
from jepa.status import write_json
from jepa.training import join

CHOICES = {
    "anchor": ("start", "end"),
    "features": FEATURES,
    "augment": ("paper", "none"),
    "cache": ("none", "evaluation"),
}
MAKERS = ("pretrained", "random_init")
FREE = ("out", "workers", "checkpoint_every", "rows")
"""Keys that a run may change and go on: they decide no number."""


@dataclass(frozen=True)
class AnticipationConfig:
    """Attentive probes that say which action follows, from a frozen encoder and its predictor, as V-JEPA 2 evaluates.

    `encoder` is the folder of a pre-training run, or a released model; `out` gets the results. A clip is `frames`
    frames at `fps` a second that end `ahead` seconds before the action's `anchor`: its start, or, as in the reference,
    its end; training draws the seconds from `ahead_train`. `features` are the tokens of encoder, predictor or both; the
    predictor is asked by mask token `mask_index`.

    Each (lr, weight_decay) pair is a head: a pooler of `depth` blocks and `heads` attention heads with a query for
    verb, noun and action each. All are trained for `epochs` on minibatches of `batch` clips, over all processes, at a
    rate that falls from lr to 0 by a cosine; `halving` > 0 drops the worse half of them that many times on the way. The
    best at class-mean recall at 5 of actions, on a share `validation` of the training videos, is chosen; test is read
    once.

    `augment` is paper (random crops, mirrors, RandAugment, erasing) or none. `cache` evaluation keeps the features of
    validation and test on disk. `rows` are pretrained and random_init. `limit` > 0 takes that many actions a side.

    Raises ConfigError for a value outside its range.
    """

    encoder: str = MISSING
    annotations: Any = plugin("jepa.probes.annotations", "epic_kitchens")
    out: str = MISSING
    rows: tuple[str, ...] = ("pretrained",)
    features: str = "both"
    mask_index: int = 1
    size: int = 256
    frames: int = 32
    fps: float = 8.0
    ahead: float = 1.0
    ahead_train: tuple[float, float] = (0.25, 1.75)
    anchor: str = "start"
    augment: str = "paper"
    depth: int = 4
    heads: int = 16
    epochs: int = 20
    batch: int = 128
    lr: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decay: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    halving: int = 0
    cache: str = "none"
    validation: float = 0.1
    limit: int = 0
    seed: int = 0
    workers: int = 8
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        object.__setattr__(self, "ahead_train", tuple(self.ahead_train))  # configs give lists
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"{key} '{getattr(self, key)}' is not one of {', '.join(known)}")
        need_at_least(1, self, ("size", "frames", "depth", "heads", "epochs", "batch", "checkpoint_every"))
        need_at_least(0, self, ("halving", "limit", "workers"))
        check_grid(self.lr, self.weight_decay)
        if self.fps <= 0 or not 0 < self.validation < 1:
            raise ConfigError(f"fps {self.fps:g}, validation {self.validation:g}: above 0, and between 0 and 1")
        if not 0 <= self.ahead_train[0] <= self.ahead_train[1] or self.ahead < 0:
            raise ConfigError(f"ahead {self.ahead:g}, ahead_train {list(self.ahead_train)}: seconds, from 0, rising")
        if not self.rows or (unknown := [row for row in self.rows if row not in MAKERS]):
            raise ConfigError(f"rows: '{unknown[0] if self.rows else ''}' is not one of {', '.join(MAKERS)}")


def run(config: AnticipationConfig) -> dict[str, Any]:
    """The whole protocol for every row; writes and returns `out/anticipation.json`, and `out/report.html` beside it.

    What is done is not done again: finished rows, steps up to the newest checkpoint, cached features. Any number of
    processes that were launched together share the work.

    Raises:
        ProbeError, DataError: annotations or videos. CheckpointError: no such encoder, or another run in `out`.
        ConfigError: an encoder without what is asked for. Preempted: the run was asked to stop, and can go on.
    """
    started, out = time.monotonic(), Path(config.out)
    accelerator = Accelerator(**launched(PATIENCE))
    annotated = read_annotations(config.annotations, config.limit, config.seed)
    actions = find_actions(annotated, config.validation, config.seed)
    rows = []
    with progress_bar(disable=not accelerator.is_main_process) as bar:
        for maker in config.rows:
            foresight = make_foresight(
                maker, config.encoder, config.seed, config.features, config.mask_index, config.fps
            )
            _join(config, actions, foresight, accelerator, out / maker)
            observed = Observed(**{f.name: getattr(config, f.name) for f in fields(Observed)})
            rows.append(
                AnticipationRow(_schedule(config), observed, actions, foresight, out / maker, accelerator, bar).run()
            )
    result = {
        "config": to_dict(config),
        "data": _described(actions),
        "rows": rows,
        "seconds": round(time.monotonic() - started, 1),
    }
    if accelerator.is_main_process:
        write_json(out / "anticipation.json", result)
        anticipation_report.write(result, out)
        anticipation_report.show(result, Console())
    accelerator.wait_for_everyone()
    return result


def _join(
    config: AnticipationConfig, actions: Actions, foresight: Foresight, accelerator: Accelerator, out: Path
) -> None:
    """See that all processes do the same, and claim the folder of a row for it."""
    own = {key: value for key, value in to_dict(config).items() if key not in FREE}
    sides = {"fit": actions.fit, "validation": actions.validation, "test": actions.test}
    join(accelerator, out, own | {"weights": foresight.sha256}, {name: side.digest for name, side in sides.items()})


def _schedule(config: AnticipationConfig) -> Schedule:
    own = {f.name: getattr(config, f.name) for f in fields(Schedule) if f.name != "settings"}
    return Schedule(settings=grid(config.lr, config.weight_decay, start_lr=0.0, warmup=0.0), **own)


def _described(actions: Actions) -> dict[str, Any]:
    sides = {"fit": actions.fit, "validation": actions.validation, "test": actions.test}
    return {
        "actions": {name: len(side) for name, side in sides.items()},
        "videos": {name: len(side.groups.unique()) for name, side in sides.items()},
        "classes": {name: len(names) for name, names in actions.classes.items()},
        "not_in_fit": {
            name: len(names) - len(actions.fit.labels[:, i].unique())
            for i, (name, names) in enumerate(actions.classes.items())
        },
        "missing": {split: list(names) for split, names in actions.missing.items()},
        "unread": actions.unread,
    }
