"""Self-made questions show what their class says, from the coin alone, and nothing that gives it away."""

import pytest
import torch

from jepa.probes import made
from jepa.probes.clips import ClipSet
from jepa.probes.kinds.base import ProbeError
from jepa.probes.tasks import TASKS

COINS = torch.tensor([0.0, 0.1, 0.26, 0.49, 0.5, 0.74, 0.76, 0.999], dtype=torch.float64)
MADE = [name for name, task in TASKS.items() if task.make]


def clips(length: int, side: int = 16) -> torch.Tensor:
    """(8, length, 3, side, side) uint8; every frame is filled with its number in time."""
    return torch.arange(length, dtype=torch.uint8)[None, :, None, None, None].expand(8, -1, 3, side, side).clone()


def times(frames: torch.Tensor) -> list[list[int]]:
    return frames[:, :, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", MADE)
def test_a_question_leaves_its_clips_alone_and_is_a_function_of_the_coin(name):
    frames = torch.randint(0, 255, (8, 8, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = frames.clone()
    shown, classes = TASKS[name].make(frames, COINS)
    assert torch.equal(frames, before) and shown.dtype == torch.uint8 and classes.dtype == torch.int64
    again, same = TASKS[name].make(frames.flip(0), COINS.flip(0))  # rows do not mix
    assert torch.equal(again.flip(0), shown) and torch.equal(same.flip(0), classes)
    assert set(classes.tolist()) == set(range(4 if name == "direction" else 2))
    target, rows = TASKS[name].target(ClipSet(frames, torch.arange(8), COINS, {}))
    assert torch.equal(target, classes) and rows.all()


def test_the_arrow_of_time_turns_clips_whose_coin_is_below_a_half():
    shown, classes = made.arrow(clips(4), COINS)
    assert classes.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert times(shown) == [[3, 2, 1, 0]] * 4 + [[0, 1, 2, 3]] * 4


def test_halves_are_swapped_between_tubelets():
    shown, classes = made.order(clips(8), COINS)
    assert times(shown)[0] == [4, 5, 6, 7, 0, 1, 2, 3] and times(shown)[7] == list(range(8))
    assert times(made.order(clips(6), COINS)[0])[0] == [2, 3, 4, 5, 0, 1]
    assert classes.tolist() == [1] * 4 + [0] * 4


def test_a_fast_clip_shows_every_second_frame_and_no_more_of_them():
    shown, classes = made.speed(clips(8), COINS)
    assert times(shown) == [
        *([0, 2, 4, 6], [0, 2, 4, 6], [1, 3, 5, 7], [1, 3, 5, 7]),
        *([0, 1, 2, 3], [2, 3, 4, 5], [2, 3, 4, 5], [4, 5, 6, 7]),
    ]
    assert classes.tolist() == [1] * 4 + [0] * 4


def test_a_window_slides_the_way_its_class_says():
    """A picture that tells its own place: red is the column, green the row."""
    ramp = (torch.arange(16) * 10).to(torch.uint8)
    picture = torch.stack((ramp.expand(16, 16), ramp[:, None].expand(16, 16), torch.zeros(16, 16, dtype=torch.uint8)))
    shown, classes = made.direction(picture.expand(8, 4, -1, -1, -1), COINS)
    assert shown.shape == (8, 4, 3, 16, 16) and classes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    middle = shown[:, :, :2, 8, 8].float()  # (B, T, column and row)
    moved = (middle[:, -1] - middle[:, 0]).sign().tolist()
    assert moved == [[-1, 0]] * 2 + [[1, 0]] * 2 + [[0, -1]] * 2 + [[0, 1]] * 2
    assert middle[0, 0, 1] != middle[1, 0, 1]  # where the window stands across its way is up to the coin


@pytest.mark.parametrize("name", ["order", "speed"])
def test_clips_without_halves_are_refused(name):
    with pytest.raises(ProbeError, match="raise frames to 4"):
        TASKS[name].make(clips(3), COINS)


def target(name: str, values: torch.Tensor):
    return TASKS[name].target(ClipSet(clips(3)[:3], torch.arange(3), COINS[:3], {TASKS[name].needs: values}))


def test_a_class_below_zero_is_none():
    values, rows = target("phase", torch.tensor([[0, 0, 2], [1, 1, -1], [3, 3, 3]]))
    assert rows.tolist() == [True, False, True] and values[rows].tolist() == [2, 3]
    values, rows = target("skill", torch.tensor([[2, 2, 2], [-1, -1, -1], [0, 2, 2]]))
    assert rows.tolist() == [True, False, False] and values[rows].tolist() == [2] and values.min() == 0


@pytest.mark.parametrize("name", ["gripper", "state", "object"])
def test_a_value_that_is_nan_is_none(name):
    given = torch.ones(3, 3, 4)
    given[1, -1, 1] = torch.nan  # at the last frame, which is what is asked for
    given[2, 0] = torch.nan
    values, rows = target(name, given)
    assert rows.tolist() == [True, False, True] and values[rows].isfinite().all()
