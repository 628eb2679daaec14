"""Your robot in a closed loop: `python examples/robot.py WORLD_RUN [EMBODIMENT]`; a simulated tabletop stands in.

Put your own camera and controller where `env` is used; the numbers are the embodiment's, whatever they are.
"""

import sys

import gymnasium

from jepa.config import build
from jepa.planning import embodiment
from jepa.planning.agent import Agent, eyes
from jepa.planning.envs import tabletop  # noqa: F401 (registers jepa/Tabletop-v0)
from jepa.planning.planners import cem
from jepa.planning.safety import SafeStop, Safety
from jepa.runs import load_world, reading


def main(world_run: str, name: str = "tabletop", decisions: int = 10) -> float:
    """Reach the picture of another scene's hand; returns the metres that are left."""
    adapter, (encoder, world) = embodiment.load(name), load_world(world_run)
    planner = build(cem.Config(horizon=2, samples=64, iterations=3, elites=8))
    given = (world, eyes(encoder, reading(world_run)), planner, adapter.bounds())  # pictures are cut as in training
    agent = Agent(*given, seconds=0.25, safety=Safety(workspace=adapter.embodiment.workspace), adapter=adapter)
    env = gymnasium.make("jepa/Tabletop-v0", variation=0.0)
    goal, _ = env.reset(seed=1)  # move your arm there by hand and take a picture
    now, _ = env.reset(seed=0)
    agent.aim_at(goal["image"])
    try:
        for _ in range(decisions):
            now, *_ = env.step(agent.act(now["image"], now["state"]))
    except SafeStop as stop:
        print(f"stopped: {stop}")
        env.step(stop.action)  # holds still
    env.close()
    return float(((now["state"][:3] - goal["state"][:3]) ** 2).sum() ** 0.5)


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:]):.3f} m to go")
