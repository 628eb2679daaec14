"""The rows of the benchmark: for each, the controller that decides and the frames it needs to see."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from jepa.config import ConfigError, build, from_dict, plugin
from jepa.planning.agent import Decision, View, eyes
from jepa.planning.bench.config import PlanConfig
from jepa.planning.bench.simulator import SimulatorWorld, oracle, pictured
from jepa.planning.goals import SwitchRule
from jepa.planning.manifest import GoalPair
from jepa.planning.mpc import Controller, Replan, look
from jepa.planning.placement import check_placement
from jepa.planning.planners.base import Bounds
from jepa.runs import check_weights, load_world

LABELS = {
    "ours": "ours",
    "control": "random-init encoder",
    "pixels": "raw pixels",
    "cloning": "behaviour cloning",
    "inverse": "inverse dynamics",
    "random": "random actions",
    "nothing": "do nothing",
    "expert": "replayed expert",
    "true_dynamics": "ours, true dynamics",
    "oracle": "oracle (simulator)",
}
WORLDS = {"ours": "pretrained", "control": "random", "pixels": "pixels"}  # rows with a world, and its `weights`
PICTURED = (*WORLDS, "true_dynamics")  # rows that plan by what goal images look like
SIMULATED = ("true_dynamics", "oracle")  # rows that plan in the simulator, which is slow
SEARCHED = (*PICTURED, "oracle")  # rows that look for a plan
RANDOM = ("ours", "control", "pixels", "random")  # what a seed changes


@dataclass(frozen=True)
class Row:
    """A row of the table: `kind` is a key of LABELS.

    Rows of a `budget`, how many times the candidates of the row they follow, stand in the curves instead.
    """

    name: str
    kind: str
    label: str
    run: str = ""  # the post-training whose world it plans with
    planner: Any = None
    budget: float | None = None


@dataclass(frozen=True)
class _Named:
    planner: Any = plugin("jepa.planning.planners", "cem")


def chosen(config: PlanConfig) -> tuple[list[Row], dict[str, str]]:
    """The rows of a benchmark in the order of its table, and the reasons of those that are left out, by kind.

    The planners of `cloning` and `inverse` are still to be trained.

    Raises:
        ConfigError: an unknown device, precision, row or planner, or plans shorter than what is carried out of each.
    """
    check_placement(config.device, config.precision)
    if unknown := [row for row in config.rows if row not in LABELS]:
        raise ConfigError(f"rows: no row '{unknown[0]}'; there are: {', '.join(LABELS)}")
    if config.execute < 1 or (config.seconds is not None and config.seconds <= 0):
        raise ConfigError(f"execute is at least 1, seconds above 0; got {config.execute} and {config.seconds}")
    if config.context < 0:
        raise ConfigError(f"context is a number of frames, or 0 for all of an episode; got {config.context}")
    rows = [row for planned in _with_planner(config) for row in planned]
    omitted = {}
    for kind, label in LABELS.items():
        if kind == "ours" or kind not in config.rows:
            continue
        run = {"control": config.control, "pixels": config.pixels, "oracle": ""}.get(kind, config.world)
        if kind in WORLDS and not run:
            wanted = "that pre-training helped" if kind == "control" else "that features beat pixels"
            omitted[kind] = f"no {kind}=… given: nothing says {wanted}"
            continue
        planner = {**dict.fromkeys(PICTURED, config.planner), "oracle": config.oracle}.get(kind)
        with_run = (*PICTURED, "cloning", "inverse")
        rows.append(Row(kind, kind, label, run if kind in with_run else "", planner))
    if short := [row for row in rows if row.planner is not None and row.planner.horizon < config.execute]:
        horizon = short[0].planner.horizon
        raise ConfigError(f"execute={config.execute}: the plans of row '{short[0].label}' have a horizon of {horizon}")
    return rows, omitted


def _with_planner(config: PlanConfig) -> list[list[Row]]:
    """Ours, and the same world with every other planner, each followed by its budgets."""
    ours = [Row("ours", "ours", LABELS["ours"], config.world, config.planner)]
    for name, values in config.planners.items():
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise ConfigError(f"planners: '{name}' names a file: use small letters, digits and _")
        given = {"planner": {"type": name, **(values or {})}}
        planner = from_dict(_Named, given, f"planners.{name}").planner
        ours.append(Row(f"ours_{name}", "ours", f"ours, {name}", config.world, planner))
    return [_with_budgets(row, config.budgets) for row in ours]


def _with_budgets(row: Row, budgets: Sequence[float]) -> list[Row]:
    """The row, and those of its budgets that are searches of their own: half of three candidates are two of them."""
    rows = [row]
    for factor in budgets:
        scaled = _scaled(row, factor)
        if scaled.planner not in [known.planner for known in rows]:
            rows.append(scaled)
    return rows


def _scaled(row: Row, factor: float) -> Row:
    """The same search with `factor` times the candidates, of which the same share is elite; at least two of both."""
    sizes = [key for key in ("samples", "restarts", "elites") if hasattr(row.planner, key)]
    if not sizes or factor <= 0:
        raise ConfigError(f"budgets: {factor:g} times the effort of row '{row.label}' is not to be had")
    planner = replace(row.planner, **{key: max(2, round(factor * getattr(row.planner, key))) for key in sizes})
    real = getattr(planner, sizes[0]) / getattr(row.planner, sizes[0])  # candidates come whole
    return replace(row, name=f"{row.name}_x{factor:g}", label=f"{row.label} × {real:.3g}", planner=planner, budget=real)


def action_bounds(env: Any, config: PlanConfig, frozen: Sequence[int]) -> Bounds:
    """`step_fraction` of the environment's own limits with a task's `frozen` axes, or what `bounds` says instead.

    Raises:
        ConfigError: `bounds` are not this environment's.
    """
    limit = torch.as_tensor(env.action_limit, dtype=torch.float32)
    return config.bounds.within(limit, config.step_fraction * limit, frozen)


def controller(
    row: Row,
    config: PlanConfig,
    env: Any,
    bounds: Bounds,
    goals: Sequence[GoalPair],
    *,
    streams: Sequence[int],
    seed: int,
    limit: int,
) -> tuple[Controller, int | None]:
    """The controller of a row for episodes with these goals of one task, and the frame size it looks at.

    Args:
        streams: the number of each goal among all of its task, which its random actions follow.
        limit: decisions of an episode.

    Raises:
        CheckpointError: the row's world cannot be loaded. ConfigError: the run is not what the row's label says.
    """
    if row.kind == "random":
        return random_actions(bounds, seed, streams), None
    if row.kind == "nothing":
        return do_nothing(bounds), None
    if row.kind == "expert":
        return replay([goal.expert for goal in goals], limit), None
    task = goals[0].task
    energy: Any = config.goal
    switch = config.switch_of(task) if row.kind in PICTURED else None
    world: Any
    if row.kind == "oracle":
        rules = oracle(task)
        energy, switch, size = rules.energy, rules.switch, None
        world, sense = SimulatorWorld(env, rules.coordinates), _whole_state
    else:
        if row.kind in PICTURED:
            check_weights(row.run, WORLDS.get(row.kind, "pretrained"), row.label)
        device = "cpu" if row.kind == "true_dynamics" else config.device
        encoder, world = (part.to(device) for part in load_world(row.run))
        sense, size = eyes(encoder), encoder.config.size  # type: ignore[arg-type]
        if row.kind == "true_dynamics":
            world, sense, size = SimulatorWorld(env, pictured(encoder, world)), _whole_state, None  # type: ignore[arg-type]
    *before, last = [look(env, states, size) for states in _stages(goals, switch is not None)]
    own: dict[str, Any] = {"before": before, "switch": switch or SwitchRule(), "seed": seed, "batch": config.batch}
    own["context"] = 0 if row.kind in SIMULATED else config.context  # a simulator's state is all there is to know
    own["execute"] = config.execute if row.kind in SEARCHED else 1  # a net names one action
    own["seconds"] = config.seconds if row.kind in WORLDS else None  # a simulator is no faster for being asked
    own["precision"] = "fp32" if row.kind in SIMULATED else config.precision
    return Replan(world, sense, build(row.planner), energy, bounds, last, **own), size


def _whole_state(view: View) -> torch.Tensor:
    return view.sim[:, None, None]  # type: ignore[index]


def _stages(goals: Sequence[GoalPair], staged: bool) -> list[list[np.ndarray]]:
    """For each sub-goal in turn its state in every scene; a scene with fewer repeats its goal. Without: the goal."""
    count = max(len(goal.stages) for goal in goals) if staged else 1
    ways = [[state for _, state in goal.stages] if staged else [goal.goal] for goal in goals]
    return [[way[min(i, len(way) - 1)] for way in ways] for i in range(count)]


def random_actions(bounds: Bounds, seed: int, streams: Sequence[int] | None = None) -> Controller:
    """The floor: uniform in the bounds; each episode has a stream of its own, by default its place in the batch."""

    def act(view: View, decision: int) -> Decision:
        own = range(len(view.pose)) if streams is None else streams
        draws = [np.random.default_rng([seed, decision, stream]).random(len(bounds.low)) for stream in own]
        unit = torch.from_numpy(np.stack(draws)).to(bounds.low.dtype)
        drawn = bounds.clip(bounds.low + unit * (bounds.high - bounds.low))
        return Decision(bounds.later(decision).project(drawn[:, None])[:, 0])

    return act


def do_nothing(bounds: Bounds) -> Controller:
    """The other floor: zero actions."""

    def act(view: View, decision: int) -> Decision:
        return Decision(torch.zeros(len(view.pose), len(bounds.low)))

    return act


def replay(sequences: Sequence[np.ndarray], limit: int) -> Controller:
    """Recorded actions (L, A) of each episode, to the bit, and zeros after them up to `limit` decisions."""
    padded = [np.pad(actions, ((0, max(0, limit - len(actions))), (0, 0))) for actions in sequences]

    def act(view: View, decision: int) -> Decision:
        return Decision(torch.from_numpy(np.stack([actions[decision] for actions in padded])))

    return act
