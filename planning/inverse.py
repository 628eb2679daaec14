"""Inverse dynamics: the action that leads from one frame's features to another's, learned from a world model's data.

It is the baseline that planning must beat: it has seen what the world model has seen, and answers at once. With
`max_gap` above 1 it learns the next action towards frames further on: behaviour cloning to a goal image, where the
goals are what episodes came to by themselves (arXiv 1912.06088).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa import runs
from jepa.checkpoint import CheckpointError, load_weights
from jepa.config import ConfigError, from_dict, to_dict
from jepa.encoded import read_episodes
from jepa.logs import console
from jepa.worlds.base import WorldModel

IN_MEMORY = 1 << 32  # numbers of tokens that are read: 8 GB, and as much again of features


@dataclass(frozen=True)
class InverseConfig:
    token_width: int = 16  # of each token, before all of a frame are read together
    width: int = 256  # of the two hidden layers
    max_gap: int = 1  # frames from a frame to its goal, drawn from 1 to this many
    proprio: bool = True  # read the robot's state beside the tokens
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.token_width, self.width, self.max_gap, self.steps, self.batch_size) < 1:
            raise ConfigError("inverse dynamics: widths, max_gap, steps and batch_size must be at least 1")


class InverseDynamics(nn.Module):
    """(features now, features of the goal, pose) -> action. `shape` is (N, D, A, S), of tokens, action and state."""

    feature_mean: Tensor
    feature_std: Tensor
    action_mean: Tensor
    action_std: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, config: InverseConfig, shape: tuple[int, int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        tokens, channels, actions, states = shape
        self.embed = nn.Linear(2 * channels, config.token_width)
        self.head = nn.Sequential(
            nn.Linear(tokens * config.token_width + config.proprio * states, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, actions),
        )
        for layer in (self.embed, self.head[0], self.head[2], self.head[4]):
            nn.init.xavier_uniform_(layer.weight, generator=generator)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for name, size in (("feature", channels), ("action", actions), ("state", states)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def forward(self, now: Tensor, goal: Tensor, pose: Tensor | None = None) -> Tensor:
        """Features (B, N, D) now and of the goal, pose (B, S) -> actions (B, A) in their own units.

        Raises:
            ConfigError: the net reads the robot's state and there is none.
        """
        pair = [(x.float() - self.feature_mean) / self.feature_std for x in (now, goal)]
        read = nn.functional.gelu(self.embed(torch.cat(pair, dim=-1))).flatten(1)
        if self.config.proprio:
            if pose is None:
                raise ConfigError("inverse dynamics: no pose for a net that reads it; train one with proprio=false")
            read = torch.cat((read, (pose - self.state_mean) / self.state_std), dim=-1)
        return self.head(read) * self.action_std + self.action_mean

    @torch.no_grad()
    def fit_scales(self, features: Tensor, actions: Tensor, states: Tensor) -> None:
        """Take the scales of features, actions and states from training episodes."""
        for name, values in (("feature", features), ("action", actions), ("state", states)):
            flat = values.flatten(0, -2).float()
            std = flat.std(0)
            getattr(self, f"{name}_mean").copy_(flat.mean(0))
            getattr(self, f"{name}_std").copy_(torch.where(std > 1e-4, std, torch.ones_like(std)))


def train(
    features: Tensor,
    actions: Tensor,
    states: Tensor,
    lengths: Tensor,
    config: InverseConfig,
    generator: torch.Generator,
    tick: Callable[[], None] = lambda: None,
) -> InverseDynamics:
    """Fit by the mean absolute error of scaled actions, with Adam and a learning rate that falls to 0 on a cosine.

    Args:
        features: (F, N, D) of every frame of the episodes, end to end, as `world.features` gives them.
        actions: (F - E, A), that led from frame to frame. states: (F, S). lengths: (E), frames of each episode.
        tick: called after every step.
    """
    first, longest = lengths.cumsum(0) - lengths, int(lengths.max())
    if config.max_gap >= longest:
        raise ConfigError(f"inverse dynamics: max_gap={config.max_gap} is too much for episodes of {longest} frames")
    usable = (lengths > 1).nonzero()[:, 0]
    net = InverseDynamics(config, (*features.shape[1:], actions.shape[-1], states.shape[-1]), generator)
    net.fit_scales(features, actions, states)
    adam = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.steps)
    for _ in range(config.steps):
        row = usable[torch.randint(len(usable), (config.batch_size,), generator=generator)]
        gap = torch.randint(1, config.max_gap + 1, (config.batch_size,), generator=generator).minimum(lengths[row] - 1)
        now = first[row] + (torch.rand(config.batch_size, generator=generator) * (lengths[row] - gap)).long()
        predicted = net(features[now], features[now + gap], states[now])
        loss = ((predicted - actions[now - row]) / net.action_std).abs().mean()  # an action less for each before it
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        tick()
    return net.eval().requires_grad_(False)


def train_on_run(
    run: str | Path, config: InverseConfig, out: str | Path, tick: Callable[[], None] = lambda: None
) -> Path:
    """Train on the cached features of a post-training run, in its world's scale, and write `out`; returns it.

    Raises:
        CheckpointError: no such run, or its cache of features is gone.
    """
    data = read_episodes(run, "train")
    rows, lengths = data.joined(IN_MEMORY)
    if len(lengths) < len(data):
        console.print(f"[yellow]inverse dynamics: memory holds {len(lengths)} of {len(data)} episodes, evenly spread")
    _, world = runs.load_world(run)
    actions, states = rows.actions[0], rows.states[0]
    features = world_features(world, rows.tokens[0], states)
    generator = torch.Generator().manual_seed(config.seed)
    save(train(features, actions, states, lengths, config, generator, tick), out)
    return Path(out)


@torch.no_grad()
def world_features(world: WorldModel, tokens: Tensor, states: Tensor, chunk: int = 256) -> Tensor:
    """Features (F, N, D), in half precision, that `world` has of single frames: tokens (F, N, D), states (F, S)."""
    parts = zip(tokens[:, None].split(chunk), states[:, None].split(chunk), strict=True)
    return torch.cat([world.features(world.observe(None, *part)).half() for part in parts])


def save(net: InverseDynamics, path: str | Path) -> None:
    """Write a net as one safetensors file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"config": json.dumps(to_dict(net.config)), "shape": json.dumps(net.shape)}
    partial = path.with_suffix(".partial")
    save_file(net.state_dict(), partial, metadata=about)
    partial.replace(path)


def load(path: str | Path) -> InverseDynamics:
    """Read what `save` wrote. Raises CheckpointError: no such file, or it is not of an inverse-dynamics net."""
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = from_dict(InverseConfig, json.loads(about["config"]), str(path))
        tokens, channels, actions, states = json.loads(about["shape"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not an inverse-dynamics net of `planning/inverse.py`: {error}") from error
    net = InverseDynamics(config, (tokens, channels, actions, states), torch.Generator())
    load_weights(net, weights, str(path))
    return net.eval().requires_grad_(False)
