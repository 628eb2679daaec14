"""The training loop that pre-training and post-training share: update, log, measure, checkpoint, resume."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from jepa import checkpoint
from jepa.config import ConfigError
from jepa.logs import JsonLines, console, progress_bar
from jepa.optim import OptimConfig, build_adamw, horizon, set_schedule
from jepa.update import update

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Our names -> accelerate's."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how precisely, and how often to log, measure and save.

    A step's batch goes through the model in `accumulate` equal slices, for a GPU that it does not fit at once: the
    gradient is the same, save where an objective or mask sampler (`size: batch_min`) looks across the batch.
    `precision` is fp32, or bf16 or fp16 by autocast; the weights stay fp32. A launcher's own choice does not count.
    `compile` has torch compile the trainable's parts. `threads` > 0 sets torch's CPU threads.

    Raises ConfigError for a value outside its range.
    """

    steps: int = 1000
    accumulate: int = 1
    precision: str = "fp32"
    compile: bool = False
    log_every: int = 10
    measure_every: int = 100
    checkpoint_every: int = 500
    threads: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"loop.precision '{self.precision}' is not one of {', '.join(PRECISIONS)}")
        if self.steps < 1:
            raise ConfigError(f"loop.steps {self.steps}: a run has at least 1 step")
        if self.accumulate < 1:
            raise ConfigError(f"loop.accumulate {self.accumulate}: a batch has at least 1 slice")


def make_accelerator(out: str, threads: int, precision: str = "fp32") -> Accelerator:
    """An Accelerator that logs to TensorBoard under `out`; on the CPU where there is no GPU.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    if threads > 0:  # `accelerate launch` puts one thread on a CPU process
        torch.set_num_threads(threads)
    cpu = not torch.cuda.is_available()
    if cpu and precision == "fp16":
        raise ConfigError("loop.precision fp16 needs a GPU; use fp32")
    if cpu and precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        console.print("[yellow]loop.precision bf16: this CPU has no bf16 instructions; fp32 is 50 times faster or more")
    Path(out).mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=cpu, mixed_precision=PRECISIONS[precision], log_with="tensorboard", project_dir=out)
    accelerator.init_trackers("tensorboard")
    return accelerator


def required(value: str, key: str) -> str:
    """`value`, or a ConfigError that asks for `key`."""
    if not value:
        raise ConfigError(f"'{key}' must be given, as {key}=PATH")
    return value


def train(
    name: str,
    trainable: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    measure: Callable[[], dict[str, float]],
    accelerator: Accelerator,
    config: LoopConfig,
    out: Path,
    moments: dict[str, Tensor] | None = None,
) -> None:
    """Train `trainable`, whose forward is the loss, from the newest checkpoint of `out` to `config.steps`.

    `batches(k)` yields the batches of steps k+1, k+2, …; a pure function, so that a resumed run sees what an
    uninterrupted one would. `measure()` gives figures of the model at step 0 and every `measure_every`. A fresh run
    begins with the optimiser's `moments` of `checkpoint.load`, if given.
    """
    optimizer = build_adamw(((n, p) for n, p in trainable.named_parameters() if p.requires_grad), config.optim)
    done = _resume(out, trainable, optimizer)
    if done == 0 and moments:
        checkpoint.load_moments(trainable, optimizer, moments)
    lead, end = accelerator.is_main_process, horizon(config.optim, config.steps)
    if lead and config.steps <= config.optim.warmup:
        console.print(f"[yellow]the run's {config.steps} steps end inside the warm-up of {config.optim.warmup}")
    if config.compile:  # not the whole: it draws masks by numpy between its parts
        for part in trainable.children():
            part.compile(dynamic=False)
    model, prepared = accelerator.prepare(trainable.to(accelerator.device), optimizer)
    after_step = getattr(trainable, "after_step", lambda step, total: None)
    with (
        progress_bar(disable=not lead) as bar,
        JsonLines(out / "log.jsonl", done or -1) if lead else nullcontext() as log,
    ):
        if log and done == 0:
            log.write({"step": 0, **measure()})
        task = bar.add_task(name, total=config.steps, completed=done, figures="")
        for step, batch in enumerate(batches(done), start=done + 1):
            set_schedule(prepared, config.optim, step, config.steps)
            record = update(accelerator, model, prepared, batch, config.accumulate, config.optim.clip, step)
            if math.isfinite(record["grad_norm"]):  # else an overflow of fp16, and nothing was updated
                after_step(step, end)
            last = step == config.steps
            if log:
                if step % config.measure_every == 0 or last:
                    record |= measure()
                log.write({"step": step, **record})
                if step % config.log_every == 0 or last:
                    accelerator.log(record, step=step)
                    bar.update(task, figures=_figures(record))
                if step % config.checkpoint_every == 0 or last:
                    checkpoint.save(out, step, trainable, optimizer)
            bar.advance(task)
    accelerator.end_training()


def _resume(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest valid checkpoint of a run into place; returns its step, 0 for a fresh run."""
    folder, problems = checkpoint.latest(out)
    for problem in problems:
        console.print(f"[yellow]{problem}")
    if folder is None:
        return 0
    step = checkpoint.restore(folder, model, optimizer)
    console.print(f"resuming {out} from step {step}")
    return step


def _figures(record: dict[str, float]) -> str:
    shown = [(k, v) for k, v in record.items() if k == "loss" or "/" in k]
    return "  ".join(f"{k.split('/')[-1]} {v:.3f}" for k, v in shown[:5])
