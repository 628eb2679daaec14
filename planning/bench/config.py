"""What a user may choose of the planning benchmark: goals, seeds, rows, planners and budgets."""

from dataclasses import dataclass, field, replace
from typing import Any

from jepa.config import ConfigError, plugin
from jepa.planning.constraints import BoundsConfig
from jepa.planning.goals import GoalConfig, SwitchRule
from jepa.planning.inverse import InverseConfig
from jepa.planning.manifest import Manifest, load
from jepa.planning.tasks import TASKS


@dataclass(frozen=True)
class PlanConfig:
    """`planner` is that of the row `ours` and of the controls; each of `planners` adds a row on the same world."""

    world: str = "???"  # run folder of a post-training
    control: str = ""  # run folder of a post-training on a random-init encoder; "" leaves the row out
    pixels: str = ""  # run folder of a post-training on raw pixels; "" leaves the row out
    out: str = "???"
    manifest: str = "tabletop_tasks.json"  # goal file: a path, or the name of one in configs/plan
    variation: dict[str, float] = field(default_factory=dict)  # other looks of the same goals, by factor
    tasks: tuple[str, ...] = ("reach", "push")
    goals: int = 50  # of each task, 0 for all of the file
    seeds: dict[str, int] = field(default_factory=dict)  # planner seeds of a task, from `seed` on; not named: 1
    oracle_goals: int = 20  # at most, 0 for all, of rows that plan in the simulator: it is slow
    rows: tuple[str, ...] = ("control", "pixels", "cloning", "inverse", "random", "nothing", "expert", "oracle")
    planner: Any = plugin("jepa.planning.planners", "cem")
    planners: dict[str, Any] = field(default_factory=dict)  # row name: settings, with `type` where it is another name
    oracle: Any = plugin("jepa.planning.planners", "cem")
    budgets: tuple[float, ...] = ()  # further efforts of every planner, in multiples of its samples, at one seed
    goal: GoalConfig = field(default_factory=GoalConfig)
    subgoals: tuple[str, ...] = ("grasp", "pick_and_place")  # tasks whose sub-goal images are shown in turn
    switch: SwitchRule = field(default_factory=lambda: SwitchRule(patience=(4,)))
    patience: dict[str, list[int]] = field(default_factory=dict)  # of a task, instead of the switch's
    inverse: InverseConfig = field(default_factory=InverseConfig)
    cloning: InverseConfig = field(default_factory=lambda: InverseConfig(max_gap=8))
    step_fraction: float = 1.0  # of the environment's action limits
    bounds: BoundsConfig = field(default_factory=BoundsConfig)  # of all rows but `nothing` and `expert`
    execute: int = 1  # actions carried out between two plans, of rows that search
    seconds: float | None = None  # for a decision of a batch, of rows that search in a world model
    context: int = 0  # newest frames that a decision sees in a world model, 0 for all of the episode
    device: str = "cpu"  # or cuda: where encoder and world of the rows that plan in a world model lie
    precision: str = "fp32"  # or bf16, by autocast: what these compute in
    batch: int = 8  # episodes planned together
    chunk: int = 16  # goals of a job, whole batches: what is lost when a run is killed
    films: int = 2  # of each task
    seed: int = 0
    workers: int = 2  # processes; 0 runs the jobs in this one

    def switch_of(self, task: str) -> SwitchRule | None:
        """When the next sub-goal image of a task is shown; None where only the goal is."""
        if task not in self.subgoals:
            return None
        return replace(self.switch, patience=tuple(self.patience.get(task, self.switch.patience)))


def frozen_goals(config: PlanConfig) -> Manifest:
    """The goals of a benchmark.

    Raises:
        ManifestError: a file that cannot be read or breaks its rules.
        ConfigError: it has no goals of one of `tasks`, or another key speaks of a task that there is not.
    """
    manifest = load(config.manifest, config.variation)
    for key, known in {"tasks": manifest.decisions, "seeds": TASKS, "subgoals": TASKS, "patience": TASKS}.items():
        if unknown := [task for task in getattr(config, key) if task not in known]:
            where = f"goals of '{unknown[0]}' in {config.manifest}" if key == "tasks" else f"task '{unknown[0]}'"
            raise ConfigError(f"{key}: no {where}; there are: {', '.join(known)}")
    return manifest
