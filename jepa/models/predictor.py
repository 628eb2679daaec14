"""The predictor: context tokens and mask tokens in, features of the masked tokens out (V-JEPA 2 §2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from jepa.models.checkpointing import check_mode, run_block
from jepa.models.layers import Block, check_heads, init_weights
from jepa.models.rope import Rope


@dataclass(frozen=True)
class PredictorConfig:
    """Shape of the predictor; the defaults are the paper's for every encoder size. `checkpointing` as the encoder's."""

    width: int = 384
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    checkpointing: str = "none"


class Predictor(nn.Module):
    """Fills in target tokens from context tokens.

    Attention does not care for order and RoPE carries the positions, so tokens are never sorted. Positions come
    from the grid of the clip at hand, not from the size in a config, by the encoder's `rope`.
    """

    def __init__(
        self,
        config: PredictorConfig,
        embed_dim: int,
        mask_tokens: int,
        rope: Rope,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_heads(config.width, config.heads, "predictor")
        check_mode(config.checkpointing)
        self.rope, self.head_dim, self.checkpointing = rope, config.width // config.heads, config.checkpointing
        self.predictor_embed = nn.Linear(embed_dim, config.width)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(mask_tokens))
        self.predictor_blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, embed_dim)
        init_weights(self, self.predictor_blocks, generator)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor | Sequence[Tensor],
        target_ids: Tensor | Sequence[Tensor],
        grid: tuple[int, int, int],
        mask_index: int | Sequence[int],
    ) -> Tensor:
        """context (B, Kc, D) at context_ids (B, Kc) -> prediction (B, Kt, D) at target_ids (B, Kt).

        With several of ids and of `mask_index`, each is predicted as if alone, all in one pass: the context holds the
        tokens of one after the other, and so does the prediction.
        """
        seen, asked = _listed(context_ids), _listed(target_ids)
        numbers = [mask_index] if isinstance(mask_index, int) else mask_index
        parts = [(known.shape[1], wanted.shape[1]) for known, wanted in zip(seen, asked, strict=True)]
        rope = self.rope.table(_alternate(seen, asked), grid, self.head_dim)
        contexts = self.predictor_embed(context).split([known for known, _ in parts], dim=1)
        x = _alternate(contexts, [self.mask_tokens[number].expand(len(context), -1, -1) for number in numbers])
        whole = [(0, known + wanted) for known, wanted in parts]
        last = len(self.predictor_blocks) - 1
        for layer, block in enumerate(self.predictor_blocks):
            # Nothing reads the context tokens after the last block: there they need only be looked at. Before the first
            # one turns them by their places, the mask tokens of a part are all the same: x then holds one of them.
            asking, alike = parts if layer == last else whole, parts if layer == 0 else ()
            x = run_block(block, self.checkpointing, x, rope, None, asking, alike)  # (B, all Kc and Kt, P)
        return self.predictor_proj(self.predictor_norm(x))


def _listed(ids: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [ids] if isinstance(ids, Tensor) else ids


def _alternate(seen: Sequence[Tensor], asked: Sequence[Tensor]) -> Tensor:
    """Tokens of each part, one part after the other: (B, Kc, ...), (B, Kt, ...) -> (B, all Kc and Kt, ...)."""
    return torch.cat(list(chain.from_iterable(zip(seen, asked, strict=True))), dim=1)
