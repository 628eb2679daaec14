"""Scores of label maps as sums over images, so that a score and its bootstrap are the same formula."""

import numpy as np
import torch
from torch import Tensor

from jepa.probes.metrics import Array

UNKNOWN = 255  # class of a pixel without a label
DELTA = 1.25  # a depth within this factor is right


def has_label(maps: Tensor) -> Tensor:
    """Which pixels of maps, of classes or of depths (floating point), have a label: mask of the same shape."""
    return (maps > 0) & maps.isfinite() if maps.is_floating_point() else maps != UNKNOWN


def map_sums(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Maps (B, H, W) -> sums per image over the pixels with a label, float64 on the CPU.

    Of classes (B, 3C): pixels of each class that are right, that are predicted, and that there are. Of depths (B, 4):
    squared error, relative error, how many are within a factor of 1.25, and how many there are.
    """
    known = has_label(truth)
    if truth.is_floating_point():
        true = torch.where(known, truth, 1.0).double()
        made = torch.where(known, predicted, 1.0).double()
        ratio = torch.maximum(made / true, true / made)
        parts = torch.stack(((made - true) ** 2, (made - true).abs() / true, ratio < DELTA, torch.ones_like(true)), 1)
        return (parts * known[:, None]).flatten(2).sum(2).cpu()
    image = torch.arange(len(truth), device=truth.device)[:, None, None]

    def count(labels: Tensor, which: Tensor) -> Tensor:
        cells = (image * classes + labels.long())[which]
        return torch.bincount(cells, minlength=len(truth) * classes).view(len(truth), classes)

    parts = (count(truth, known & (predicted == truth)), count(predicted, known), count(truth, known))
    return torch.cat(parts, dim=1).double().cpu()


def scores_of(sums: Array, is_depth: bool) -> dict[str, Array]:
    """Sums (…, S) of `map_sums` -> scores (…).

    `miou`, the mean intersection over union of the classes that occur, and `pixel_accuracy`; or `rmse` (m), `abs_rel`
    and `delta1`, all over pixels.
    """
    if is_depth:
        squared, relative, within, count = np.moveaxis(sums, -1, 0)
        return {"rmse": np.sqrt(squared / count), "abs_rel": relative / count, "delta1": within / count}
    right, predicted, true = np.split(sums, 3, axis=-1)
    iou = np.divide(right, predicted + true - right, out=np.zeros_like(right), where=true > 0)
    return {"miou": iou.sum(-1) / (true > 0).sum(-1), "pixel_accuracy": right.sum(-1) / true.sum(-1)}
