"""The predictor: context tokens and mask tokens in, features of the masked tokens out (V-JEPA 2 §2.1)."""

from dataclasses import dataclass

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
        context_ids: Tensor,
        target_ids: Tensor,
        grid: tuple[int, int, int],
        mask_index: int,
    ) -> Tensor:
        """context (B, Kc, D) at context_ids (B, Kc) -> prediction (B, Kt, D) at target_ids (B, Kt)."""
        x = self.predictor_embed(context)
        queries = self.mask_tokens[mask_index].expand(*target_ids.shape, -1)
        x = torch.cat((x, queries), dim=1)  # (B, Kc+Kt, P)
        ids = torch.cat((context_ids, target_ids), dim=1)
        rope = self.rope.table(ids, grid, self.head_dim)
        for block in self.predictor_blocks[:-1]:
            x = run_block(block, self.checkpointing, x, rope)
        # Nothing reads the context tokens after the last block: they need only be looked at.
        x = run_block(self.predictor_blocks[-1], self.checkpointing, x, rope, None, None, context.shape[1])
        return self.predictor_proj(self.predictor_norm(x))
