"""Planning as V-JEPA 2-AC's reference computes it, for benchmarks: plain, slow where it is slow.

Parameters have the names of `jepa.models.ac_predictor`, so that weights can be copied. What the reference does and we
do not: every step runs the predictor on all frames so far, under a dense mask, and makes the outputs of all of them;
every block makes its own rotary angles, for queries and keys and each axis apart; context and goal are repeated for
every sample, and all samples go through at once; poses are moved one by one with SciPy, on the CPU. Where the reading
leaves a choice, the cheaper one is taken.
"""

import numpy as np
import torch
import torch.nn.functional as F
from reference.model import Mlp, rotate
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

EXTRA = 2  # tokens in front of the patches of a frame: action and state


class Attention(nn.Module):
    """Self-attention (SDPA, masked) over frames of EXTRA tokens and a grid of patches; angles anew at every call."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, grid: tuple[int, int, int]) -> Tensor:  # (B, T·P, D)
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, dim // self.heads)).permute(2, 0, 3, 1, 4)
        q, k = (self._turn(part, grid) for part in (qkv[0], qkv[1]))  # (B, heads, T·P, hd)
        out = F.scaled_dot_product_attention(q, k, qkv[2], attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))

    def _turn(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Patches turn on three axes; the tokens in front of them on that of time."""
        frames, rows, columns = grid
        axis = 2 * (x.shape[-1] // 3 // 2)
        x = x.unflatten(2, (frames, EXTRA + rows * columns))
        front, patches = x[:, :, :, :EXTRA].flatten(2, 3), x[:, :, :, EXTRA:].flatten(2, 3)
        time = torch.arange(frames, device=x.device)
        turned = rotate(front[..., :axis], time.repeat_interleave(EXTRA))
        front = torch.cat((turned, front[..., axis:]), dim=-1)
        ids = torch.arange(frames * rows * columns, device=x.device)
        when = ids // (rows * columns)
        row = (ids - when * rows * columns) // columns
        places = (when, row, ids - when * rows * columns - row * columns)
        parts = [rotate(patches[..., i * axis : (i + 1) * axis], place) for i, place in enumerate(places)]
        patches = torch.cat([*parts, patches[..., 3 * axis :]], dim=-1)
        both = (front.unflatten(2, (frames, -1)), patches.unflatten(2, (frames, -1)))
        return torch.cat(both, dim=3).flatten(2, 3)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor, grid: tuple[int, int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), mask, grid)
        return x + self.mlp(self.norm2(x))


class Predictor(nn.Module):
    """Tokens (B, T, N, D), actions and states (B, T, 7) -> (B, T, N, D); the mask is made once, for `frames` frames."""

    def __init__(
        self, embed_dim: int, grid: tuple[int, int], width: int, depth: int, heads: int, mlp_ratio: float, frames: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.predictor_embed = nn.Linear(embed_dim, width)
        self.action_encoder = nn.Linear(7, width)
        self.state_encoder = nn.Linear(7, width)
        self.predictor_blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, embed_dim)
        time = torch.arange(frames).repeat_interleave(EXTRA + grid[0] * grid[1])
        self.register_buffer("mask", time[:, None] >= time[None], persistent=False)

    def forward(self, x: Tensor, actions: Tensor, states: Tensor) -> Tensor:
        frames = x.shape[1]
        front = (self.action_encoder(actions).unsqueeze(2), self.state_encoder(states).unsqueeze(2))
        h = torch.cat((*front, self.predictor_embed(x)), dim=2).flatten(1, 2)
        mask = self.mask[: h.shape[1], : h.shape[1]]
        for block in self.predictor_blocks:
            h = block(h, mask, (frames, *self.grid))
        h = h.unflatten(1, (frames, -1))[:, :, EXTRA:]
        return self.predictor_proj(self.predictor_norm(h))


def move(poses: Tensor, actions: Tensor) -> Tensor:
    """The poses (B, 7) that actions (B, 7) lead to, row by row in NumPy and SciPy."""
    moved = []
    for pose, action in zip(poses.cpu().numpy(), actions.cpu().numpy(), strict=True):
        turn = Rotation.from_euler("xyz", action[3:6]).as_matrix() @ Rotation.from_euler("xyz", pose[3:6]).as_matrix()
        angles = Rotation.from_matrix(turn).as_euler("xyz")
        closed = np.clip(pose[6:] + action[6:], 0, 1)
        moved.append(np.concatenate((pose[:3] + action[:3], angles, closed)))
    return torch.from_numpy(np.stack(moved)).to(poses)


@torch.no_grad()
def energies(predictor: Predictor, tokens: Tensor, pose: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
    """Energy (S) of action sequences (S, H, 7) from tokens (1, N, D) and a pose (1, 7), to a goal (1, N, D)."""
    samples, horizon = actions.shape[:2]
    frames = tokens[:, None].repeat(samples, 1, 1, 1)
    poses = pose[:, None].repeat(samples, 1, 1)
    goal = goal.repeat(samples, 1, 1)
    for step in range(horizon):
        predicted = predictor(frames, actions[:, : step + 1], poses)[:, -1:]
        predicted = F.layer_norm(predicted, predicted.shape[-1:])
        frames = torch.cat((frames, predicted), dim=1)
        poses = torch.cat((poses, move(poses[:, -1], actions[:, step])[:, None]), dim=1)
    return (frames[:, -1] - goal).abs().mean((1, 2))
