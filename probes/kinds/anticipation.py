"""Anticipation probe: three queries read verb, noun and action off the tokens, by focal loss (V-JEPA 2, EK100)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from jepa.models.pooler import build_anticipation_classifier
from jepa.probes.annotations.base import UNSEEN
from jepa.probes.attentive_heads import HeadsConfig, device, minibatches, train
from jepa.probes.kinds.base import Features, Probe, channel_statistics, split_episodes
from jepa.probes.metrics import balanced_accuracy
from jepa.probes.stacked import Outputs
from jepa.probes.sweep import Setting, Sweep

NAMES = ("verb", "noun", "action")
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (Lin et al., 2017)
GUESSES = 5  # that a clip has in class-mean recall


@dataclass(frozen=True)
class Config(HeadsConfig):
    """The heads, and how they are trained; weight decays are the reference's for EPIC-KITCHENS-100."""

    weight_decay: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)


def build(config: Config, generator: np.random.Generator) -> "Anticipation":
    """An unfitted probe."""
    return Anticipation(config, generator)


class Anticipation(Probe):
    """Keeps the head of the best class-mean recall at 5 of actions on held-out episodes.

    Targets are (B, 3): verb, noun and action, each a class or `UNSEEN`.
    """

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, K, D), (B, 3)
        c = self.config
        self.mean, self.std = channel_statistics(features.values)
        fit, held_out = (
            mask.nonzero()[:, 0] for mask in split_episodes(features.episodes, c.validation, self.generator)
        )
        generator = torch.Generator().manual_seed(int(self.generator.integers(2**31)))
        classes = (targets.amax(0) + 1).tolist()
        settings = [Setting(lr, decay) for lr, decay in product(c.lr, c.weight_decay)]
        width = features.values.shape[-1]
        shape = (width, classes, c.depth, c.heads)
        heads = [build_anticipation_classifier(*shape, generator).to(device()) for _ in settings]
        sweep = self.sweep = Sweep(heads, settings)

        def update(rows: Tensor, share: float) -> None:
            labels = targets[fit[rows]]
            sweep.step(self._read(features, fit[rows]), lambda found, part: focal_loss(found, labels[part]), share)

        def validate() -> Tensor:
            found = [hits(sweep.predict(self._read(features, rows)), targets[rows]) for rows in held_out.split(c.batch)]
            return torch.tensor(class_means(torch.cat(found, -1)[:, -1], targets[held_out, -1]))

        train(sweep, minibatches(len(fit), c.batch, c.epochs, generator), update, validate, c.halving)
        scores = validate()
        self.best = int(scores.argmax())
        setting = sweep.settings[self.best]
        self.chosen = {
            "lr": setting.lr,
            "weight_decay": setting.weight_decay,
            "validation": float(scores[self.best]),
        }

    def predict(self, features: Features) -> Tensor:
        """Verb, noun and action (B, 3) int64."""
        return self.predict_all(features)[self.best]

    def predict_all(self, features: Features) -> list[Tensor]:
        """(B, 3) by each head that was trained to the end; what they score is no basis for a choice."""
        parts = [
            torch.stack([o.argmax(-1) for o in self._outputs(features, rows)], -1) for rows in self._rows(features)
        ]
        return list(torch.cat(parts, 1).cpu())

    def score(self, features: Features, targets: Tensor) -> dict[str, float]:
        """Of each of verb, noun and action: accuracy, and class-mean recall at 5."""
        parts = [self._outputs(features, rows) for rows in self._rows(features)]
        outputs = [torch.cat([part[i][self.best].cpu() for part in parts]) for i in range(len(NAMES))]
        found = {}
        for i, (name, said) in enumerate(zip(NAMES, outputs, strict=True)):
            known = targets[:, i] != UNSEEN
            found[f"{name}_accuracy"] = float((said.argmax(1) == targets[:, i])[known].float().mean())
            hit = _in_first(said[None], targets[:, i])
            found[f"{name}_recall_at_5"] = class_means(hit, targets[:, i])[0]
        return found

    def _rows(self, features: Features) -> Sequence[Tensor]:
        return torch.arange(len(features)).split(self.config.batch)

    def _outputs(self, features: Features, rows: Tensor) -> Outputs:
        return self.sweep.predict(self._read(features, rows))

    def _read(self, features: Features, rows: Tensor) -> Tensor:
        """Standardised tokens (b, K, D) of some rows; of features on disk no others are read."""
        return (features.values[rows] - self.mean) / self.std


def focal_loss(outputs: Outputs, labels: Tensor) -> Tensor:
    """Focal loss of each head: outputs, three of (n, B, C), labels (B, 3) -> (n), summed over classes and clips.

    Each class is a yes or no of its own. A label that is `UNSEEN` asks nothing.
    """
    from torchvision.ops import sigmoid_focal_loss

    total: Tensor | float = 0.0
    for output, label in zip(outputs, labels.to(outputs[0].device).T, strict=True):
        known = label != UNSEEN
        truth = (label[known, None] == torch.arange(output.shape[-1], device=label.device)).to(output.dtype)
        said = output[:, known]
        total = total + sigmoid_focal_loss(said, truth.expand_as(said), ALPHA, GAMMA).sum((1, 2))
    assert isinstance(total, Tensor)
    return total


def hits(outputs: Outputs, labels: Tensor) -> Tensor:
    """Whether the true class is among a head's first five: three (n, B, C), labels (B, 3) -> (n, 3, B), on the CPU."""
    return torch.stack([_in_first(o, label) for o, label in zip(outputs, labels.T, strict=True)], dim=1)


def class_means(hit: Tensor, labels: Tensor) -> list[float]:
    """Class-mean recall of each head: hits (n, B), labels (B) -> n numbers, over the classes that have a clip."""
    known = labels != UNSEEN
    if not known.any():
        return [0.0] * len(hit)
    clips = torch.bincount(labels[known]).double().expand(len(hit), -1)
    right = torch.zeros_like(clips).index_add(1, labels[known], hit[:, known].double())
    return balanced_accuracy(torch.cat((right, clips), dim=1).numpy()).tolist()


def _in_first(output: Tensor, label: Tensor) -> Tensor:
    """(n, B, C), (B) -> (n, B) bool; never where a head's numbers are not finite."""
    best = output.topk(min(GUESSES, output.shape[-1]), dim=-1).indices
    found = (best == label.to(output.device)[:, None]).any(-1)
    return (found & output.isfinite().all(-1)).cpu()
