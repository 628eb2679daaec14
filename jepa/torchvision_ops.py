"""Lets timm (and transformers) import beside a torchvision whose compiled operators do not fit this torch.

Importing a CUDA build of torchvision next to a CPU torch fails with `operator torchvision::nms does not
exist`. Declaring the two missing operators is enough for everything but `ops.nms` itself. Where torch and
torchvision come from one place nothing happens here.
"""

import torch

_library: torch.library.Library | None = None  # a Library that is collected takes its operators with it


def make_torchvision_importable() -> None:
    """Import torchvision; declare its `nms` operators first if, and only if, that very error appears."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
