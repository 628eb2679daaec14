"""The ZeRO engine: DeepSpeed shards AdamW (ZeRO-1), gradients (2), weights (3) over processes, through accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from jepa.engines.base import rank
from jepa.engines.masters import Masters
from jepa.pieces import Pieces, Read, whole

_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Zero:
    """See `jepa.engines.base.Engine`. With bf16 or fp16 the model's weights are that, and AdamW has them in fp32.

    A parameter that gets no gradient in a step goes on by its momentum and is decayed, as a flat group of them is one
    parameter to AdamW; the plain engine lets it be.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trainable: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: float,
        accumulate: int,
    ) -> None:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = 1  # for its own statistics; nothing here depends on it
        config["gradient_accumulation_steps"] = accelerator.gradient_accumulation_steps = accumulate
        config["gradient_clipping"] = clip
        config["zero_force_ds_cpu_optimizer"] = False  # offload keeps torch's AdamW
        self.trainable, self.device = trainable, accelerator.device
        self._unused_parameters = getattr(trainable, "unused_parameters", False)
        self._low = _LOW.get(accelerator.mixed_precision)
        buffers = {name: buffer.clone() for name, buffer in trainable.named_buffers()}
        frozen = {n: p.detach().clone() for n, p in trainable.named_parameters() if not p.requires_grad}
        if self._low:  # inside the engine's own call, which switches autocast off
            trainable.forward = torch.autocast(self.device.type, self._low)(trainable.forward)
        self._engine, _ = accelerator.prepare(trainable.to(self.device), optimizer)
        self.optimizer = self._engine.optimizer
        self._stage3 = self._engine.zero_optimization_partition_weights()
        for name, buffer in trainable.named_buffers():
            buffer.data = buffers[name].to(self.device)  # the engine has cast them too
        self._masters = Masters(self.optimizer, trainable, frozen, self._stage3)

    def add_gradient(self, batch: Any, of: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self._engine.set_gradient_accumulation_boundary(last)
        loss, metrics = self._engine(batch.to(self.device))
        self._engine.backward(loss / of, scale_wrt_gas=False)
        return loss, metrics

    def grad_norm(self) -> float:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        zero = self.optimizer
        scaled = combine_grad_norm_groups(zero._get_norm_groups()) if self._stage3 else zero.scaled_global_norm()
        return float(scaled) / zero.loss_scale

    def step(self) -> None:
        self._engine.step()
        self._forget()

    def skip(self, overflow: bool) -> bool:
        zero = self.optimizer
        with _forced_overflow(zero, self._stage3):
            self._engine.step()
        self._forget()
        scaler = zero.loss_scaler
        mended = overflow and scaler.dynamic and scaler.cur_scale > 1
        if mended:
            scaler.cur_scale, scaler.last_overflow_iter = scaler.cur_scale / 2, scaler.cur_iter
            scaler.cur_iter += 1
        return mended

    def _forget(self) -> None:
        """Zero what DeepSpeed keeps of a gradient: a parameter that the next step leaves out would get it again."""
        if not self._unused_parameters:
            return
        zero = self.optimizer
        if self._stage3:
            zero.grad_partitions_flat_buffer.zero_()
        for flat in zero.fp32_partitioned_groups_flat if self._stage3 else zero.single_partition_of_fp32_groups:
            if flat.grad is not None:  # with offload
                flat.grad.zero_()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """As in the engine's own forward: parameters are gathered on access, and computed with in their precision."""
        self._engine._forward_prologue((), {})
        try:
            with torch.autocast(self.device.type, self._low, enabled=self._low is not None):
                yield
        finally:
            self._engine._forward_epilogue()
            if self._stage3:
                self.optimizer._partition_all_parameters()

    def pieces(self) -> Pieces:
        own, scaler = self._masters.pieces(), self.optimizer.loss_scaler
        if scaler.dynamic and rank() == 0:
            own["engine/loss_scale"] = whole(torch.tensor(float(scaler.cur_scale)))
            own["engine/steps_at_scale"] = whole(torch.tensor(scaler.cur_iter - scaler.last_overflow_iter - 1))
        return own

    def load(self, read: Read) -> None:
        self._masters.load(read)
        scaler, scale, steps = self.optimizer.loss_scaler, read("engine/loss_scale"), read("engine/steps_at_scale")
        if scaler.dynamic and scale is not None and steps is not None:
            scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = scale.item(), int(steps), -1

    def load_moments(self, read: Read) -> None:
        self._masters.load_moments(read)


@contextmanager
def _forced_overflow(zero: Any, stage3: bool) -> Iterator[None]:
    """Inside it DeepSpeed's step finds an overflow: it throws the gradient away and does nothing else."""
    nothing: dict[str, Any] = {"_update_scale": lambda *_: None}
    if stage3:
        found = nothing | {"check_overflow": lambda *_: None, "_get_norm_groups": lambda: [torch.tensor(torch.inf)]}
    else:
        found = nothing | {"check_grad_overflow": True, "has_overflow": lambda *_: True}
    own = {name: value for name, value in vars(zero).items() if name in found}
    vars(zero).update(found)
    try:
        yield
    finally:
        for name in found:
            del vars(zero)[name]
        vars(zero).update(own)
