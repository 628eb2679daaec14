"""The `jepa` command: one verb per step from raw video to a reached goal."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jepa import cli_config, cli_data, cli_features, cli_interop, cli_plan, cli_probe, cli_run
from jepa.cli_config import Overrides, Preset, configured

app = typer.Typer(
    name="jepa",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="From raw video to a robot that reaches a goal image: collect, pack, … plan, report.",
)

app.command()(cli_data.pack)
app.add_typer(cli_data.app)
app.add_typer(cli_probe.app)
app.add_typer(cli_plan.app)
app.command()(cli_run.export)
app.command()(cli_interop.convert)
app.command()(cli_features.features)
app.command()(cli_features.deploy)


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="Folder to write episodes to.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Frames per episode, at 4 per second.")] = 32,
    size: Annotated[int, typer.Option(min=16, help="Image side in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Episode i is a function of (seed, i).")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    variation: Annotated[
        str, typer.Option(help="How much scenes differ in looks, 0 to 1: a number, or color=1,light=0.5,camera=… .")
    ] = "0.05",
    objects: Annotated[int, typer.Option(min=1, max=2, help="Objects on the table.")] = 1,
    env: Annotated[str, typer.Option(help="tabletop, pusht, fetch, metaworld or ogbench.")] = "tabletop",
    mix: Annotated[str, typer.Option(help="How often each skill is begun, as random=1,push=3; empty: as usual.")] = "",
    noise: Annotated[
        str, typer.Option(help="Levels of noise of scripted moves in m, as 0,0.02; empty: as usual.")
    ] = "",
) -> None:
    """Record scripted and random manipulation in simulation as MP4 + states + actions + skill labels."""
    from jepa.config import ConfigError
    from jepa.logs import console
    from jepa.planning.collect import collect as run
    from jepa.planning.coverage import describe

    by_factor = cli_config.pairs(variation, "--variation") if "=" in variation else {}
    try:
        levels = tuple(float(level) for level in noise.split(",") if level)
        looks = by_factor or float(variation)
    except ValueError:
        raise ConfigError(f"--noise {noise!r}, --variation {variation!r}: must be numbers") from None
    summary = run(
        out,
        episodes=episodes,
        steps=steps,
        size=size,
        seed=seed,
        workers=workers,
        variation=looks,
        num_objects=objects,
        env=env,
        shares=cli_config.pairs(mix, "--mix"),
        noise=levels,
    )
    frames = f"{summary['frames']} frames in {out} ({summary['new_frames']} new, {summary['seconds']:.0f} s)"
    console.print(f"{frames}; {describe(summary)}", soft_wrap=True, highlight=False)


@app.command()
def pretrain(preset: Preset, overrides: Overrides = None) -> None:
    """Pre-train a V-JEPA 2 encoder on shards; resumes by itself. Also under `accelerate launch -m jepa`."""
    from jepa.pretrain import PretrainConfig, run
    from jepa.probes.online import make

    run(configured(PretrainConfig, "pretrain", preset, overrides), make)


@app.command()
def cost(
    preset: Preset,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs share a step's batch.")] = 1,
    tflops: Annotated[float, typer.Option(min=0.001, help="TFLOP/s that each achieves, for the hours.")] = 300.0,
) -> None:
    """Say what a pre-training preset costs: parameters, FLOPs by part, memory, hours. Nothing is run."""
    from rich.console import Console

    from jepa.cost_tables import tables
    from jepa.pretrain import PretrainConfig

    config = configured(PretrainConfig, "pretrain", preset, ["out=nowhere", *(overrides or ())])
    cli_data.print_tables(Console(), tables(config, gpus, tflops))


@app.command()
def posttrain(preset: Preset, overrides: Overrides = None) -> None:
    """Post-train the action-conditioned world model on frozen features; resumes by itself."""
    from jepa.posttrain import PosttrainConfig, run

    run(configured(PosttrainConfig, "posttrain", preset, overrides))


@app.command()
def watch(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a training run: the out=… of pretrain or posttrain.")],
    once: Annotated[bool, typer.Option("--once", help="Draw it once and end.")] = False,
) -> None:
    """Show a training run as it goes on, here or on another machine: loss, health, speed, time left, alarms."""
    from jepa.live import watch as run

    run(run_dir, once)


@app.command()
def report(
    run_dir: Annotated[
        Path, typer.Argument(help="Folder of a run of pretrain or posttrain, or of all that `jepa demo` makes.")
    ],
) -> None:
    """Write RUN_DIR/report.html: curves, health, speed, masks, PCA; of a demo also probes, planning table and films."""
    from jepa.report import write_report

    write_report(run_dir)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything the demo makes.")] = Path("runs/demo"),
    preset: Annotated[
        str, typer.Option(help="Preset of every stage: demo, or debug for a two-minute dry run.")
    ] = "demo",
) -> None:
    """Run the whole thread, from collecting video to report.html; a second run skips what is done."""
    from jepa.demo import run

    run(out, preset)


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr, not a traceback. Exit codes: jepa.status."""
    try:
        app()
    except Exception as error:
        from jepa.status import FAILED, exit_code

        code = exit_code(error)
        unforeseen = code == FAILED and not hasattr(error, "exit_code")
        if unforeseen or os.environ.get("JEPA_TRACEBACK"):
            raise
        of_a_file = isinstance(error, OSError) and error.filename
        text = f"'{error.filename}': {error.strerror}" if of_a_file else error
        print(f"jepa: {text}", file=sys.stderr)
        sys.exit(code)
