"""The verb of `jepa` that brings in the weights of others and gives ours away: `convert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jepa.interop.fit import MismatchError


def convert(
    source: Annotated[str, typer.Argument(help="Hub id, folder, .pt or .safetensors file, or a run of ours.")],
    out: Annotated[Path, typer.Argument(help="What to write: a new folder, or for --to meta a new .pt file.")],
    to: Annotated[
        str, typer.Option(help="Layout: ours, hf (transformers) or meta (facebookresearch/vjepa2).")
    ] = "ours",
    which: Annotated[
        str, typer.Option(help="Which encoder of the file: target (the EMA), encoder, target_encoder or ema_encoder.")
    ] = "target",
    heads: Annotated[
        str, typer.Option(help="Attention heads where nothing says them: 16, or encoder=16,predictor=12 ….")
    ] = "",
    blocks: Annotated[
        str, typer.Option(help="Blocks of a file with fewer than such a part should have: 12, or classifier=2 ….")
    ] = "",
    parts: Annotated[
        str, typer.Option(help="Parts to take, the others need not fit: encoder,predictor,ac_predictor,classifier.")
    ] = "",
    classifier: Annotated[str, typer.Option(help="A second source, to take the attentive classifier from.")] = "",
    probe: Annotated[str, typer.Option(help="Folder with probe.json, for the model card.")] = "",
) -> None:
    """Convert weights between our layout, transformers' and Meta's; all tensors must fit, or nothing is written."""
    from jepa.interop.fit import MismatchError
    from jepa.interop.load import load
    from jepa.interop.notes import differences
    from jepa.interop.save import save
    from jepa.interop.shapes import PARTS, parse_counts
    from jepa.logs import console

    counts = parse_counts(heads, "heads"), parse_counts(blocks, "blocks")
    taken = tuple(part for part in parts.split(",") if part) or PARTS
    try:
        model = load(source, counts[0], which, classifier or None, counts[1], taken)
    except MismatchError as error:
        _show(error)
        raise
    ours = Path(source, "checkpoints").is_dir()  # a training run, which knows its data and recipe
    save(model, out, to, run=source if ours else "", probe=probe)
    for line in differences(model, to):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"{out}: written for {to}", soft_wrap=True, markup=False, highlight=False)


def _show(error: "MismatchError") -> None:
    """All tensors that do not fit, on stderr; the line that says so comes after it."""
    from rich.console import Console
    from rich.table import Table

    table = Table("tensor", "problem", "in the file", "wanted")
    for row in error.problems:
        table.add_row(*row)
    Console(stderr=True).print(table, markup=False)
