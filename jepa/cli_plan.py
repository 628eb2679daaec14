"""The verbs of `jepa plan`: the benchmark, the check of a robot's signs, scales and axes, and offline planning."""

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
