"""The training loop that pre-training and post-training share: update, log, measure, checkpoint, resume."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from jepa.checkpoint import CheckpointError
from jepa.checkpoint_writer import Writer
from jepa.engines.base import Engine, agree, processes, rank
from jepa.engines.launch import engine as make_engine
from jepa.journal import Journal
from jepa.logs import console
from jepa.optim import build_adamw, horizon, set_schedule
from jepa.pieces import Read
from jepa.preemption import Preempted, Preemption
from jepa.resume import Setbacks, go_on
from jepa.status import Status
from jepa.throughput import Meter, Work
from jepa.training import LoopConfig
from jepa.update import NOT_UPDATED, update
from jepa.watchdog import Watchdog


def train(
    name: str,
    trainable: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    measure: Callable[[int], dict[str, float]],
    accelerator: Accelerator,
    config: LoopConfig,
    out: Path,
    *,
    moments: Read | None = None,
    work: Callable[[Any], Work] | None = None,
) -> None:
    """Train `trainable`, whose forward is the loss, from the newest checkpoint of `out` to `config.steps`.

    `batches(k)` yields the batches of steps k+1, k+2, …; a pure function, so that a resumed run sees what an
    uninterrupted one would. `measure(step)` gives figures of the model, at step 0 and every `measure_every`; all
    processes call it together. A fresh run begins with AdamW's `moments` if they are given. `work` says what a batch
    costs. Where there is a figure `probe/…`, a checkpoint is written; that of the highest stays (of the first, if
    there are several).

    Raises:
        FloatingPointError: loss or gradient is not finite, and there is no going back, or it does not help.
        Preempted: the run was asked to stop; a checkpoint is written.
        CheckpointError, LostRank: a checkpoint cannot be read or written; another process is gone.
    """
    out.mkdir(parents=True, exist_ok=True)
    engine = _engine(trainable, accelerator, config)
    done, kept = go_on(out, engine)
    if done == 0 and moments:
        engine.load_moments(moments)
    lead = accelerator.is_main_process
    if lead:
        _greet(out, config, done)
    after_step = getattr(trainable, "after_step", lambda step, total: None)
    meter = Meter(engine.device, config.precision, work)
    with (
        Preemption() as asked,
        Journal(name, out, config.steps, accelerator, config.alarms, done) as journal,
        Status(out, done) if lead else nullcontext() as status,
        _writer(out, accelerator, engine, config) as writer,
        Watchdog(out, rank(), processes(), config.timeout, done) as watchdog,
    ):

        def figures(step: int) -> dict[str, float]:
            watchdog.beat(step)
            with engine.evaluating():
                return measure(step)

        if done == 0:
            journal.write(0, figures(0), show=False)
        setbacks = Setbacks(out, engine, config.max_nonfinite, kept.get("setbacks", {}))
        step, stream = done, meter.feed(batches(done))
        while step < config.steps:
            step += 1
            watchdog.beat(step)
            batch = next(stream)
            watchdog.beat(step)  # a process that waits for its data is behind those that wait for it
            if setbacks.passes_over(step):
                record = {"passed_over": 1.0}
            else:
                set_schedule(engine.optimizer, config.optim, step, config.steps)
                record = update(engine, batch, config.accumulate, journal.is_spike if config.skip_spikes else None)
                if not record.keys() & NOT_UPDATED:
                    after_step(step, horizon(config.optim, config.steps))
            record |= meter.figures(batch)
            last = step == config.steps
            if last or step % config.measure_every == 0:
                record |= figures(step)
            journal.write(step, record, show=last or step % config.log_every == 0)
            if setbacks.too_many(step, record):
                _written(writer, engine)
                step, why = setbacks.go_back(step)
                journal.go_back(step, why)
                stream = meter.feed(batches(step))
                continue
            if status:
                status.step = step
            stop, failed = agree([asked.requested, writer.failed], engine.device)
            if failed:
                writer.check()
                raise CheckpointError("another process could not write its checkpoint")
            score = next((value for key, value in record.items() if key.startswith("probe/")), None)
            due = step % config.checkpoint_every == 0 or score is not None
            if last or stop or (due and not setbacks.row):
                writer.save(step, engine.pieces(), {"setbacks": setbacks.state}, score)
            if stop or last:
                _written(writer, engine)
            if stop and not last:
                raise Preempted(step)


def _engine(trainable: nn.Module, accelerator: Accelerator, config: LoopConfig) -> Engine:
    optimizer = build_adamw(((n, p) for n, p in trainable.named_parameters() if p.requires_grad), config.optim)
    if config.compile:  # not the whole: it draws masks by numpy between its parts
        for part in trainable.children():
            part.compile(dynamic=False)
    return make_engine(accelerator, trainable, optimizer, config.optim.clip, config.accumulate)


def _writer(out: Path, accelerator: Accelerator, engine: Engine, config: LoopConfig) -> Writer:
    return Writer(
        out,
        rank(),
        processes(),
        engine=type(engine).__name__.lower(),
        barrier=accelerator.wait_for_everyone,
        keep=config.keep,
        keep_every=config.keep_every,
        timeout=config.timeout,
    )


def _written(writer: Writer, engine: Engine) -> None:
    """Wait until the last checkpoint is complete, all processes together: a launcher ends those that are slower.

    Raises:
        CheckpointError: in every process, where one could not write its part.
    """
    failure: CheckpointError | None = None
    try:
        writer.wait()
    except CheckpointError as error:
        failure = error
    if agree([float(failure is not None)], engine.device)[0]:
        raise failure or CheckpointError("another process could not write its checkpoint")


def _greet(out: Path, config: LoopConfig, done: int) -> None:
    if done:
        console.print(f"resuming {out} from step {done}")
    if config.steps <= config.optim.warmup:
        console.print(f"[yellow]the run's {config.steps} steps end inside the warm-up of {config.optim.warmup}")
