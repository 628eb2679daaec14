"""No search: a trained inverse-dynamics net says the action from here to the goal (see jepa/planning/inverse.py)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.planning.inverse import InverseDynamics, load
from jepa.planning.planners.base import Bounds, Plan, energies, starts
from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class Config:
    weights: str = ""  # the file that `inverse.train_on_run` wrote
    horizon: int = 1  # steps over which the action is repeated

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError("inverse_dynamics needs a horizon of at least 1")


def build(config: Config) -> "InversePolicy":
    """Raises ConfigError without weights, CheckpointError where they cannot be read."""
    if not config.weights:
        raise ConfigError("planner inverse_dynamics needs weights=…, a net trained on the world's data")
    return InversePolicy(config, load(config.weights))


class InversePolicy:
    def __init__(self, config: Config, net: InverseDynamics):
        self.config, self._net = config, net

    @torch.no_grad()
    def plan(
        self,
        world: WorldModel,
        state: State,
        goal: Goal,
        generator: torch.Generator,
        *,
        bounds: Bounds,
        warm_start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """See `Planner.plan`. `warm_start` stands where the net's answer is not finite; the cost is the world's.

        Raises:
            ConfigError: the goal is not one goal image, or the net reads a pose that the state does not hold.
        """
        if not isinstance(wanted := getattr(goal, "features", None), Tensor):
            raise ConfigError("planner inverse_dynamics needs a goal that is one image; choose another planner")
        pose = state["pose"][:, -1, : self._net.shape[3]] if "pose" in state else None  # the world's may be wider
        net = self._net.to(bounds.low.device)
        action = net(world.features(state), wanted, pose).to(bounds.low.dtype)
        repeated = action[:, None].expand(-1, self.config.horizon, -1)  # (B, H, A)
        before = starts(state, self.config.horizon, bounds, warm_start)[:, 0]
        finite = repeated.isfinite().all(-1, keepdim=True)
        actions = torch.where(finite, bounds.project(repeated), before)
        cost = energies(world, state, actions[:, None], goal, generator, chunk=1)[:, 0]
        return Plan(actions, cost, self.config.horizon)
