"""One encoder through anticipation: its tokens, heads trained and chosen on validation videos, test read once."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import Progress
from torch import Tensor

from jepa.engines.base import agree, processes, rank
from jepa.models.pooler import build_anticipation_classifier
from jepa.probes.kinds.anticipation import NAMES, class_means, focal_loss, hits
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.anticipation_clips import ActionClips, Actions, Observed
from jepa.probes.published.anticipation_features import Foresight
from jepa.probes.published.anticipation_scores import best_on_test, summary, write
from jepa.probes.published.benchmark_heads import RankHeads
from jepa.probes.published.benchmark_training import head_generator, minibatches, train
from jepa.probes.published.encode import Tokens, keep, only_read
from jepa.probes.published.labelled import Side
from jepa.probes.published.protocol import check_heads
from jepa.probes.published.reading import Source, unread
from jepa.probes.sweep import Setting
from jepa.status import write_json


@dataclass(frozen=True)
class Schedule:
    """How heads are trained; see `AnticipationConfig`."""

    settings: tuple[Setting, ...]
    depth: int
    heads: int
    epochs: int
    batch: int
    halving: int
    cache: str
    seed: int
    workers: int
    checkpoint_every: int


class AnticipationRow:
    """One encoder's part, kept in the folder `out`: heads, predictions, hardest clips, and `result.json`.

    Raises ConfigError for heads that its tokens cannot be read by.
    """

    def __init__(
        self,
        schedule: Schedule,
        observed: Observed,
        actions: Actions,
        foresight: Foresight,
        out: Path,
        accelerator: Accelerator,
        bar: Progress,
    ) -> None:
        self.schedule, self.observed, self.actions, self.out = schedule, observed, actions, out
        self.foresight, self.accelerator, self.bar = foresight, accelerator, bar
        foresight.model.to(accelerator.device)
        check_heads(foresight.width, schedule.depth, schedule.heads)

    def run(self) -> dict[str, Any]:
        """Train, choose, test; a row that is done is read from `out`. All ranks call this together.

        Raises:
            CheckpointError, ProbeError, Preempted: see `train` and `keep`; or no clip of a side can be decoded.
        """
        result = self.out / "result.json"
        if agree([float(not result.is_file())], self.accelerator.device)[0] == 0:
            return json.loads(result.read_text())
        s, labels = self.schedule, self.actions.fit.labels
        fit = self._source("fit", self.actions.fit, training=True)
        validation = self._source("validation", self.actions.validation)
        shape = (self.foresight.width, [len(self.actions.classes[name]) for name in NAMES], s.depth, s.heads)
        heads = RankHeads(
            lambda i: build_anticipation_classifier(*shape, head_generator(s.seed, i)), s.settings, self.accelerator
        )
        steps = s.epochs * math.ceil(len(labels) / s.batch)
        line = self.bar.add_task(f"{self.out.name}: train", total=steps, figures="")
        train(
            heads,
            lambda start: fit(minibatches(len(labels), s.batch, s.epochs, s.seed, start)),
            lambda rows, outputs, part: focal_loss(outputs, labels[rows[part]]),
            lambda: self._recall(heads, validation),
            steps,
            self.accelerator,
            self.out,
            halving=s.halving,
            every=s.checkpoint_every,
            progress=lambda step, figures: self.bar.update(line, completed=step, figures=figures),
        )
        found = self._recall(heads, validation)
        chosen = max(found, key=lambda i: found[i])
        row = {
            "row": self.out.name,
            "heads": len(heads.settings),
            "mask_token": self.foresight.said(),
            "chosen": heads.setting(chosen) | {"validation": found[chosen]},
            **self._test(heads, chosen),
            "unread": unread(self.out, self.accelerator),
        }
        if self.accelerator.is_main_process:
            write_json(result, row)
        self.accelerator.wait_for_everyone()
        return row

    def _source(self, side: str, actions: Side, training: bool = False) -> Source:
        """Tokens of one side, kept on disk if it is not trained on and `cache` says so."""
        s, seen = self.schedule, self.observed
        tokens = Tokens(
            ActionClips(actions, seen, s.seed, training),
            self.foresight,
            (1, self.foresight.tokens(seen.frames, seen.size), self.foresight.width),
            actions.names,
            self.out / f"unread-{side}-{rank()}.json",
            s.workers,
            self.accelerator,
        )
        if training or s.cache == "none":
            return tokens
        line = self.bar.add_task(f"{self.out.name}: encode {side}", total=len(actions), figures="")
        key = {
            "foresight": self.foresight.sha256,
            "actions": actions.digest,
            "observed": {k: v for k, v in asdict(seen).items() if k not in ("ahead_train", "augment")},
            "device": self.accelerator.device.type,  # which decides the precision
        }
        folder = self.out.parent / "features"
        return keep(tokens, folder, key, s.batch, lambda done: self.bar.update(line, completed=done))

    def _recall(self, heads: RankHeads, validation: Source) -> dict[int, float]:
        """Class-mean recall at 5 of actions of every head that is left; 0 for one that has diverged."""
        labels, found = self.actions.validation.labels, []
        kept = []
        for rows, tokens in self._in_order(validation, labels):
            kept.append(rows)
            if (outputs := heads.predict(tokens)) is not None:
                found.append(hits(outputs, labels[rows])[:, -1])
        if not kept:
            raise ProbeError(f"no validation clip could be decoded: {self.out}/unread-validation-*.json says why")
        means = class_means(torch.cat(found, 1), labels[torch.cat(kept), -1]) if found else []
        return heads.together(means)

    def _in_order(self, source: Source, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, tokens (B, K, D)) of all rows that could be read."""
        for rows, tokens in source((0, part) for part in torch.arange(len(labels)).split(self.schedule.batch)):
            seen, readable = only_read(rows, tokens)
            if len(seen):
                yield seen, readable[:, 0]

    def _test(self, heads: RankHeads, chosen: int) -> dict[str, Any]:
        """The one pass over test, with all heads that are left; predictions of the chosen one are written."""
        test, device = self.actions.test, self.accelerator.device
        source = self._source("test", test)
        line = self.bar.add_task(f"{self.out.name}: test", total=len(test), figures="")
        sizes = [len(self.actions.classes[name]) for name in NAMES]
        found, parts, kept = [], [], []
        for rows, tokens in self._in_order(source, test.labels):
            own = torch.zeros(len(rows), sum(sizes), device=device)
            if (outputs := heads.predict(tokens)) is not None:
                found.append(hits(outputs, test.labels[rows]))
                if chosen in heads.own:
                    own = torch.cat([o[heads.own.index(chosen)] for o in outputs], dim=1).sigmoid()
            # The other ranks add zeros: only one of them has this head.
            parts.append((self.accelerator.reduce(own) if processes() > 1 else own).cpu())
            kept.append(rows)
            self.bar.advance(line, len(rows))
        if not kept:
            raise ProbeError(f"no test clip could be decoded: {self.out}/unread-test-*.json says why")
        seen, said = torch.cat(kept), torch.cat(parts).split(sizes, dim=1)
        scored, named = test.rows(seen), dict(zip(NAMES, said, strict=True))
        scores = summary(named, scored, self.schedule.seed)
        if self.accelerator.is_main_process:
            clips = ActionClips(scored, self.observed, self.schedule.seed, training=False)
            write(named, scored, seen, self.actions.classes, clips, self.out)
        hit = torch.cat(found, -1) if found else torch.zeros(0, len(NAMES), len(seen), dtype=torch.bool)
        return {**scores, "best_on_test": best_on_test(heads.together, hit, scored.labels)}
