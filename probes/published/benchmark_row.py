"""One encoder through a whole protocol: its tokens, heads trained and chosen on validation videos, test read once."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor

from jepa.engines.base import agree, rank
from jepa.logs import console
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder
from jepa.models.pooler import build_classifier
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published import hardest, scores
from jepa.probes.published.benchmark_heads import RankHeads
from jepa.probes.published.benchmark_training import head_generator, minibatches, train
from jepa.probes.published.encode import Tokens, encode_views, keep
from jepa.probes.published.labelled import Clips, Labelled, Side
from jepa.probes.published.protocol import Protocol, tokens_of_a_view
from jepa.probes.published.reading import Source, read_side, unread
from jepa.probes.stacked import Outputs
from jepa.runs import encoder_sha256
from jepa.status import write_json

PREDICTIONS = "predictions.safetensors"
HARDEST = 24  # videos on the contact sheet


class Row:
    """One encoder's part of a benchmark, kept in the folder `out`: heads, predictions on test, and `result.json`.

    Raises ConfigError for a protocol that the encoder cannot take.
    """

    def __init__(
        self,
        protocol: Protocol,
        data: Labelled,
        encoder: Encoder | ImageEncoder,
        out: Path,
        accelerator: Accelerator,
        bar: Progress,
    ) -> None:
        self.protocol, self.data, self.out, self.accelerator, self.bar = protocol, data, out, accelerator, bar
        self.encoder = encoder.to(accelerator.device)
        self.tokens = tokens_of_a_view(encoder, protocol)
        self.batch = max(1, protocol.batch // protocol.shown.views)  # of tests: as many tokens as in training

    def run(self) -> dict[str, Any]:
        """Train, choose, test; a row that is done is read from `out`. All ranks call this together.

        Raises:
            CheckpointError, ProbeError, Preempted: see `train` and `keep`; or no video of a side can be decoded.
        """
        result = self.out / "result.json"
        if agree([float(not result.is_file())], self.accelerator.device)[0] == 0:
            return json.loads(result.read_text())
        p, data = self.protocol, self.data
        fit = self._source("fit", data.fit, training=True)
        validation = self._source("validation", data.validation)
        shape = (self.encoder.embed_dim, len(data.classes), p.depth, p.heads)
        heads = RankHeads(lambda i: build_classifier(*shape, head_generator(p.seed, i)), p.settings, self.accelerator)
        steps = p.epochs * math.ceil(len(data.fit) / p.batch)
        line = self.bar.add_task(f"{self.out.name}: train", total=steps, figures="")

        def validate() -> dict[int, float]:
            found, rows, _ = read_side(
                heads, validation, data.validation, self.batch, len(data.classes), self.accelerator
            )
            self._need(rows, "validation")
            return found

        train(
            heads,
            lambda start: fit(minibatches(len(data.fit), p.batch, p.epochs, p.seed, start)),
            lambda rows, outputs, part: _cross_entropy(outputs, data.fit.labels[rows[part]]) / len(rows),
            validate,
            steps,
            self.accelerator,
            self.out,
            halving=p.halving,
            every=p.checkpoint_every,
            progress=lambda step, figures: self.bar.update(line, completed=step, figures=figures),
        )
        summary = json.loads(json.dumps(self._test(heads, validate())))  # as it will be read the next time
        if self.accelerator.is_main_process:
            write_json(result, summary)
        self.accelerator.wait_for_everyone()
        return summary

    def _source(self, side: str, videos: Side, training: bool = False) -> Source:
        """Tokens of one side, kept on disk where `cache` says so."""
        p, accelerator = self.protocol, self.accelerator
        tokens = Tokens(
            Clips(videos, p.shown, p.seed, training),
            lambda clips: encode_views(self.encoder, p.levels, clips),
            (1 if training else p.shown.views, self.tokens, self.encoder.embed_dim),
            videos.names,
            self.out / f"unread-{side}-{rank()}.json",
            p.workers,
            accelerator,
        )
        if p.cache == "none" or (training and p.cache == "evaluation"):
            return tokens
        line = self.bar.add_task(f"{self.out.name}: encode {side}", total=len(videos), figures="")
        key = {
            "encoder": encoder_sha256(self.encoder),
            "videos": videos.digest,
            "views": {k: v for k, v in asdict(p.shown).items() if k not in ("augment", "hflip")},  # none here is
            "levels": p.levels,
            "training": training,
            "device": accelerator.device.type,  # which decides the precision
        }
        if accelerator.is_main_process:
            gb = len(videos) * math.prod(tokens.shape) * torch.float16.itemsize / 1e9
            console.print(f"{self.out.name}: features of {side} are kept in {self.out.parent}/features, {gb:.3g} GB")
        return keep(
            tokens,
            self.out.parent / "features",
            key,
            self.batch,
            lambda done: self.bar.update(line, completed=done),
        )

    def _test(self, heads: RankHeads, validation: dict[int, float]) -> dict[str, Any]:
        """The one pass over test, with all heads that are left, and what the one chosen on validation says."""
        test, p = self.data.test, self.protocol
        chosen = max(validation, key=lambda i: validation[i])
        source = self._source("test", test)
        line = self.bar.add_task(f"{self.out.name}: test", total=len(test), figures="")
        on_test, rows, said = read_side(
            heads,
            source,
            test,
            self.batch,
            len(self.data.classes),
            self.accelerator,
            chosen,
            lambda done: self.bar.update(line, completed=done),
        )
        self._need(rows, "test")
        if self.accelerator.is_main_process:
            self._write(said, rows)
        seen, probabilities = test.rows(rows), said.numpy()
        labels, groups = seen.labels.numpy(), seen.groups.numpy()
        best = max(on_test, key=lambda i: on_test[i])
        return {
            "row": self.out.name,
            "heads": len(heads.settings),
            "chosen": heads.setting(chosen) | {"validation": validation[chosen]},
            "test": scores.summary(probabilities, labels, groups, np.random.default_rng(p.seed)),
            "best_on_test": heads.setting(best) | {"top1": on_test[best], "of_heads": len(on_test)},
            "per_class": scores.per_class(probabilities, labels, self.data.classes),
            "unread": unread(self.out, self.accelerator),
        }

    def _need(self, rows: Tensor, side: str) -> None:
        if not len(rows):
            raise ProbeError(f"no {side} video could be decoded: {self.out}/unread-{side}-*.json says why")

    def _write(self, said: Tensor, rows: Tensor) -> None:
        """What the chosen head says of the test videos that were read, and those it is most surely wrong about."""
        seen, middle = self.data.test.rows(rows), self.protocol.shown.views // 2
        save_file(
            {"probabilities": said, "labels": seen.labels, "groups": seen.groups, "rows": rows}, self.out / PREDICTIONS
        )
        found = hardest.hardest(said.numpy(), seen.labels.numpy(), self.data.classes, HARDEST)
        clips = Clips(seen, self.protocol.shown, seed=0, training=False)
        hardest.write(found, seen.names, lambda i: clips(0, i)[0][middle].flatten(0, 1), self.out, "hardest")


def _cross_entropy(outputs: Outputs, labels: Tensor) -> Tensor:
    """Sums (n) over the rows of outputs (n, B, C)."""
    assert isinstance(outputs, Tensor)
    targets = labels.to(outputs.device).repeat(len(outputs))
    return F.cross_entropy(outputs.flatten(0, 1), targets, reduction="none").view(len(outputs), -1).sum(1)
