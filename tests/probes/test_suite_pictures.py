"""Pictures of the suite show the clips, neighbours, components and looks that they say they show."""

import numpy as np
import pytest
import torch

from jepa.models.encoder import build_encoder
from jepa.probes.clips import ClipSet
from jepa.probes.suite.pictures import COLUMNS, DIM, components, looks, nearest, stills


@pytest.fixture
def encoder(tiny):
    return build_encoder(tiny, 0).eval().requires_grad_(False)


def clips(count: int, length: int = 4) -> ClipSet:
    shape = (count, length, 3, 16, 16)
    frames = torch.randint(0, 255, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ClipSet(frames, torch.arange(count), torch.zeros(count), {})


def test_stills_run_from_the_first_frame_to_the_last():
    clip = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 3, 4, 4)
    assert stills(clip).shape == (COLUMNS, 4, 4, 3)
    assert stills(clip, 3)[:, 0, 0, 0].tolist() == [0, 10, 19] and len(stills(clip[:2])) == 2


def test_a_clip_of_the_bank_is_its_own_nearest(encoder):
    bank = clips(6)
    queries = ClipSet(bank.frames[[4]], bank.episodes[[4]], bank.coins[[4]], {})
    strips = nearest(encoder, bank, queries)
    assert [name for name, _ in strips] == ["clip", "nearest 1", "nearest 2", "nearest 3"]
    assert np.array_equal(strips[1][1], strips[0][1]) and not np.array_equal(strips[2][1], strips[0][1])


def test_components_are_constant_in_a_patch_and_tell_patches_apart(encoder):
    strips = components({"ours": encoder}, clips(5).frames, shown=2)
    assert len(strips) == 4 and strips[1][0].startswith("ours (")
    drawn = strips[1][1]
    assert drawn.shape == (2, 16, 16, 3) == strips[0][1].shape  # one picture for each step in time
    cells = drawn.reshape(2, 4, 4, 4, 4, 3)
    assert (cells == cells[:, :, :1, :, :1]).all() and len(np.unique(cells[:, :, 0, :, 0].reshape(-1, 3), axis=0)) > 16


def test_what_is_looked_at_keeps_its_brightness(encoder):
    frames = torch.full((1, 4, 3, 16, 16), 200, dtype=torch.uint8)
    weights = torch.zeros(1, 32)
    weights[0, 16 + 4 + 2] = 0.5  # second step, row 1, column 2
    (_, seen), (name, looked) = looks(weights, encoder, frames, ["forwards"])
    assert name == "attention (up to 32.0 × even)"
    assert (seen == 200).all() and looked.shape == (2, 16, 16, 3)
    bright = looked[1, 4:8, 8:12]
    assert (bright == 200).all() and (looked == 200).sum() == bright.size
    assert (looked[0] == int(200 * DIM)).all()
