"""The training loop that pre-training and post-training share: update, log, measure, checkpoint, resume."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from jepa import checkpoint
from jepa.config import ConfigError
from jepa.logs import JsonLines, console, progress_bar
from jepa.optim import OptimConfig, build_adamw, learning_rate, set_learning_rate


@dataclass(frozen=True)
class LoopConfig:
    """How long, and how often to log, measure and save. `threads` > 0 sets torch's CPU threads."""

    steps: int = 1000
    log_every: int = 10
    measure_every: int = 100
    checkpoint_every: int = 500
    threads: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)


def make_accelerator(out: str, threads: int) -> Accelerator:
    """An Accelerator that logs to TensorBoard under `out`; on the CPU where there is no GPU."""
    if threads > 0:  # `accelerate launch` puts one thread on a CPU process
        torch.set_num_threads(threads)
    Path(out).mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with="tensorboard", project_dir=out)
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
) -> None:
    """Train `trainable`, whose forward is the loss, from the newest checkpoint of `out` to `config.steps`.

    `batches(k)` yields the batches of steps k+1, k+2, …; a pure function, so that a resumed run sees what an
    uninterrupted one would. `measure()` gives figures of the model at step 0 and every `measure_every`.
    """
    named = [(n, p) for n, p in trainable.named_parameters() if p.requires_grad]
    optimizer = build_adamw(named, config.optim)
    done = _resume(out, trainable, optimizer)
    model, prepared = accelerator.prepare(trainable.to(accelerator.device), optimizer)
    after_step = getattr(trainable, "after_step", lambda step, total: None)
    lead = accelerator.is_main_process
    with (
        progress_bar(disable=not lead) as bar,
        JsonLines(out / "log.jsonl", done or -1) if lead else nullcontext() as log,
    ):
        if log and done == 0:
            log.write({"step": 0, **measure()})
        task = bar.add_task(name, total=config.steps, completed=done, figures="")
        for step, batch in enumerate(batches(done), start=done + 1):
            record = _update(accelerator, model, named, prepared, batch.to(accelerator.device), config, step)
            after_step(step, config.steps)
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


def _update(
    accelerator: Accelerator,
    model: nn.Module,
    named: list[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    batch: Any,
    config: LoopConfig,
    step: int,
) -> dict[str, float]:
    """Forward, backward, clip, AdamW. Raises FloatingPointError before a non-finite update."""
    lr = learning_rate(config.optim, step, config.steps)
    set_learning_rate(optimizer, lr)
    loss, metrics = model(batch)
    accelerator.backward(loss)
    norm = float(accelerator.clip_grad_norm_([p for _, p in named], config.optim.clip or math.inf))
    if not (math.isfinite(loss.item()) and math.isfinite(norm)):
        raise FloatingPointError(
            f"step {step}: loss {loss.item():.4g}, gradient norm {norm:.4g}; nothing was updated. Lower "
            "loop.optim.lr or set loop.optim.clip, with another out=…"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.item(), "lr": lr, "grad_norm": norm, **{k: v.item() for k, v in metrics.items()}}


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
