"""The verbs of `jepa plan`: benchmark, its goals, check of a robot's signs, scales and axes, offline planning."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from jepa.cli_config import Overrides, Preset, configured, group

app = typer.Typer(
    name="plan",
    cls=group("bench"),
    no_args_is_help=True,
    help="Plan towards goal images. `jepa plan PRESET key=value …` is short for `jepa plan bench`.",
)


@app.command()
def bench(preset: Preset, overrides: Overrides = None) -> None:
    """Plan towards goal images in closed loop, beside random actions, doing nothing and an oracle."""
    from jepa.planning.bench.config import PlanConfig
    from jepa.planning.bench.run import run

    run(configured(PlanConfig, "plan", preset, overrides))


@app.command()
def goals(
    out: Annotated[Path, typer.Argument(help="Goal file to write, for `jepa plan bench … manifest=OUT`.")],
    env: Annotated[str, typer.Option(help="tabletop, pusht, fetch, metaworld or ogbench.")] = "tabletop",
    tasks: Annotated[
        str, typer.Option(help="Of reach, push, grasp, pick_and_place, push_beside (two objects) and push_t (pusht).")
    ] = "reach,push",
    count: Annotated[int, typer.Option("--goals", min=1, help="Of each task.")] = 30,
    objects: Annotated[int, typer.Option(min=1, max=2, help="Objects on the table.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Goal i of a task is a function of (seed, i).")] = 0,
) -> None:
    """Freeze goals for a benchmark: scenes of an environment, and what a scripted expert does in them in time."""
    from jepa.logs import console
    from jepa.planning.make_goals import TABLETOP, freeze

    environment = {**(TABLETOP if env == "tabletop" else {"name": env}), **({"num_objects": 2} if objects == 2 else {})}
    names = [name.strip() for name in tasks.split(",")]
    freeze(out, environment, dict.fromkeys(names, count), seed)
    listed = f"tasks=[{','.join(names)}]"
    asked = shlex.join(["jepa", "plan", "bench", "PRESET", "world=RUN", f"manifest={out}", listed])
    console.print(f"{count} goals of each task; {asked}", soft_wrap=True, highlight=False, markup=False)


@app.command()
def check(
    world_run: Annotated[Path, typer.Argument(help="Folder of a post-training, or a released V-JEPA 2-AC.")],
    shards: Annotated[str, typer.Argument(help="Packed episodes with actions and states, held out of its training.")],
    embodiment: Annotated[
        str, typer.Option(help="How the robot writes its numbers: configs/embodiment/NAME.yaml or a YAML file.")
    ] = "",
    out: Annotated[
        str, typer.Option(help="Folder for report.html and check.json; WORLD_RUN/check, or beside FILE.pt FILE_check.")
    ] = "",
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes, from the first.")] = 30,
    each: Annotated[int, typer.Option(min=1, help="Transitions of each, those with the largest actions.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the bootstrap over episodes.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda: where encoder and world lie.")] = "cpu",
) -> None:
    """Say which axis of a robot looks flipped, mis-scaled or swapped to a world model; exit code 2 unless all is well.

    All is well if at least one axis is confirmed and none looks wrong.
    """
    from jepa.planning.check.run import run
    from jepa.status import MENDABLE

    result = run(world_run, shards, embodiment=embodiment, out=out, count=episodes, each=each, seed=seed, device=device)
    if not result["ok"]:
        raise typer.Exit(MENDABLE)


@app.command()
def offline(
    world_run: Annotated[str, typer.Argument(help="Folder of a post-training.")],
    shards: Annotated[str, typer.Argument(help="Packed episodes with actions and states, held out of its training.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value …, such as control=RUN and goals=[1,2,4].", show_default=False)
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset of configs/offline, or path of a YAML file.")] = "default",
) -> None:
    """Plan towards later frames of recorded episodes, and compare with the actions that were logged."""
    from jepa.planning.offline.rows import OfflineConfig
    from jepa.planning.offline.run import run

    own = [world_run, shards, *(settings or ())]
    command = shlex.join(["jepa", "plan", "offline", *own, *([] if preset == "default" else ["--preset", preset])])
    run(configured(OfflineConfig, "offline", preset, [f"world={world_run}", f"shards={shards}", *own[2:]]), command)
