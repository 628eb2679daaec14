"""The hardest clips are the surest mistakes, and the sheet shows them and no others."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from jepa.data.errors import DataError
from jepa.probes.published import hardest

NAMES = ("pour", "cut", "stir")
PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.5, 0.1, 0.4], [0.05, 0.0, 0.95]])
LABELS = np.array([0, 0, 1, 2, 0])


def test_the_surest_mistakes_come_first():
    found = hardest.hardest(PROBABILITIES, LABELS, NAMES, 4)
    assert [one["clip"] for one in found] == [4, 1, 3, 2]  # the last one is right, by little
    assert found[0] == {"clip": 4, "true": "pour", "predicted": "stir", "confidence": 0.95, "of_true": 0.05}
    assert found[3]["true"] == found[3]["predicted"] == "cut"
    assert PROBABILITIES[4, 0] == 0.05  # what is read is left alone


def test_sheet_and_list(tmp_path):
    found = hardest.hardest(PROBABILITIES, LABELS, NAMES, 3)

    def frames(i):
        if i == 1:
            raise DataError("cut off")
        return torch.full((16, 3, 20, 30), 40 * i, dtype=torch.uint8)

    hardest.write(found, [f"{i}.mp4" for i in range(5)], frames, tmp_path, "hardest")
    listed = json.loads((tmp_path / "hardest.json").read_text())
    assert [one["video"] for one in listed] == ["4.mp4", "1.mp4", "3.mp4"]
    assert listed[1]["unread"] == "cut off" and "unread" not in listed[0]
    sheet = np.asarray(Image.open(tmp_path / "hardest.png"))
    assert sheet.shape[0] >= 128 and sheet.shape[1] >= hardest.STRIP * 128
    colours = {int(c): n for c, n in zip(*np.unique(sheet, return_counts=True), strict=True)}
    whole = 3 * hardest.STRIP * 128**2
    assert colours[160] == pytest.approx(whole, rel=0.01) and colours[120] == pytest.approx(whole, rel=0.01)
    assert colours.get(40, 0) < 0.1 * whole  # the clip that cannot be read
