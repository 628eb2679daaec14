"""Writes a model in our layout, transformers' or Meta's, whole or not at all; and uploads it."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError, to_dict
from jepa.interop.card import card
from jepa.interop.hf import to_hf
from jepa.interop.hf_config import processor_config, to_hf_config
from jepa.interop.load import FORMAT
from jepa.interop.meta import to_meta
from jepa.interop.model import Model

LAYOUTS = ("ours", "hf", "meta")


def save(model: Model, out: str | Path, to: str = "ours", run: str | Path = "", probe: str | Path = "") -> None:
    """Write `model` to `out`: a folder, or with `to="meta"` a .pt file. What is there already is never touched.

    `run`, the training run that it comes from, and `probe`, a folder with probe.json, tell the model card of data,
    recipe and probe results.

    Raises:
        CheckpointError: `out` exists, or the layout cannot hold this model.
        ConfigError: no such layout.
    """
    out = Path(out)
    if to not in LAYOUTS:
        raise ConfigError(f"no layout '{to}'; there are: {', '.join(LAYOUTS)}")
    if out.exists():
        raise CheckpointError(f"{out} is there already; choose another name or remove it")
    if model.config.ac_standardised:
        raise CheckpointError(
            f"{model.config.origin} is a world model of ours, of which no layout has the scales; copy the run folder"
        )
    config, tensors = model.config, {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")  # nobody else's, whatever lies there
    if partial.exists():
        raise CheckpointError(f"{partial} is in the way; remove it")
    try:
        if to == "meta":
            if out.suffix != ".pt":
                raise ConfigError(f"{out}: Meta's layout is one file, whose name must end in .pt")
            values = to_meta(config, tensors)
            partial.parent.mkdir(parents=True, exist_ok=True)
            torch.save(values, partial)
        elif to == "hf":
            _write(partial, to_hf_config(config), to_hf(config, tensors), card(model, run, probe, hf=True))
            (partial / "video_preprocessor_config.json").write_text(json.dumps(processor_config(config), indent=1))
        else:
            _write(partial, {"format": FORMAT, **to_dict(config)}, tensors, card(model, run, probe))
        partial.rename(out)
    except BaseException:
        _remove(partial)
        raise


def push(model: Model, repo_id: str, private: bool, run: str | Path = "", probe: str | Path = "") -> str:
    """Upload what `save` writes in our layout to a repository of the hub, made if need be; returns its address."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model", run=run, probe=probe)
        api = HfApi()
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model")
    return str(address)


def _write(folder: Path, config: dict[str, object], tensors: dict[str, Tensor], text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "README.md").write_text(text)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
