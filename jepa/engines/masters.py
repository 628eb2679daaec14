"""The fp32 weights and moments of a DeepSpeed run: a process's part of them, saved, loaded, and followed by the EMA."""

from typing import Any

import torch
from torch import Tensor, nn

from jepa.engines.base import MOMENTS, fitting, moments_of, rank
from jepa.engines.shards import Shard, moments_at, own_span, refresh, trained_shard
from jepa.pieces import Piece, Pieces, Read, whole


class Masters:
    """Those of trained weights are DeepSpeed's, those of `frozen` ones (by name, in fp32 from before the engine) ours.

    Ours are whole with ZeRO-1 and 2: the EMA follows the model's weights, rounded where these are bf16. With ZeRO-3
    they are this process's shard, flat, and follow DeepSpeed's fp32 shard. Neither sends anything.
    """

    def __init__(self, zero: Any, trainable: nn.Module, frozen: dict[str, Tensor], stage3: bool) -> None:
        self._zero, self._trainable, self._stage3 = zero, trainable, stage3
        self._parameters: dict[str, Any] = dict(trainable.named_parameters())
        self._frozen = {name: self._own(self._parameters[name], value) for name, value in frozen.items()}
        if (ema := getattr(trainable, "ema", None)) is not None:
            names = {parameter: name for name, parameter in self._parameters.items()}
            values = [self._frozen[names[target]] for target in ema.targets]
            sources: list[Any] = ema.online
            if stage3:
                held = [(v, shard) for v, p in zip(values, sources, strict=True) if (shard := self._shard(p))]
                values, sources = [v for v, _ in held], [shard.of(shard.flat) for _, shard in held]
            ema.keep(values, sources, self._publish)

    def pieces(self) -> Pieces:
        own: Pieces = {}
        for name, parameter in self._parameters.items():
            shape = _shape(parameter)
            if name in self._frozen:
                if self._stage3:
                    own[f"model/{name}"] = Piece(self._frozen[name], tuple(shape), own_span(parameter)[0])
                elif rank() == 0:
                    own[f"model/{name}"] = whole(self._frozen[name])
            elif shard := self._shard(parameter):
                own[f"model/{name}"] = shard.piece(shard.flat, shape)
                state = self._zero.optimizer.state.get(shard.flat, {})
                own |= {f"optimizer/{name}/{key}": shard.piece(state[key], shape) for key in MOMENTS if key in state}
                if state and shard.start == 0:
                    own[f"optimizer/{name}/step"] = whole(state["step"])
        if rank() == 0:  # buffers, and the counters of drop path
            rest = {k: v for k, v in self._trainable.state_dict().items() if k not in self._parameters}
            own |= {f"model/{name}": whole(value) for name, value in rest.items()}
        return {name: piece for name, piece in own.items() if piece.values.numel()}

    @torch.no_grad()
    def load(self, read: Read) -> None:
        for name, parameter in self._parameters.items():
            value = fitting(read, f"model/{name}", _shape(parameter))
            if self._stage3:
                mine = self._own(parameter, value)
                parameter.ds_tensor.data[: len(mine)].copy_(mine)
            if name in self._frozen:
                self._frozen[name].copy_(self._own(parameter, value) if self._stage3 else value)
            elif shard := self._shard(parameter):
                shard.of(shard.flat).copy_(shard.cut(value))
        self._publish()
        if self._stage3:
            refresh(list(self._parameters.values()))
        else:
            self._zero.update_lp_params()
        state = self._trainable.state_dict()
        rest = {k: fitting(read, f"model/{k}", v.shape) for k, v in state.items() if k not in self._parameters}
        self._trainable.load_state_dict(rest, strict=False)
        self.load_moments(read)

    @torch.no_grad()
    def load_moments(self, read: Read) -> None:
        adamw = self._zero.optimizer
        adamw.state.clear()
        for name, parameter in self._parameters.items():
            shard = None if name in self._frozen else self._shard(parameter)
            if shard and (own := moments_of(read, name, _shape(parameter))):
                state = moments_at(adamw, shard.flat, own["step"])
                for key in MOMENTS:
                    shard.of(state[key]).copy_(shard.cut(own[key]))
        if not self._stage3:
            self._zero._hp_optimizer_states_linked = False  # DeepSpeed's own views of the moments

    def _shard(self, parameter: Any) -> Shard | None:
        return trained_shard(self._zero, parameter)

    def _own(self, parameter: Any, value: Tensor) -> Tensor:
        """Of the fp32 `value` of a parameter, in its shape, what this process keeps."""
        if self._stage3:
            start, count = own_span(parameter)
            flat = self._zero.fp32_partitioned_groups_flat[0]  # where AdamW is, the CPU with offload
            return value.flatten()[start : start + count].to(flat.device, copy=True)
        return parameter.detach() if parameter.dtype == torch.float32 else value.to(parameter.device)

    @torch.no_grad()
    def _publish(self) -> None:
        """Bring ours into the model."""
        for name, value in self._frozen.items():
            parameter = self._parameters[name]
            if self._stage3:
                parameter.ds_tensor.data[: len(value)].copy_(value)
            elif parameter.dtype != torch.float32:
                parameter.copy_(value)
        if self._stage3:
            refresh([self._parameters[name] for name in self._frozen])


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
