"""The `jepa` command: one verb per step from raw video to a reached goal."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jepa import cli_data, cli_features, cli_interop

app = typer.Typer(
    name="jepa",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="From raw video to a robot that reaches a goal image: collect, pack, … plan, report.",
)

app.command()(cli_data.pack)
app.add_typer(cli_data.app)
app.command()(cli_interop.convert)
app.command()(cli_features.features)
app.command()(cli_features.deploy)

Preset = Annotated[str, typer.Argument(help="Preset name (configs/<verb>/NAME.yaml) or path of a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value …, applied last.", show_default=False)]


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="Folder to write episodes to.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 100,
    steps: Annotated[int, typer.Option(min=2, help="Frames per episode, at 4 per second.")] = 32,
    size: Annotated[int, typer.Option(min=16, help="Image side in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Episode i is a function of (seed, i).")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    variation: Annotated[float, typer.Option(min=0, max=1, help="How much scenes differ in looks.")] = 0.05,
    objects: Annotated[int, typer.Option(min=1, max=2, help="Objects on the table.")] = 1,
) -> None:
    """Record scripted and random manipulation in the MuJoCo tabletop as MP4 + states + actions + skill labels."""
    from jepa.logs import console
    from jepa.planning.collect import collect as run

    summary = run(
        out,
        episodes=episodes,
        steps=steps,
        size=size,
        seed=seed,
        workers=workers,
        variation=variation,
        num_objects=objects,
    )
    labels = ", ".join(f"{name} {count}" for name, count in summary["label_frames"].items())
    console.print(
        f"{summary['frames']} frames in {out} ({summary['new_frames']} new, {summary['seconds']:.0f} s); {labels}; "
        f"object travel {summary['object_travel_m']:.2f} m an episode, lifted in {summary['lifted']:.0%}",
        soft_wrap=True,
    )


@app.command()
def pretrain(preset: Preset, overrides: Overrides = None) -> None:
    """Pre-train a V-JEPA 2 encoder on shards; resumes by itself. Also under `accelerate launch -m jepa`."""
    from jepa.pretrain import PretrainConfig, run

    run(_config(PretrainConfig, "pretrain", preset, overrides))


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

    config = _config(PretrainConfig, "pretrain", preset, ["out=nowhere", *(overrides or ())])
    cli_data.print_tables(Console(), tables(config, gpus, tflops))


@app.command()
def probe(preset: Preset, overrides: Overrides = None) -> None:
    """Probe the frozen encoder against its random initialisation and raw pixels."""
    from jepa.probes.run import ProbeConfig, run

    run(_config(ProbeConfig, "probe", preset, overrides))


@app.command()
def posttrain(preset: Preset, overrides: Overrides = None) -> None:
    """Post-train the action-conditioned world model on frozen features; resumes by itself."""
    from jepa.posttrain import PosttrainConfig, run

    run(_config(PosttrainConfig, "posttrain", preset, overrides))


@app.command()
def plan(preset: Preset, overrides: Overrides = None) -> None:
    """Plan towards goal images in closed loop, beside random actions, doing nothing and an oracle."""
    from jepa.planning.benchmark import PlanConfig, run

    run(_config(PlanConfig, "plan", preset, overrides))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="Folder with the results of the verbs, as `jepa demo` leaves it.")],
) -> None:
    """Write RUN_DIR/report.html: curves, masks, PCA, probes, energy landscape, planning table and films."""
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


def _config(schema: Any, group: str, preset: str, overrides: list[str] | None) -> Any:
    from jepa.config import load_config

    return load_config(schema, group, preset, overrides or ())


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and exit code 2, not a traceback."""
    try:
        app()
    except (ValueError, FloatingPointError, ModuleNotFoundError) as error:
        if os.environ.get("JEPA_TRACEBACK") or not _is_ours(error):
            raise
        print(f"jepa: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        if os.environ.get("JEPA_TRACEBACK") or not error.filename:
            raise
        print(f"jepa: '{error.filename}': {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _is_ours(error: Exception) -> bool:
    """Whether the message was written for the user: raised by this package, here or in a worker process."""
    if type(error).__module__.split(".")[0] == "jepa":
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return bool(trace) and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == "jepa"
