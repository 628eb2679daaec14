"""The plain engine: one process, or several that hold a copy of everything each (DDP), through accelerate."""

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from jepa.engines.base import fitting, moments_of, rank
from jepa.pieces import Pieces, Read, whole


class Plain:
    """See `jepa.engines.base.Engine`. With fp16 or bf16 the model computes by autocast and its weights stay fp32."""

    def __init__(
        self, accelerator: Accelerator, trainable: nn.Module, optimizer: torch.optim.Optimizer, clip: float
    ) -> None:
        self.trainable, self.device = trainable, accelerator.device
        self._accelerator, self._clip = accelerator, clip
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            broadcast_buffers=False,  # no buffer changes in training
            gradient_as_bucket_view=True,
            find_unused_parameters=getattr(trainable, "unused_parameters", False),
        )
        with warnings.catch_warnings():  # what is to come in its place is not in every torch that we run with
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._model, self.optimizer = accelerator.prepare(trainable.to(self.device), optimizer)
        self._trained = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
        self._norm = torch.zeros(())

    def add_gradient(self, batch: Any, of: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with nullcontext() if last else self._accelerator.no_sync(self._model):
            loss, metrics = self._model(batch.to(self.device))
            self._accelerator.backward(loss / of)
        return loss, metrics

    def grad_norm(self) -> float:
        self._accelerator.unscale_gradients()
        self._norm = get_total_norm([p.grad for p in self._trained if p.grad is not None])
        return float(self._norm)

    def step(self) -> None:
        if self._clip:
            clip_grads_with_norm_(self._trained, self._clip, self._norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def skip(self, overflow: bool) -> bool:
        self.optimizer.zero_grad(set_to_none=True)
        scaler = self._accelerator.scaler
        if scaler is None:
            return False
        mended = overflow and scaler.get_scale() > 1
        # Not by its own step: with a fused AdamW nothing tells that it did nothing.
        scaler.update(scaler.get_scale() / (2 if mended else 1))
        if mended:  # the scale is to grow after as many good steps as ever
            scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": 0})
        return mended

    def evaluating(self) -> nullcontext[None]:
        return nullcontext()

    def pieces(self) -> Pieces:
        if rank() > 0:
            return {}
        own = {f"model/{name}": whole(value) for name, value in self.trainable.state_dict().items()}
        for name, parameter in self.trainable.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                own[f"optimizer/{name}/{key}"] = whole(value)
        if (scaler := self._accelerator.scaler) is not None:
            state = scaler.state_dict()
            own["engine/loss_scale"] = whole(torch.tensor(state["scale"]))
            own["engine/steps_at_scale"] = whole(torch.tensor(state["_growth_tracker"]))
        return own

    def load(self, read: Read) -> None:
        state = self.trainable.state_dict()
        self.trainable.load_state_dict({k: fitting(read, f"model/{k}", v.shape) for k, v in state.items()})
        self.load_moments(read)
        scaler, scale, steps = self._accelerator.scaler, read("engine/loss_scale"), read("engine/steps_at_scale")
        if scaler is not None and scale is not None and steps is not None:
            scaler.load_state_dict({**scaler.state_dict(), "scale": scale.item(), "_growth_tracker": int(steps)})

    def load_moments(self, read: Read) -> None:
        self.optimizer.state.clear()
        for name, parameter in self.trainable.named_parameters():
            if parameter.requires_grad and (own := moments_of(read, name, parameter.shape)):
                self.optimizer.state[parameter] = {key: value.to(self.device) for key, value in own.items()}
