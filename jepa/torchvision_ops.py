"""Lets timm, accelerate's launcher and transformers import beside a torchvision whose compiled operators do not load.

Importing a CUDA build of torchvision next to a CPU torch fails with `operator torchvision::nms does not exist`.
Declaring the two missing operators is enough for everything but `ops.nms` and `io.decode_image` themselves. It has
to happen before anybody's first `import torchvision`, also in programs that do not import us (`accelerate launch`
does, through timm): so it is the package's entry point in the group `torch.backends`, which torch calls at the end
of its own import. Where torch and torchvision come from one place nothing happens here.
"""

import importlib.util
from pathlib import Path

import torch

_library: torch.library.Library | None = None  # a Library that is collected takes its operators with it


def declare_missing_operators() -> None:
    """Declare torchvision's `nms` operators if torch is a CPU build and torchvision is not."""
    global _library
    if _library is not None or torch.version.cuda is not None or not _torchvision_needs_cuda():
        return
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _torchvision_needs_cuda() -> bool:
    """Read from the version file: to import torchvision is what fails."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    return version.is_file() and "+cu" in version.read_text()
