"""`jepa.load`: a released model, a converted one or a run of ours, from the hub, a folder or a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError, from_dict
from jepa.interop.hf import from_hf
from jepa.interop.hub import fetched
from jepa.interop.meta import ENCODERS, from_meta
from jepa.interop.model import Model, ModelConfig, Tensors, assemble
from jepa.interop.notes import tell
from jepa.interop.run import DROP_PATH_COUNTER, from_run
from jepa.interop.shapes import PARTS, Choice
from jepa.interop.tensors import PICKLES, read_folder, read_json, read_pickle, read_safetensors
from jepa.models.encoder import EncoderConfig

FORMAT = "jepa-model-1"

_WHICH = ("target", *ENCODERS)


def load(
    source: str | Path,
    heads: int | Mapping[str, int] | None = None,
    which: str = "target",
    classifier: str | Path | None = None,
    blocks: int | Mapping[str, int] | None = None,
    parts: Sequence[str] = PARTS,
) -> Model:
    """The parts of a model, frozen, in fp32 on the CPU; a part that the source lacks is None.

    What was read, and what is odd in it, is printed on stderr, once in a process.

    Args:
        source: a hub id (`facebook/vjepa2-vitl-fpc64-256`), a folder (ours or transformers'), a .pt or .safetensors
            file of Meta's, or a run of ours.
        heads: attention heads of the encoder, or by part, where neither a config nor the known sizes say. Those of a
            classifier of transformers' may always be given: it is then read as Meta trained it.
        which: of the encoders in a training checkpoint, `target` (the EMA), `encoder`, `target_encoder` or
            `ema_encoder`.
        classifier: a second source, of which the classifier is taken; Meta's probes are files of their own.
        blocks: how many blocks the encoder has, or by part, where a file has fewer than one knows of such a part.
        parts: those to take, of `encoder`, `predictor`, `ac_predictor` and `classifier`; others need not fit.

    Raises:
        CheckpointError: what cannot be found, read safely, or is of another kind; MismatchError where tensors do not
            fit, with all of them in `problems`.
        ConfigError: heads that must be given, a `which` that is none.
    """
    if which not in _WHICH:
        raise ConfigError(f"which='{which}' is not one of {', '.join(_WHICH)}")
    if not set(parts) <= set(PARTS) or ("encoder" not in parts and set(parts) != {"classifier"}):
        raise ConfigError(
            f"parts '{','.join(parts)}': are of {', '.join(PARTS)}; all but the classifier need the first"
        )
    choice = Choice(which, _by_part(heads), _by_part(blocks), tuple(parts))
    where = str(source)
    try:
        if classifier is None:
            config, tensors = _read(source, choice)
        else:
            config, tensors = _with_classifier(source, classifier, choice)
        model = assemble(config, tensors, where)
    except (CheckpointError, ConfigError):
        raise
    except ValueError as error:  # heads that do not divide a width
        raise ConfigError(f"{where}: {error}") from error
    tell(model)
    return model


def _by_part(counts: int | Mapping[str, int] | None) -> dict[str, int]:
    return {"encoder": counts} if isinstance(counts, int) else dict(counts or {})


def _with_classifier(source: str | Path, classifier: str | Path, choice: Choice) -> tuple[ModelConfig, Tensors]:
    """The classifier from the second source, all else from the first."""

    def told(parts: tuple[str, ...], which: str) -> Choice:
        heads, blocks = (
            {part: n for part, n in counts.items() if part in parts} for counts in (choice.heads, choice.blocks)
        )
        return Choice(which, heads, blocks, parts)

    config, tensors = _read(source, told(tuple(p for p in choice.parts if p != "classifier"), choice.which))
    probe, more = _read(classifier, told(("classifier",), "target"))
    if not probe.classifier or probe.width != config.width:
        raise CheckpointError(f"{classifier} holds no classifier of tokens of width {config.width}")
    return replace(config, classifier=probe.classifier, remarks=config.remarks + probe.remarks), tensors | more


def _read(source: str | Path, choice: Choice) -> tuple[ModelConfig, Tensors]:
    """Config and tensors by our names, of whatever kind the source is, and only of the parts that are to be taken."""
    config, tensors = _read_all(source, choice)
    gone: dict[str, Any] = {part: None for part in PARTS if part not in choice.parts}
    if "encoder" in gone:
        gone |= {"levels": ()}
    if "predictor" in gone:
        gone |= {"mask_tokens": 0, "mask_index": 0}
    return replace(config, **gone), {k: v for k, v in tensors.items() if k.split(".")[0] not in gone}


def _read_all(source: str | Path, choice: Choice) -> tuple[ModelConfig, Tensors]:
    path, where = fetched(source), str(source)
    if path.is_file() and path.name == "model.safetensors" and (path.parent / "config.json").is_file():
        path = path.parent
    if path.is_file():
        return _read_file(path, choice, where)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{where} is no model: it has no config.json")
    values = read_json(path / "config.json")
    if "model_type" in values:
        config, tensors = from_hf(values, read_folder(path), choice, where)
        return _settled(config, replace(choice, heads={}), where), tensors
    if values.get("format") == FORMAT:
        known = {key: value for key, value in values.items() if key != "format"}
        config = from_dict(ModelConfig, known, str(path / "config.json"))
        return _settled(config, choice, where), read_folder(path)
    if "objective" in values or "world" in values:
        config, tensors = from_run(path, choice.which)
        return _settled(config, replace(choice, which=config.which or choice.which), where), tensors
    raise CheckpointError(f"{where} is no model: its config.json is neither ours nor transformers' nor that of a run")


def _read_file(path: Path, choice: Choice, where: str) -> tuple[ModelConfig, Tensors]:
    if path.suffix in PICKLES:
        return from_meta(read_pickle(path), choice, where)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{where} is neither a .safetensors file nor one of {', '.join(PICKLES)}")
    found, metadata = read_safetensors(path)
    if "config" not in metadata:
        return from_meta(dict(found), choice, where)
    # The encoder that lies beside a world model of ours, and says its own shape.
    shape = from_dict(EncoderConfig, json.loads(metadata["config"]), where)
    config = ModelConfig(shape.width, origin=where, encoder=replace(shape, drop_path=0.0, checkpointing="none"))
    own = {f"encoder.{key}": value for key, value in found.items() if not key.endswith(DROP_PATH_COUNTER)}
    return _settled(config, choice, where), own


def _settled(config: ModelConfig, choice: Choice, where: str) -> ModelConfig:
    """The config, of a source that leaves no choice. Raises ConfigError where one was made all the same."""
    if choice.heads or choice.blocks:
        raise ConfigError(f"{where} says itself how many heads and blocks it has: leave heads=… and blocks=… out")
    if choice.which not in ("target", config.which):
        raise ConfigError(f"{where} holds one encoder ({config.which or 'it does not say which'}): leave which=… out")
    return config
