"""V-JEPA 2-AC as a world model: next tokens from tokens, pose and action (arXiv 2506.09985, §3)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.models.ac_predictor import EXTRINSICS_DIM, ACPredictor, ACPredictorConfig, Cache
from jepa.models.layers import norm_features
from jepa.pose import integrate
from jepa.worlds.base import Sequence, State, Step, WorldModel, WorldSpec

SCALES = ("standard", "layer_norm")
POSE_DIM = 7


@dataclass(frozen=True)
class Config:
    """The predictor and its loss: L1 plus `mse_weight` · MSE; `rollout` steps are unrolled beside teacher forcing.

    `scale` is that of all that goes in and comes out. `standard`: mean of each position and channel and spread of each
    channel over the training frames, so that what does not move disappears and the loss is spent on what does; actions
    and states are scaled too. `layer_norm`, as in the reference: layer-normed tokens in and out, the rest as it is.

    Raises ConfigError for a value outside its range.
    """

    predictor: ACPredictorConfig = field(default_factory=ACPredictorConfig)
    rollout: int = 2
    mse_weight: float = 0.0
    scale: str = "standard"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"world.scale '{self.scale}' is not one of {', '.join(SCALES)}")
        if self.rollout < 1:
            raise ConfigError(f"world.rollout {self.rollout}: must be at least 1; 1 is teacher forcing alone, twice")

    @property
    def extrinsics(self) -> bool:
        """Whether the camera's pose stands behind the robot's: see `WorldModel`."""
        return self.predictor.extrinsics


class ACJepa(WorldModel):
    """State: tokens (B, 1, N, D) of the newest frame, in the world's scale, and the predictor's cache of those before.

    Also pose (B, 1, S) at that frame, where the predictor reads one: the robot's (7), which actions move, and with
    extrinsics the camera's (6), which stays. Without either, actions are of any width and mean what they like.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, spec: WorldSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.extrinsics = config, config.extrinsics
        self.predictor = ACPredictor(config.predictor, spec.embed_dim, spec.action_dim, POSE_DIM, spec.grid, generator)
        self._plain_scales(spec)

    def _plain_scales(self, spec: WorldSpec) -> None:
        self.register_buffer("mean", torch.zeros(spec.grid[0] * spec.grid[1], spec.embed_dim))
        self.register_buffer("std", torch.ones(spec.embed_dim))
        self.register_buffer("action_scale", torch.ones(spec.action_dim))
        self.register_buffer("state_mean", torch.zeros(spec.state_dim))
        self.register_buffer("state_scale", torch.ones(spec.state_dim))

    @torch.no_grad()
    def fit_scales(self, data: Sequence) -> None:
        """Take the scales of tokens (n, T, N, D), actions and states from training sequences, if there are any."""
        if self.config.scale == "layer_norm":
            return
        tokens, actions, states = data.tokens, data.actions, data.states
        self.mean.copy_(tokens.float().mean((0, 1)))
        self.std.copy_((tokens.float() - self.mean).square().mean((0, 1, 2)).sqrt().clamp_min(1e-4))
        self.action_scale.copy_(_scale(actions.flatten(0, 1)))
        self.state_mean.copy_(states.flatten(0, 1).mean(0))
        self.state_scale.copy_(_scale(states.flatten(0, 1)))

    def forward(self, batch: Sequence) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher-forced loss over all frames plus the loss of an unrolled prediction with gradients through it.

        The roll-out keeps the measured states, and counts its first frame again, as the reference does.
        """
        tokens, actions, states = self.standardise(batch.tokens), batch.actions, batch.states
        rollout = self.config.rollout
        if rollout > actions.shape[1]:
            raise ConfigError(f"world.rollout={rollout} needs windows of {rollout + 1} frames: frames={rollout + 1}")
        # The first frame by itself: its keys and values serve the roll-out too.
        predicted, cache = self._predict({}, tokens[:, :1], actions[:, :1], states[:, :1])
        forced, unrolled = [predicted], [predicted]
        if actions.shape[1] > 1:
            forced.append(self._predict(cache, tokens[:, 1:-1], actions[:, 1:], states[:, 1:-1])[0])
        for n in range(1, rollout):
            now = slice(n, n + 1)
            predicted, cache = self._predict(cache, predicted, actions[:, now], states[:, now])
            unrolled.append(predicted)
        loss_forced = self._loss(torch.cat(forced, dim=1), tokens[:, 1:])
        loss_rollout = self._loss(torch.cat(unrolled, dim=1), tokens[:, 1 : rollout + 1])
        metrics = {"loss_forced": loss_forced.detach(), "loss_rollout": loss_rollout.detach()}
        return loss_forced + loss_rollout, metrics

    def standardise(self, tokens: Tensor) -> Tensor:
        """Layer-normed encoder tokens (..., N, D) -> the scale in which this world predicts and measures."""
        return (tokens.float() - self.mean) / self.std

    def observe(
        self,
        state: State | None,
        tokens: Tensor,
        proprio: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> State:
        """Take tokens (B,T,N,D) and states (B,T,S) as evidence; a goal image has none: zeros stand in for them.

        `actions` led between the frames: (B,T-1,A), or (B,T,A) when the first of them leads on from `state`; zeros
        where none are given.
        """
        return self.remember(state, self.standardise(tokens), proprio, actions)

    def remember(
        self, state: State | None, tokens: Tensor, states: Tensor | None = None, actions: Tensor | None = None
    ) -> State:
        """As `observe`, for tokens that are in this world's scale."""
        if not self._reads_states:
            states = None
        elif states is None:
            states = tokens.new_zeros(*tokens.shape[:2], len(self.state_mean))
        cache: Cache = {}
        if state is not None:  # its frame has been followed by an action now
            cache = {k: v for k, v in state.items() if not k.startswith("ahead.") and k not in ("tokens", "pose")}
            tokens = torch.cat((state["tokens"], tokens), dim=1)
            states = None if states is None else torch.cat((state["pose"], states), dim=1)
        if actions is None:
            actions = tokens.new_zeros(tokens.shape[0], tokens.shape[1] - 1, len(self.action_scale))
        if tokens.shape[1] > 1 and self.config.predictor.window != 1:
            before = None if states is None else states[:, :-1]
            _, cache = self._predict(cache, tokens[:, :-1], actions, before)
        cache = self.predictor.look_ahead(cache, tokens[:, -1])
        return _state(tokens[:, -1:], None if states is None else states[:, -1:], cache)

    def step(self, state: State, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """One imagined step under action (B,A); deterministic, the generator is not used."""
        states = state.get("pose")
        predicted, cache = self._predict(state, state["tokens"], action[:, None], states)
        if states is not None and self.config.predictor.proprio:
            pose, camera = states.tensor_split([POSE_DIM], dim=-1)
            states = torch.cat((integrate(pose, action[:, None]), camera), dim=-1)
        return Step(_state(predicted, states, cache))

    def features(self, state: State) -> Tensor:
        """Tokens (B, N, D) of the newest frame."""
        return state["tokens"][:, -1]

    @property
    def _reads_states(self) -> bool:
        return self.config.predictor.proprio or self.config.predictor.extrinsics

    def _predict(self, cache: Cache, x: Tensor, actions: Tensor, states: Tensor | None) -> tuple[Tensor, Cache]:
        """Tokens after each frame of x (B,F,N,D), which follow those of `cache`, and the cache with them."""
        inputs = [actions / self.action_scale]
        if states is not None and self._reads_states:
            scaled = (states - self.state_mean) / self.state_scale
            pose, camera = scaled.tensor_split([POSE_DIM], dim=-1)
            inputs += [pose] * self.config.predictor.proprio + [camera] * self.config.predictor.extrinsics
        out, cache = self.predictor(x, *inputs, cache=cache)
        return norm_features(out) if self.config.scale == "layer_norm" else out, cache

    def _loss(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        error = predicted - wanted
        loss = error.abs().mean()
        return loss + self.config.mse_weight * error.square().mean() if self.config.mse_weight else loss


def _state(tokens: Tensor, states: Tensor | None, cache: Cache) -> State:
    return {"tokens": tokens} | ({} if states is None else {"pose": states}) | cache


def _scale(values: Tensor) -> Tensor:
    """Spread per dimension; one where a dimension never moves, so that its noise is not blown up."""
    std = values.std(0)
    return torch.where(std > 1e-4, std, torch.ones_like(std))


def build(config: Config, spec: WorldSpec, generator: torch.Generator) -> ACJepa:
    """Build the world model; raises ConfigError where it reads states that are not the 7-D poses that it integrates."""
    behind = EXTRINSICS_DIM * config.predictor.extrinsics
    reads = config.predictor.proprio or config.predictor.extrinsics
    if reads and (spec.action_dim, spec.state_dim) != (POSE_DIM, POSE_DIM + behind):
        off = "world.predictor.proprio=false" + " and world.predictor.extrinsics=false" * bool(behind)
        raise ConfigError(
            "ac_jepa imagines 7-D end-effector poses (xyz, Euler angles, gripper); these shards have actions of "
            f"{spec.action_dim} and states of {spec.state_dim - behind} numbers: record poses and their changes, or "
            f"set {off}, which reads actions alone, of any width"
        )
    return ACJepa(config, spec, generator)


def wrap(predictor: ACPredictor) -> ACJepa:
    """A predictor that was trained elsewhere, such as the released one of `jepa.load`, as a world in its own scale."""
    shape = predictor.config
    states = POSE_DIM + EXTRINSICS_DIM * shape.extrinsics
    spec = WorldSpec(
        predictor.predictor_embed.in_features, predictor.action_encoder.in_features, states, predictor.grid
    )
    with torch.device("meta"):  # weights that are thrown away would take as much memory again
        world = build(Config(shape, scale="layer_norm"), spec, torch.Generator())
    world.predictor = predictor
    world._plain_scales(spec)
    return world.to(predictor.predictor_embed.weight.device).train(predictor.training)
