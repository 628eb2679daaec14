"""What V-JEPA 2.1 adds around an encoder (a LayerNorm per level, a patch embedding for images), and its predictor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jepa.models.checkpointing import check_mode, run_block
from jepa.models.encoder import Encoder, PatchEmbed
from jepa.models.layers import Block, check_heads, init_weights
from jepa.models.predictor import PredictorConfig
from jepa.models.rope import Rope


def level_blocks(depth: int) -> tuple[int, ...]:
    """The blocks, from 0, after which an encoder of `depth` is read: the ends of four equal parts, fewer below four.

    ViT-gigantic's third level is the reference's, block 37, and not 35.
    """
    if depth == 48:
        return 11, 23, 37, 47
    return tuple(sorted({depth * part // 4 - 1 for part in (1, 2, 3, 4)} - {-1}))


class Levels(nn.Module):
    """Reads an encoder at several depths; embeds a clip of one frame as an image, with patches one frame deep.

    The last level is the encoder's own output, its norm the encoder's own. The learned vector of a modality is the
    bias of its patch embedding: both are added to every token at the same place, and so an encoder that is saved
    alone is complete for video.
    """

    def __init__(self, encoder: Encoder, blocks: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        c = encoder.config
        self.blocks = tuple(blocks)
        self.image_patch_embed = PatchEmbed(c.patch, 1, c.width)
        self.norms = nn.ModuleList(nn.LayerNorm(c.width, eps=1e-6) for _ in blocks[:-1])
        init_weights(self, nn.ModuleList(), generator)

    def forward(self, encoder: Encoder, frames: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Frames (B, T, 3, h, w) -> tokens (B, t·N, D) of each level; with `keep` (B, K) only those, (B, K, D)."""
        embed = self.image_patch_embed if frames.shape[1] == 1 else encoder.patch_embed
        outputs = encoder.blocks_out(frames, keep, self.blocks, embed)
        return [norm(x) for norm, x in zip((*self.norms, encoder.norm), outputs, strict=True)]


class LevelsPredictor(nn.Module):
    """Predictor over all levels at once: masked tokens through one head, the visible ones through a second.

    As `Predictor`, but context comes in through an MLP, and a learned vector says whether it is of an image or a video.
    """

    def __init__(
        self,
        config: PredictorConfig,
        embed_dim: int,
        levels: int,
        mask_tokens: int,
        rope: Rope,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_heads(config.width, config.heads, "predictor")
        check_mode(config.checkpointing)
        self.rope, self.head_dim, self.checkpointing = rope, config.width // config.heads, config.checkpointing
        self.predictor_embed = nn.Sequential(
            nn.Linear(levels * embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, config.width)
        )
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(mask_tokens))
        self.image_embed, self.video_embed = (nn.Parameter(torch.empty(1, 1, config.width)) for _ in range(2))
        self.predictor_blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, levels * embed_dim)
        self.predictor_proj_context = nn.Linear(config.width, levels * embed_dim)
        init_weights(self, self.predictor_blocks, generator)
        for vector in (self.image_embed, self.video_embed):
            nn.init.normal_(vector, std=1e-6, generator=generator)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        grid: tuple[int, int, int],
        mask_index: int,
        image: bool,
    ) -> tuple[Tensor, Tensor]:
        """context (B, Kc, L·D) at context_ids (B, Kc) -> predictions at target_ids (B, Kt, L·D) and at context_ids."""
        x = self.predictor_embed(context)
        queries = self.mask_tokens[mask_index].expand(*target_ids.shape, -1)
        x = torch.cat((x, queries), dim=1) + (self.image_embed if image else self.video_embed)  # (B, Kc+Kt, P)
        ids = torch.cat((context_ids, target_ids), dim=1)
        rope = self.rope.table(ids, grid, self.head_dim)
        for block in self.predictor_blocks:
            x = run_block(block, self.checkpointing, x, rope)
        visible, masked = self.predictor_norm(x).split((context_ids.shape[1], target_ids.shape[1]), dim=1)
        return self.predictor_proj(masked), self.predictor_proj_context(visible)
