"""The verbs that look at a finished or running run: `jepa export`."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `jepa pretrain` or `jepa posttrain`.")],
    out: Annotated[Path, typer.Argument(help="File to write, such as weights.safetensors.")],
    part: Annotated[
        str, typer.Option(help="encoder, target_encoder (its average, the one to use, where there is one), or all.")
    ] = "all",
    step: Annotated[int | None, typer.Option(min=0, help="A step with a checkpoint; else the newest.")] = None,
) -> None:
    """Write the weights of a run to one fp32 safetensors file, with the config in its metadata."""
    from jepa.export import export as write
    from jepa.logs import console

    folder = write(run, out, part, step)
    console.print(f"{out}: {part} of {folder}", soft_wrap=True)
