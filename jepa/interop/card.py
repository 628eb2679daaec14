"""The model card that goes with saved weights: what is in them, how to load them, data, recipe and probe results."""

import json
from pathlib import Path
from typing import Any

from jepa.checkpoint import CheckpointError
from jepa.interop.model import Model
from jepa.interop.notes import notes
from jepa.interop.tensors import read_json

_RECIPE = ("objective", "masks", "data", "loop", "batch_size", "seed")


def card(model: Model, run: str | Path = "", probe: str | Path = "", hf: bool = False) -> str:
    """Markdown with the front matter of the hub.

    `run` is the training run of the weights, `probe` a folder with probe.json; `hf` names transformers as the way to
    load.

    Raises:
        CheckpointError: `run` or `probe` is given and cannot be read.
    """
    task = "video-classification" if model.classifier is not None else "feature-extraction"
    library = "transformers" if hf else "openjepa"
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {task}", "tags: [video, v-jepa-2]", "---", ""]
    lines += ["# V-JEPA 2 weights", "", f"Made from `{model.config.origin}`.", ""]
    lines += [f"- {line}" for line in notes(model)]
    lines += ["", "## Use", "", "```python", *_use(model, hf), "```", ""]
    if run:
        lines += _training(Path(run))
    if probe:
        lines += _probes(Path(probe))
    return "\n".join(lines)


def _use(model: Model, hf: bool) -> list[str]:
    if hf:
        kind = "AutoModelForVideoClassification" if model.classifier is not None else "AutoModel"
        return [f"from transformers import {kind}", "", f'model = {kind}.from_pretrained("THIS_REPOSITORY")']
    lines = ["import jepa", "", 'model = jepa.load("THIS_REPOSITORY")']
    if model.encoder is not None:
        lines.append("tokens = model.encoder(frames)  # (B, T, 3, h, w), ImageNet-normalised -> (B, t·N, D)")
    return lines


def _training(run: Path) -> list[str]:
    config = read_json(run / "config.json")
    lines = ["## Data", ""]
    data = read_json(run / "data.json") if (run / "data.json").is_file() else {}
    lines += [f"- `{path}`, sha256 of its index `{digest}`" for path, digest in data.items()] or ["Not recorded."]
    recipe = {key: config[key] for key in _RECIPE if key in config}
    return [*lines, "", "## Recipe", "", "```json", json.dumps(recipe, indent=1), "```", ""]


def _probes(folder: Path) -> list[str]:
    result = read_json(folder / "probe.json")
    try:
        rows = [_row(row) for row in result["rows"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{folder / 'probe.json'} is not what `jepa probe` writes: {error!r}") from error
    head = [
        "| task | probe | features | weights | metric | mean | 95 % interval over seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    return ["## Probes of the frozen encoder", "", *head, *rows, ""]


def _row(row: dict[str, Any]) -> str:
    cells = [row[key] for key in ("title", "probe", "view", "row", "metric")]
    low, high = (f"{x:.3f}" if x is not None else "–" for x in row["t95"])
    mean = f"{row['mean']:.3f}" if row["mean"] is not None else "–"
    return "| " + " | ".join([*map(str, cells), mean, f"{low} to {high}"]) + " |"
