"""Where a model lies: a path that is there, or a repository of the Hugging Face hub, which is then downloaded."""

import re
from pathlib import Path

from jepa.checkpoint import CheckpointError
from jepa.interop.tensors import PICKLES
from jepa.logs import console


def fetched(source: str | Path) -> Path:
    """The path of `source`; what is none, and looks like the name of a hub repository, is asked for there, and said.

    Raises:
        CheckpointError: it is neither, or the hub does not give it.
    """
    if Path(source).exists():
        return Path(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or Path(source).suffix in (*PICKLES, ".safetensors"):
        raise CheckpointError(f"no run at {source}, and no model: no such file or folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    console.print(f"{source} is no path here: asking the Hugging Face hub", soft_wrap=True, highlight=False)
    try:
        return Path(snapshot_download(str(source), allow_patterns=["config.json", "*.safetensors", "*.index.json"]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{source} is no path here, and the hub does not give it: {line}") from error
