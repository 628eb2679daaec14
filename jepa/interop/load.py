"""`jepa.load`: a released model, a converted one or a run of ours, from the hub, a folder or a file."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError, from_dict
from jepa.interop.hf import from_hf
from jepa.interop.meta import ENCODERS, from_meta
from jepa.interop.model import Model, ModelConfig, Tensors, assemble
from jepa.interop.run import DROP_PATH_COUNTER, from_run
from jepa.interop.tensors import PICKLES, read_folder, read_json, read_pickle, read_safetensors
from jepa.models.encoder import EncoderConfig

FORMAT = "jepa-model-1"

_WHICH = ("target", *ENCODERS)


def load(
    source: str | Path,
    heads: int | Mapping[str, int] | None = None,
    which: str = "target",
    classifier: str | Path | None = None,
) -> Model:
    """The parts of a model, frozen, in fp32 on the CPU; a part that the source lacks is None.

    Args:
        source: a hub id (`facebook/vjepa2-vitl-fpc64-256`), a folder (ours or transformers'), a .pt or .safetensors
            file of Meta's, or a run of ours.
        heads: attention heads of the encoder, or by part, where neither a config nor the known sizes say.
        which: of the encoders in a training checkpoint, `target` (the EMA), `encoder`, `target_encoder` or
            `ema_encoder`.
        classifier: a second source, of which the classifier is taken; Meta's probes are files of their own.

    Raises:
        CheckpointError: what cannot be found, read safely, or is of another kind; MismatchError where tensors do not
            fit, with all of them in `problems`.
        ConfigError: heads that must be given, a `which` that is none.
    """
    if which not in _WHICH:
        raise ConfigError(f"which='{which}' is not one of {', '.join(_WHICH)}")
    by_part = {"encoder": heads} if isinstance(heads, int) else dict(heads or {})
    where = str(source)
    try:
        if classifier is None:
            config, tensors = _read(source, by_part, which)
        else:
            probe_heads = {part: by_part.pop(part) for part in ("classifier",) if part in by_part}
            config, tensors = _read(source, by_part, which)
            probe, more = _read(classifier, probe_heads, which)
            if not probe.classifier or probe.width != config.width:
                raise CheckpointError(f"{classifier} holds no classifier of tokens of width {config.width}")
            config = replace(config, classifier=probe.classifier)
            kept = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
            tensors = kept | {k: v for k, v in more.items() if k.startswith("classifier.")}
        return assemble(config, tensors, where)
    except (CheckpointError, ConfigError):
        raise
    except ValueError as error:  # heads that do not divide a width
        raise ConfigError(f"{where}: {error}") from error


def _read(source: str | Path, heads: Mapping[str, int], which: str) -> tuple[ModelConfig, Tensors]:
    """Config and tensors by our names, of whatever kind the source is."""
    path, where = Path(_fetched(source)), str(source)
    if path.is_file() and path.name == "model.safetensors" and (path.parent / "config.json").is_file():
        path = path.parent
    if path.is_file():
        return _read_file(path, heads, which, where)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{where} is no model: it has no config.json")
    values = read_json(path / "config.json")
    if "model_type" in values:
        config, tensors = from_hf(values, read_folder(path), heads, where)
        return _settled(config, {}, which, where), tensors
    if values.get("format") == FORMAT:
        known = {key: value for key, value in values.items() if key != "format"}
        config = from_dict(ModelConfig, known, str(path / "config.json"))
        return _settled(config, heads, which, where), read_folder(path)
    if "objective" in values or "world" in values:
        config, tensors = from_run(path, which)
        return _settled(config, heads, config.which or which, where), tensors
    raise CheckpointError(f"{where} is no model: its config.json is neither ours nor transformers' nor that of a run")


def _read_file(path: Path, heads: Mapping[str, int], which: str, where: str) -> tuple[ModelConfig, Tensors]:
    if path.suffix in PICKLES:
        return from_meta(read_pickle(path), which, heads, where)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{where} is neither a .safetensors file nor one of {', '.join(PICKLES)}")
    found, metadata = read_safetensors(path)
    if "config" not in metadata:
        return from_meta(dict(found), which, heads, where)
    # The encoder that lies beside a world model of ours, and says its own shape.
    shape = from_dict(EncoderConfig, json.loads(metadata["config"]), where)
    config = ModelConfig(shape.width, origin=where, encoder=replace(shape, drop_path=0.0, checkpointing="none"))
    own = {f"encoder.{key}": value for key, value in found.items() if not key.endswith(DROP_PATH_COUNTER)}
    return _settled(config, heads, which, where), own


def _settled(config: ModelConfig, heads: Mapping[str, int], which: str, where: str) -> ModelConfig:
    """The config, of a source that leaves no choice. Raises ConfigError where one was made all the same."""
    if heads:
        raise ConfigError(f"{where} says itself how many heads it has: leave heads=… out")
    if which not in ("target", config.which):
        raise ConfigError(f"{where} holds one encoder ({config.which or 'it does not say which'}): leave which=… out")
    return config


def _fetched(source: str | Path) -> str | Path:
    """A path that is there; what is none, and looks like the name of a hub repository, is downloaded."""
    if Path(source).exists():
        return source
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or Path(source).suffix in (*PICKLES, ".safetensors"):
        raise CheckpointError(f"no run at {source}, and no model: no such file or folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return snapshot_download(str(source), allow_patterns=["config.json", "*.safetensors", "*.index.json"])
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{source} is no path here, and the hub does not give it: {line}") from error
