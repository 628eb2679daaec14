"""Look, plan, act, look again: the closed loop that owns encoder and world model, for simulators and real robots.

Every robot of a batch goes through `Agent.decide`; `Agent.act` is the same for one robot in its own numbers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.data.transforms import CROPS, centre_crop, cut
from jepa.models.encoder import Encoder
from jepa.planning.embodiment import Adapter, Embodiment
from jepa.planning.goals import LastStepL1, SubGoals, SwitchRule
from jepa.planning.placement import by_autocast, device_of, lowered, tokens_of
from jepa.planning.planners.base import Bounds, Plan, Planner
from jepa.planning.safety import SafeStop, Safety, Watch
from jepa.runs import Reading
from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class View:
    """What can be known of B episodes now.

    frames: (B, 3, h, w) uint8, or None where nobody looks. pose: (B, 7) float32, the robot's measured state; of
    another width where the world takes other numbers.
    sim: (B, n) float64, the simulator's whole state, for rows that plan in it; a real robot has none.
    """

    frames: Tensor | None
    pose: Tensor
    sim: Tensor | None = None

    def __getitem__(self, rows: slice) -> "View":
        return View(*(None if part is None else part[rows] for part in (self.frames, self.pose, self.sim)))  # type: ignore


@dataclass(frozen=True)
class Decision:
    """actions (B, A) to carry out now, and the model steps that each row's decision took.

    stops: for each row the reason of a safe stop, "" where it goes on; empty where nothing can stop.
    """

    actions: Tensor
    model_steps: int = 0
    stops: tuple[str, ...] = ()


def eyes(encoder: Encoder, reading: Reading = Reading()) -> Callable[[View], Tensor]:
    """Evidence (B, 1, N, D) of a view by an encoder; pictures of another size are cut and resized as in training.

    Args:
        reading: of the world that is shown them, for its crop: `jepa.runs.reading(run)`.
    """
    size = encoder.config.size

    def sense(view: View) -> Tensor:
        frames = view.frames
        assert frames is not None, "a view without frames cannot be encoded"
        if frames.shape[-2:] != (size, size):
            frames = cut(frames, centre_crop(*frames.shape[-2:], aspect=CROPS[reading.crop]), size)
        return tokens_of(encoder, frames[:, None])

    return sense


class Agent:
    """Plans at every `execute`-th decision from what it has seen, starting from what is left of the last plan.

    It sees and plans where encoder and world lie when it is made, on a GPU too; views and decisions are the CPU's.
    """

    def __init__(
        self,
        world: WorldModel,
        sense: Callable[[View], Tensor],
        planner: Planner,
        bounds: Bounds,
        *,
        energy: Callable[[Tensor], Goal] = LastStepL1,
        switch: SwitchRule = SwitchRule(),
        seed: int = 0,
        execute: int = 1,
        seconds: float | None = None,
        context: int = 0,
        safety: Safety = Safety(),
        adapter: Adapter | None = None,
        precision: str = "fp32",
    ):
        """
        Args:
            sense: turns a view into the world's evidence, tokens (B, 1, N, D): `eyes(encoder, reading(run))`.
            energy: turns goal features (B, N, D) into a goal.
            switch: when the next sub-goal begins.
            execute: actions carried out between two plans; frames in between are still looked at.
            seconds: for one decision, looking included; when they are over the planner answers with its best so far.
            context: the newest frames of the episode that a plan starts from; 0 for all of them, which the world
                folds into its state one by one. V-JEPA 2-AC (arXiv 2506.09985) plans from one.
            adapter: of the robot that `act` is called for; None means the world's own numbers, of any width.
            precision: fp32, or bf16 by autocast, of `sense` and the world; poses, energies and the planner stay fp32.

        Raises:
            ConfigError: an unknown precision, world, bounds and adapter differ in the numbers of an action, the world
                reads where the camera stands and the adapter's embodiment does not say, or `context` is below 0.
        """
        if context < 0:
            raise ConfigError(f"context is a number of frames, or 0 for all of an episode; got {context}")
        width = len(getattr(world, "action_scale", bounds.low))
        if len(bounds.low) != width or (adapter and width != 7):
            raise ConfigError(
                f"the world model's actions have {width} numbers, the bounds {len(bounds.low)}: they must be as many, "
                "and 7 for an adapter; without one the numbers are the world's own"
            )
        self._device = device_of(world)
        self._world, self._sense = lowered(world, precision), by_autocast(sense, self._device, precision)
        self._planner, self._energy = planner, energy
        self._bounds = bounds.to(self._device)
        self._switch = switch
        self._seed, self._execute, self._seconds, self._safety = seed, execute, seconds, safety
        self._context, self._adapter = context, adapter
        self._camera = (adapter or Adapter(Embodiment())).camera() if world.extrinsics else torch.empty(0)
        self._goals: tuple[View, ...] = ()

    def aim(self, goals: View, before: Sequence[View] = ()) -> None:
        """Start an episode towards how the goals look; their pose is not read, for a goal is an image.

        Args:
            before: sub-goals to reach in turn first, in order.
        """
        self._goals = (*before, goals)
        self._subgoals: SubGoals | None = None
        self._state: State | None = None
        self._plan: Plan | None = None
        self._last: Tensor | None = None  # (B, A), carried out since the last look
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # tokens, proprio, and the action that led there
        self._own: Tensor | None = None  # (1, S), the last state of one robot that was finite, to hold it there
        self._decision, self._watch = 0, Watch(self._safety)

    def aim_at(self, frame: np.ndarray) -> None:
        """`aim` of one robot: a picture (h, w, 3) uint8 by its camera of the scene as it should be."""
        self.aim(View(_image(frame), torch.zeros(1, 0)))

    def act(self, frame: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The next action of one robot, in its own numbers, from its camera's picture and its state.

        Args:
            frame: (h, w, 3) uint8. state: (S) as the embodiment says; without an adapter as the world was trained.

        Raises:
            SafeStop: the robot must hold still; the error carries the action that does so, where it was last measured:
                zeros without an adapter, for a world's actions are changes.
            ConfigError: the picture is not (h, w, 3) uint8, or the state has another width.
        """
        own = torch.as_tensor(np.asarray(state), dtype=torch.float64)[None]
        pose = self._adapter.pose(own) if self._adapter else own
        decided = self.decide(View(_image(frame), pose.float()))
        if self._own is None or own.isfinite().all():
            self._own = own
        action = decided.actions.double()
        if self._adapter:
            action = self._adapter.action(action, self._own)
        if decided.stops[0]:
            raise SafeStop(decided.stops[0], action[0].numpy())
        return action[0].numpy()

    @torch.no_grad()
    def decide(self, view: View) -> Decision:
        """Decide for every row; a row that was stopped stays so, with zero actions, until `aim` is called again."""
        began, steps = time.monotonic(), 0
        if not self._goals:
            raise ConfigError("an agent needs a goal before it can act: call aim")
        stops = self._watch.look(view.frames, view.pose)
        self._observe(view)
        at = self._decision % self._execute
        if at == 0:
            self._plan = self._replan(None if self._seconds is None else began + self._seconds)
            steps = self._plan.model_steps
            stops = self._watch.judge(self._plan)
        assert self._plan is not None
        held = torch.tensor([bool(reason) for reason in stops])
        planned = self._watch.inside(view.pose, self._plan.actions[:, at].cpu())
        self._last = torch.where(held[:, None], torch.zeros_like(planned), planned)
        self._decision += 1
        return Decision(self._last, steps, stops)

    def _observe(self, view: View) -> None:
        proprio = torch.cat((view.pose, self._camera.expand(len(view.pose), -1)), dim=1)[:, None].to(self._device)
        if self._subgoals is None:
            looks = [self._world.observe(None, self._see(goal), proprio) for goal in self._goals]
            self._check_width(looks[0], proprio)
            self._subgoals = SubGoals.begin(torch.stack([self._world.features(look) for look in looks], dim=1))
        since = None if self._last is None else self._last[:, None].to(self._device)
        if not self._context:
            self._state = self._world.observe(self._state, self._see(view), proprio, since)
        else:
            led = proprio.new_zeros(len(proprio), 1, len(self._bounds.low)) if since is None else since
            self._seen = [*self._seen, (self._see(view), proprio, led)][-self._context :]
            tokens, proprios, actions = zip(*self._seen, strict=True)
            told = torch.cat(actions[1:], dim=1) if len(self._seen) > 1 else None
            self._state = self._world.observe(None, torch.cat(tokens, dim=1), torch.cat(proprios, dim=1), told)
        if len(self._goals) > 1:
            self._subgoals = self._subgoals.next(self._world.features(self._state), self._energy, self._switch)

    def _check_width(self, state: State, proprio: Tensor) -> None:
        """Raise ConfigError where the world reads the robot's state and was trained on those of another width."""
        given, wanted = proprio.shape[-1], len(getattr(self._world, "state_mean", proprio[0, 0]))
        if "pose" in state and given != wanted:
            camera = len(self._camera)
            raise ConfigError(
                f"the robot's state has {given - camera} numbers, and the world model reads {wanted - camera}: give "
                "the adapter of the robot's embodiment, which translates"
            )

    def _see(self, view: View) -> Tensor:
        return self._sense(view).to(self._device)

    def _replan(self, deadline: float | None) -> Plan:
        assert self._state is not None and self._subgoals is not None
        # The same stream for every batch: neither the batch size nor an episode's place in it changes its plan.
        seed = int(np.random.SeedSequence([self._seed, self._decision]).generate_state(1)[0])
        plan = self._planner.plan(
            self._world,
            self._state,
            self._energy(self._subgoals.current),
            torch.Generator().manual_seed(seed),
            bounds=self._bounds.later(self._decision),
            warm_start=None if self._plan is None else self._plan.rest(self._execute),
            deadline=deadline,
        )
        if plan.actions.shape[1] < self._execute:
            raise ConfigError(
                f"execute={self._execute} needs a plan that long; the planner's horizon is {plan.actions.shape[1]}"
            )
        return plan


def _image(frame: np.ndarray) -> Tensor:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ConfigError(f"a picture is (h, w, 3) uint8, red first; this one is {frame.shape} {frame.dtype}")
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
