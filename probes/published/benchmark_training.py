"""The training loop of a benchmark's heads: minibatches of every epoch, the worse half dropped, checkpoints, resume."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from jepa.checkpoint import latest
from jepa.checkpoint_format import CheckpointError, folder_of, step_of
from jepa.checkpoint_writer import Writer
from jepa.engines.base import agree, processes, rank
from jepa.logs import console
from jepa.preemption import Preempted, Preemption
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.benchmark_heads import RankHeads
from jepa.probes.published.encode import Batch, only_read
from jepa.probes.stacked import Outputs
from jepa.probes.sweep import better_half, rungs


def head_generator(seed: int, head: int) -> torch.Generator:
    """What the weights of a head are drawn from: the same on whatever rank it is."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, head)).generate_state(1)[0]))


def minibatches(rows: int, batch: int, epochs: int, seed: int, start: int = 0) -> Iterator[Batch]:
    """Every row once an epoch, shuffled by (seed, epoch), from minibatch `start` on.

    The last minibatch of an epoch may be smaller.
    """
    epoch, first = divmod(start, -(-rows // batch))
    for number in range(epoch, epochs):
        order = torch.from_numpy(np.random.default_rng((seed, number)).permutation(rows))
        for part in order.split(batch)[first:]:
            yield number, part
        first = 0


def train(
    heads: RankHeads,
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    loss: Callable[[Tensor, Outputs, slice], Tensor],
    validate: Callable[[], dict[int, float]],
    steps: int,
    accelerator: Accelerator,
    out: Path,
    *,
    halving: int = 0,
    every: int = 500,
    progress: Callable[[int, str], None] = lambda step, figures: None,
) -> None:
    """Train heads from the newest checkpoint in `out` to `steps`; a checkpoint `every` so many, and at the end.

    `batches(k)` yields rows (B) and their tokens (B, 1, K, D) of steps k+1, k+2, …, a pure function. `loss(rows,
    outputs, part)` is what rows[part] add to the losses (n) of n heads, see `Sweep.step`. `validate()` scores all heads
    that are left, on every rank alike; `halving` times the worse half by it goes, see `rungs`. Rows that could not be
    read are left out of their minibatch. All ranks call this together.

    Raises:
        Preempted: the run was asked to stop; a checkpoint is written.
        CheckpointError: a checkpoint cannot be read or written.
        ProbeError: no row could be read.
    """
    done = go_on(heads, out)
    ahead = [share for share in rungs(halving) if share > done / steps]
    stream, stopped = batches(done), 0
    with (
        Preemption() as asked,
        Writer(out, rank(), processes(), "heads", accelerator.wait_for_everyone) as writer,
    ):
        for step in range(done + 1, steps + 1):
            rows, tokens = next(stream)
            seen, own = only_read(rows, tokens)
            least = float("nan")
            if len(seen):
                least = heads.step(own[:, 0], partial(loss, seen), (step - 1) / steps)
            while ahead and step / steps >= ahead[0]:
                ahead.pop(0)
                if len(heads.left) > 1:
                    heads.keep([heads.left[place] for place in better_half(list(validate().values()))])
            stop, failed = agree([asked.requested, writer.failed], heads.device)
            if failed:
                writer.check()
                raise CheckpointError("another process could not write its checkpoint")
            if step == steps and not heads.steps:
                raise ProbeError(f"none of the clips to fit could be decoded: {out}/unread-fit-*.json says why")
            if step == steps or stop or step % every == 0:
                writer.save(step, heads.pieces(), {"left": heads.left, "steps": heads.steps})
            progress(step, f"{len(heads.left)} heads, loss {least:.3f}")
            if stop and step < steps:
                stopped = step
                break
    accelerator.wait_for_everyone()  # until all have written: a launcher ends those that are slower
    if stopped:
        raise Preempted(stopped)


def go_on(heads: RankHeads, out: Path) -> int:
    """Load the newest whole checkpoint of `out`; returns its step, 0 where there is none."""
    step = 0
    if rank() == 0:
        folder, problems = latest(out)
        for problem in problems:
            console.print(f"[yellow]{problem}", soft_wrap=True)
        step = step_of(folder) if folder else 0
    step = int(agree([step], heads.device)[0])
    if step:
        heads.load(folder_of(out, step))
    return step
