"""V-JEPA 2-AC as a world model: next tokens from tokens, pose and action (arXiv 2506.09985, §3)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.models.ac_predictor import ACPredictor, ACPredictorConfig
from jepa.pose import integrate
from jepa.worlds.base import Sequence, State, Step, WorldModel, WorldSpec


@dataclass(frozen=True)
class Config:
    """The predictor and its loss: L1 plus `mse_weight` · MSE; `rollout` steps are unrolled beside teacher forcing."""

    predictor: ACPredictorConfig = field(default_factory=ACPredictorConfig)
    rollout: int = 2
    mse_weight: float = 0.0


class ACJepa(WorldModel):
    """State: tokens (B, t, N, D) in standardised scale, pose (B, t, 7) and actions (B, t-1, 7) of the last frames.

    Tokens are standardised with the mean of each position and channel and the spread of each channel over the
    training frames: what does not move disappears, and the loss is spent on what does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, spec: WorldSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.predictor = ACPredictor(
            config.predictor, spec.embed_dim, spec.action_dim, spec.state_dim, spec.grid, generator
        )
        self.register_buffer("mean", torch.zeros(spec.grid[0] * spec.grid[1], spec.embed_dim))
        self.register_buffer("std", torch.ones(spec.embed_dim))
        self.register_buffer("action_scale", torch.ones(spec.action_dim))
        self.register_buffer("state_mean", torch.zeros(spec.state_dim))
        self.register_buffer("state_scale", torch.ones(spec.state_dim))

    @torch.no_grad()
    def fit_scales(self, data: Sequence) -> None:
        """Take the scales of tokens (n, T, N, D), actions and states from training sequences."""
        tokens, actions, states = data.tokens, data.actions, data.states
        self.mean.copy_(tokens.float().mean((0, 1)))
        self.std.copy_((tokens.float() - self.mean).square().mean((0, 1, 2)).sqrt().clamp_min(1e-4))
        self.action_scale.copy_(_scale(actions.flatten(0, 1)))
        self.state_mean.copy_(states.flatten(0, 1).mean(0))
        self.state_scale.copy_(_scale(states.flatten(0, 1)))

    def forward(self, batch: Sequence) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher-forced loss over all frames plus the loss of an unrolled prediction with gradients through it."""
        tokens = self.standardise(batch.tokens)
        poses = batch.states
        forced = self._predict(tokens[:, :-1], batch.actions, poses[:, :-1])
        loss_forced = self._loss(forced, tokens[:, 1:])
        history = torch.cat((tokens[:, :1], forced[:, :1]), dim=1)
        for n in range(2, self.config.rollout + 1):
            last = self._predict(history, batch.actions[:, :n], poses[:, :n])[:, -1:]
            history = torch.cat((history, last), dim=1)
        loss_rollout = self._loss(history[:, 1:], tokens[:, 1 : self.config.rollout + 1])
        metrics = {"loss_forced": loss_forced.detach(), "loss_rollout": loss_rollout.detach()}
        return loss_forced + loss_rollout, metrics

    def standardise(self, tokens: Tensor) -> Tensor:
        """Encoder tokens (..., N, D) -> the scale in which this world predicts and measures."""
        return (tokens.float() - self.mean) / self.std

    def observe(
        self,
        state: State | None,
        tokens: Tensor,
        proprio: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> State:
        """Take tokens (B,T,N,D) and poses (B,T,7) as evidence; a goal image has no pose: zeros stand in for it.

        `actions` led between the frames: (B,T-1,7), or (B,T,7) when the first of them leads on from `state`.
        """
        x = self.standardise(tokens)
        pose = proprio if proprio is not None else x.new_zeros(*x.shape[:2], len(self.state_mean))
        between = actions if actions is not None else x.new_zeros(len(x), x.shape[1] - 1, len(self.action_scale))
        if state is not None:
            x, pose = torch.cat((state["tokens"], x), dim=1), torch.cat((state["pose"], pose), dim=1)
            between = torch.cat((state["actions"], between), dim=1)
        return self._remember(x, pose, between)

    def step(self, state: State, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One imagined step under action (B,7); deterministic, the generator is not used."""
        actions = torch.cat((state["actions"], action[:, None]), dim=1)
        predicted = self._predict(state["tokens"], actions, state["pose"])[:, -1:]
        pose = integrate(state["pose"][:, -1], action)[:, None]
        tokens, poses = torch.cat((state["tokens"], predicted), dim=1), torch.cat((state["pose"], pose), dim=1)
        return Step(self._remember(tokens, poses, actions))

    def features(self, state: State) -> Tensor:
        """Tokens (B, N, D) of the newest frame."""
        return state["tokens"][:, -1]

    def _remember(self, tokens: Tensor, pose: Tensor, actions: Tensor) -> State:
        """The state of these frames (B,t,…) and the actions (B,t-1,7) between them; a Markov world keeps the last."""
        if self.config.predictor.markov:
            tokens, pose, actions = tokens[:, -1:], pose[:, -1:], actions[:, :0]
        return {"tokens": tokens, "pose": pose, "actions": actions}

    def _predict(self, tokens: Tensor, actions: Tensor, poses: Tensor) -> Tensor:
        return self.predictor(tokens, actions / self.action_scale, (poses - self.state_mean) / self.state_scale)

    def _loss(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        error = predicted - wanted
        loss = error.abs().mean()
        return loss + self.config.mse_weight * error.square().mean() if self.config.mse_weight else loss


def _scale(values: Tensor) -> Tensor:
    """Spread per dimension; one where a dimension never moves, so that its noise is not blown up."""
    std = values.std(0)
    return torch.where(std > 1e-4, std, torch.ones_like(std))


def build(config: Config, spec: WorldSpec, generator: torch.Generator) -> ACJepa:
    """Build the world model; raises ConfigError unless actions and states are the 7-D poses that it integrates."""
    if (spec.action_dim, spec.state_dim) != (7, 7):
        raise ConfigError(
            f"ac_jepa imagines 7-D end-effector poses (xyz, Euler angles, gripper); these shards have actions of "
            f"{spec.action_dim} and states of {spec.state_dim} numbers: record end-effector poses and their changes"
        )
    return ACJepa(config, spec, generator)
