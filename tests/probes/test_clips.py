"""Clips are the frames and labels they say they are, the same for the same seed, and never on both sides."""

import os

import numpy as np
import pytest
import torch

from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.probes.clips import ClipSpec, Episodes, draw_windows, folds, load_clips, make_clips, open_split, too_short
from jepa.probes.kinds.base import ProbeError
from jepa.probes.store import Store

SPEC = ClipSpec(frames=4, fps=0, size=32, per_episode=3, max_clips=100)


@pytest.fixture
def episodes(moving_square) -> Episodes:
    return Episodes(Manifest.load(moving_square), tuple(range(6)))


def ignore(done: int) -> None:
    pass


def test_clips_are_the_episodes_frames_and_labels(episodes, tmp_path):
    clips = load_clips(make_clips(tmp_path, episodes, SPEC, [3], ignore)[3])
    windows = draw_windows(episodes, SPEC, 3)
    assert clips.frames.shape == (18, 4, 3, 32, 32)
    for k in (0, 7, 17):
        sample = episodes.manifest.read(windows[k].episode)
        pixels = decode(sample.video, windows[k].frame_ids.tolist())
        assert np.array_equal(clips.frames[k].permute(0, 2, 3, 1).numpy(), pixels)
        assert np.array_equal(clips.arrays["states"][k].numpy(), sample.arrays["states"][windows[k].frame_ids])
        assert np.array_equal(clips.arrays["frame_ids"][k].numpy(), windows[k].frame_ids)
        assert clips.episodes[k] == windows[k].episode and clips.coins[k] == windows[k].coin


def test_a_seed_draws_clips_and_coins(episodes, tmp_path):
    paths = make_clips(tmp_path, episodes, SPEC, [0, 1], ignore)
    again = make_clips(tmp_path / "again", episodes, SPEC, [1], ignore)
    assert paths[1].read_bytes() == again[1].read_bytes()  # alone or beside another seed
    a, b = (load_clips(paths[s]) for s in (0, 1))
    assert torch.equal(b.frames, load_clips(again[1]).frames)
    assert not torch.equal(a.frames, b.frames) and not torch.equal(a.coins, b.coins)
    assert a.coins.dtype == torch.float64 and 0 <= a.coins.min() < 0.5 < a.coins.max() < 1


def test_clips_are_made_once(episodes, tmp_path):
    path = make_clips(tmp_path, episodes, SPEC, [0], ignore)[0]
    stamp, calls = path.stat().st_mtime_ns, []
    assert make_clips(tmp_path, episodes, SPEC, [0], calls.append)[0].stat().st_mtime_ns == stamp
    assert calls == [6]  # nothing left to do but to say so
    other = ClipSpec(frames=2, fps=0, size=32, per_episode=3, max_clips=100)
    assert make_clips(tmp_path, episodes, other, [0], ignore)[0] != path


def test_the_frames_of_one_episode_are_in_memory_at_a_time(episodes, tmp_path, monkeypatch):
    written, write = [], Store.write
    monkeypatch.setattr(
        Store, "write", lambda store, ids, values: (written.append(len(ids)), write(store, ids, values))
    )
    make_clips(tmp_path, episodes, SPEC, [0, 1], ignore)
    assert written == [3] * 12


def test_a_damaged_cache_is_one_line(episodes, tmp_path):
    path = make_clips(tmp_path, episodes, SPEC, [0], ignore)[0]
    frames = next(tmp_path.rglob("values.bin"))
    os.truncate(frames, frames.stat().st_size - 1)
    with pytest.raises(ProbeError, match=f"not readable; remove {tmp_path} and start again"):
        load_clips(path)
    path.write_bytes(b"")
    with pytest.raises(ProbeError, match="not readable"):
        load_clips(path)


def test_frames_are_taken_at_the_rate_asked_for(episodes):
    windows = draw_windows(episodes, ClipSpec(4, 2.0, 32, 2, 100), 0)  # the videos have 4 frames per second
    assert all(np.array_equal(np.diff(w.frame_ids), [2, 2, 2]) for w in windows)
    assert all(w.frame_ids[0] >= 0 and w.frame_ids[-1] < 12 for w in windows)


def test_windows_are_capped_and_distinct(episodes):
    windows = draw_windows(episodes, ClipSpec(4, 0, 32, 50, 100), 0)
    assert len({(w.episode, w.frame_ids[0]) for w in windows}) == len(windows) == 6 * 9
    assert len(draw_windows(episodes, ClipSpec(4, 0, 32, 50, 10), 0)) == 10


def test_too_short_videos_are_an_error(episodes):
    with pytest.raises(ProbeError, match="no episode has 13 frames"):
        draw_windows(episodes, ClipSpec(13, 0, 32, 1, 100), 0)
    keys = [entry.key for entry in episodes.manifest]
    assert too_short(episodes, ClipSpec(13, 0, 32, 1, 100)) == keys
    assert not too_short(episodes, ClipSpec(12, 0, 32, 1, 100))
    assert too_short(episodes, ClipSpec(4, 1.0, 32, 1, 100)) == keys and not too_short(
        episodes, ClipSpec(3, 1.0, 32, 1, 100)
    )


def test_a_split_shares_no_episode(moving_square):
    for seed in range(5):
        train, test = open_split(str(moving_square), "", seed)
        assert not set(train.ids) & set(test.ids)
        assert sorted((*train.ids, *test.ids)) == list(range(6)) and len(test.ids) == 1
    assert open_split(str(moving_square), "", 0)[1].ids == open_split(str(moving_square), "", 0)[1].ids


def test_folds_test_every_episode_once(episodes):
    parts = folds(episodes, 4, 1)
    assert sorted(i for part in parts for i in part) == list(range(6)) and sorted(map(len, parts)) == [1, 1, 2, 2]
    assert folds(episodes, 4, 1) == parts != folds(episodes, 4, 2)
    with pytest.raises(ProbeError, match="has 6 episodes, too few for 7 folds"):
        folds(episodes, 7, 0)


def test_the_same_videos_on_both_sides_are_refused(moving_square, tmp_path):
    with pytest.raises(ProbeError, match="share a video"):
        open_split(str(moving_square), str(moving_square), 0)
    with pytest.raises(DataError, match="no such folder"):
        open_split(str(moving_square), str(tmp_path / "nothing"), 0)
