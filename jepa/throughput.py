"""How fast a run goes: seconds of a step, waiting for data, clips and tokens a second, FLOPs, memory."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import psutil  # comes with accelerate
import torch
from torch import nn

from jepa.data.clip import Clip
from jepa.engines.base import agree, processes

PEAKS = {
    "B200": (2250.0, 75.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "GH200": (989.0, 67.0),
    "H800": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "A800": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "RTX A6000": (155.0, 38.7),
    "A40": (150.0, 37.4),
    "L4": (121.0, 30.3),
    "RTX 4090": (165.0, 82.6),
    "RTX 3090": (71.0, 35.6),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
    "MI300X": (1307.0, 163.4),
}
"""Peak TFLOP/s by words of the device's name, the first that fit: dense products in bf16 or fp16, and in fp32."""


class Work(NamedTuple):
    """What a batch asks of this process: FLOPs forward and backward, without what checkpointing does again."""

    clips: int
    tokens: int  # through the target encoder
    flops: float


class Meter:
    """Times the steps of a loop, without a word to the device: reading the loss has waited for it already.

    What is done between `figures` and the next batch (measuring, saving) counts for no step.
    """

    def __init__(
        self,
        device: torch.device,
        precision: str,
        work: Callable[[Any], Work] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._work, self._clock = device, work, clock
        self._peak = peak_tflops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
        self._asked = self._given = clock()

    def feed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; notes how long each was waited for."""
        self._asked = self._clock()
        for batch in batches:
            self._given = self._clock()
            yield batch
            self._asked = self._clock()

    def figures(self, batch: Any) -> dict[str, float]:
        """Of the step of this batch, now that it is done; all processes must ask together.

        `step_s` seconds, of which the share `data_wait` was spent waiting for data; `memory_gib`, on a GPU the most
        that was ever allocated, else what the process holds now: both of the process that is worst off. Of all
        processes together `clips_s` and `tokens_s`; of each device `tflops` (TFLOP/s achieved) and, where its peak is
        known, the share of it, `mfu`.
        """
        seconds = self._clock() - self._asked
        wait, memory = agree([(self._given - self._asked) / seconds, _memory(self._device) / 2**30], self._device)
        figures = {"step_s": seconds, "data_wait": wait}
        if self._work:
            work = self._work(batch)
            figures["clips_s"] = processes() * work.clips / seconds
            figures["tokens_s"] = processes() * work.tokens / seconds
            figures["tflops"] = work.flops / seconds / 1e12
            if self._peak:
                figures["mfu"] = figures["tflops"] / self._peak
        figures["memory_gib"] = memory
        return {f"speed/{name}": value for name, value in figures.items()}


def clip_work(config: Any, objective: nn.Module) -> Callable[[Clip], Work]:
    """What batches of a run ask of a process, from the run's `PretrainConfig` and objective.

    Call it before an engine takes the weights apart: they are counted here.
    """
    from jepa import cost  # which reads the config of a run, the module of which reads this one

    together = min(24, math.ceil(config.batch_size / (processes() * config.loop.accumulate)))
    each = {}
    for frames in {part.frames for part in config.data.parts}:
        grid = objective.encoder.grid(frames, config.data.size, config.data.size)
        parts = cost.step_flops(objective, math.prod(grid), cost.mask_sizes(config, grid, together))
        each[frames] = (math.prod(grid), sum(part.total("none") for part in parts.values()))

    def work(clip: Clip) -> Work:
        clips, frames = clip.frames.shape[:2]
        tokens, flops = each[frames]
        return Work(clips, clips * tokens, clips * flops)

    return work


def peak_tflops(device: str, precision: str) -> float | None:
    """Peak TFLOP/s of a device by its name, in bf16 and fp16 or in fp32; None where it is not known."""
    found = next((peaks for name, peaks in PEAKS.items() if re.search(rf"\b{name}\b", device)), None)
    return found and found[precision == "fp32"]


def _memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
