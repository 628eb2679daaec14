"""Clips: right shapes, frames and arrays, the same for any number of workers and ranks; bad samples are listed."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa.data.clip import Clip
from jepa.data.config import DataConfig, DataSet, load_manifests
from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.loader import Clips, clips, episodes
from jepa.data.order import Mixture, order
from jepa.data.pack import PackConfig, pack

CONFIG = DataConfig(frames=4, fps=4, size=24, crop_scale=(0.5, 1.0))
PLAIN = DataConfig(frames=4, fps=0, size=48, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False)


def assert_same(a: Clip, b: Clip) -> None:
    for name in ("frames", "sample_id", "valid"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.actions is None) == (b.actions is None) and a.labels.keys() == b.labels.keys()
    for x, y in [(a.actions, b.actions), (a.states, b.states), *((a.labels[k], b.labels[k]) for k in a.labels)]:
        assert x is y is None or torch.equal(x, y)


def assert_all_same(a: Sequence[Clip], b: Sequence[Clip]) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert_same(x, y)


def draw(manifest: Manifest, config: DataConfig, steps: int = 4, **more: int) -> list[Clip]:
    return list(clips([manifest], config, **{"batch_size": 8, "seed": 3, **more}, steps=steps))


def damage(folder: Path, ids: Sequence[int]) -> Manifest:
    """Flip a byte in the videos `ids`."""
    manifest = Manifest.load(folder)
    for i in ids:
        entry = manifest[i]
        data = bytearray((folder / entry.shard).read_bytes())
        data[entry.members["mp4"][0] + 99] ^= 255
        (folder / entry.shard).write_bytes(data)
    return manifest


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def test_shapes_types_and_labels(manifest: Manifest) -> None:
    clip = draw(manifest, PLAIN)[0]
    assert clip.frames.shape == (8, 4, 3, 48, 48) and clip.frames.dtype == torch.uint8
    assert clip.frames.is_contiguous()
    assert clip.sample_id.shape == (8,) and clip.sample_id.dtype == torch.int64
    assert clip.valid.shape == (8, 4) and clip.valid.all()
    assert clip.actions is not None and clip.actions.shape == (8, 3, 7)
    assert clip.states is not None and clip.states.shape == (8, 4, 7)
    assert clip.labels["skill"].shape == (8, 4) and clip.labels["object_pos"].shape == (8, 4, 3)
    assert clip.labels["skill"].dtype == torch.int64
    assert_same(clip.to("cpu"), clip)


def test_arrays_belong_to_their_frames(manifest: Manifest, make: SimpleNamespace) -> None:
    for clip in draw(manifest, PLAIN):
        numbers = make.numbers(clip.frames)
        assert (numbers.diff() == 1).all()
        assert clip.states is not None and clip.actions is not None
        assert torch.equal(clip.states[..., 0].long(), numbers)
        assert torch.equal(-clip.actions[..., 6].long(), numbers[:, :-1])
        assert torch.equal(clip.labels["skill"], numbers % 2)
        assert torch.equal(clip.labels["object_pos"][:, 0, 0].long(), clip.sample_id)


def test_frame_rate(manifest: Manifest, make: SimpleNamespace) -> None:
    """10 frames a second asked at 4: V-JEPA 2's window of 8 frames; actions would not fit and are left out."""
    for clip in draw(manifest, CONFIG):
        numbers = make.numbers(clip.frames)
        assert torch.equal(numbers - numbers[:, :1], torch.tensor([0, 2, 5, 7]).expand(8, 4)) or not clip.valid.all()
        assert clip.actions is None and clip.states is None  # mirrored frames have other states
        assert set(clip.labels) == {"skill", "object_pos"}


def test_videos_shorter_than_the_clip_repeat_their_last_frame(manifest: Manifest, make: SimpleNamespace) -> None:
    config = DataConfig(frames=9, fps=10, size=48, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False)
    batches = draw(manifest, config, batch_size=12, steps=1)
    row = int((batches[0].sample_id == 2).nonzero())  # six frames long
    assert batches[0].valid[row].tolist() == [True] * 6 + [False] * 3
    assert batches[0].valid.sum() == 12 * 9 - 3
    assert make.numbers(batches[0].frames[row]).tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert batches[0].actions is not None and batches[0].states is not None
    assert batches[0].actions[row, :, 0].tolist() == [0, -1, -2, -3, -4, 0, 0, 0]
    assert batches[0].states[row, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]


def test_whole_square_crops_leave_pixels_alone(manifest: Manifest) -> None:
    from jepa.data.decode import decode

    config = DataConfig(frames=2, fps=0, size=48, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False)
    clip = draw(manifest, config, steps=1)[0]
    assert clip.states is not None
    for row, i in enumerate(clip.sample_id.tolist()):
        stored = decode(manifest.read(i).video, clip.states[row, :, 0].long().tolist())
        assert np.array_equal(clip.frames[row].permute(0, 2, 3, 1).numpy(), stored)


def test_augmentation_changes_from_epoch_to_epoch(manifest: Manifest) -> None:
    first, second = draw(manifest, CONFIG, batch_size=12, steps=2)
    a, b = first.sample_id.argsort(), second.sample_id.argsort()
    assert torch.equal(first.sample_id[a], second.sample_id[b])
    assert (first.frames[a] != second.frames[b]).flatten(1).any(1).sum() > 8


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["augmented", "plain"])
def test_workers_change_nothing(manifest: Manifest, config: DataConfig) -> None:
    from dataclasses import replace

    assert_all_same(draw(manifest, config), draw(manifest, replace(config, workers=4)))


@pytest.mark.parametrize("world", [2, 4])
def test_world_size_changes_nothing(manifest: Manifest, world: int) -> None:
    ranks = [draw(manifest, CONFIG, rank=r, world=world) for r in range(world)]
    for step, whole in enumerate(draw(manifest, CONFIG)):
        assert torch.equal(torch.cat([rank[step].frames for rank in ranks]), whole.frames)
        assert torch.equal(torch.cat([rank[step].sample_id for rank in ranks]), whole.sample_id)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_resume_is_skipping(manifest: Manifest, start: int) -> None:
    assert_all_same(draw(manifest, CONFIG, steps=6)[start:], draw(manifest, CONFIG, steps=6, start_step=start))


@pytest.mark.parametrize("cache_gb", [1.0, 0.0002])
@pytest.mark.parametrize("size", [12, 40])
def test_cache_changes_nothing(manifest: Manifest, cache_gb: float, size: int) -> None:
    """With room for all and with room for some; shrunk (12 / sqrt(.5) < 48) and not."""
    from dataclasses import replace

    plain = replace(CONFIG, size=size)
    cached = clips([manifest], replace(plain, cache_gb=cache_gb), batch_size=8, seed=3, steps=5)
    assert_all_same(draw(manifest, plain, steps=5), list(cached))


def test_cached_videos_are_not_read_again(copy: Path) -> None:
    manifest = Manifest.load(copy)
    batches = clips([manifest], DataConfig(frames=2, size=24, cache_gb=1), batch_size=12, seed=0, steps=3)
    next(batches)
    for shard in copy.glob("*.tar"):
        shard.unlink()
    assert len(list(batches)) == 2 and not batches.skipped


def test_randomness_is_ours_alone(manifest: Manifest) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(manifest, CONFIG, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_samples_are_replaced_and_listed(copy: Path) -> None:
    manifest = damage(copy, [4])

    def run(workers: int, **more: int) -> tuple[list[Clip], Clips]:
        config = DataConfig(frames=2, fps=4, size=24, workers=workers)
        batches = clips([manifest], config, **{"batch_size": 12, "seed": 1, "steps": 3, **more})
        return list(batches), batches

    batches, loader = run(0)
    assert [s.key for s in loader.skipped] == ["episode_000004"] * 3  # once an epoch
    assert loader.skipped[0].shard == manifest[4].shard and "sha256" in loader.skipped[0].reason
    for batch in batches:
        ids = batch.sample_id.tolist()
        assert len(ids) == 12 and 4 not in ids and len(set(ids)) == 11
    epoch_0 = [order(Mixture((12,), 12, 1), 0, slot).sample for slot in range(12)]
    place = epoch_0.index(4)
    assert batches[0].sample_id[place] == epoch_0[(place + 1) % 12]  # the next one stands in
    again, loader2 = run(2)
    assert_all_same(batches, again)
    assert loader2.skipped == loader.skipped
    resumed, loader3 = run(0, start_step=1)
    assert_all_same(batches[1:], resumed)
    assert loader3.skipped == loader.skipped[1:]


def test_too_many_bad_samples_stop_the_run(copy: Path) -> None:
    manifest = damage(copy, [4, 7])
    batches = clips([manifest], CONFIG, batch_size=12, seed=1, steps=100)
    with pytest.raises(DataError, match=r"of the last \d+ samples cannot be read \(limit 5%\)") as error:
        list(batches)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_all_bad_stops_at_once(copy: Path, workers: int) -> None:
    manifest = damage(copy, range(12))
    config = DataConfig(frames=2, size=24, workers=workers)
    with pytest.raises(DataError, match="12 samples in a row cannot be read") as error:
        next(clips([manifest], config, batch_size=4, seed=0, steps=9))
    assert "\n" not in str(error.value)


def test_episodes_are_whole_and_in_order(manifest: Manifest, make: SimpleNamespace) -> None:
    found = list(episodes(manifest, 16))
    assert [e.id for e in found] == list(range(12))
    for episode, entry in zip(found, manifest, strict=True):
        assert episode.frames.shape == (entry.frames, 3, 16, 16) and episode.frames.dtype == torch.uint8
        assert make.numbers(episode.frames).tolist() == list(range(entry.frames))
        assert len(episode.arrays["actions"]) == entry.frames - 1


def test_episodes_by_number_and_at_a_lower_rate(manifest: Manifest, make: SimpleNamespace) -> None:
    found = list(episodes(manifest, 16, [3, 1], fps=4))  # of 10 frames a second every third
    assert [e.id for e in found] == [3, 1]
    for episode in found:
        numbers = list(range(0, manifest[episode.id].frames, 3))
        assert make.numbers(episode.frames).tolist() == numbers and "actions" not in episode.arrays
        assert episode.arrays["states"][:, 0].tolist() == numbers
    assert "actions" in next(episodes(manifest, 16, [0], fps=10)).arrays


def test_episodes_name_what_cannot_be_read(copy: Path) -> None:
    with pytest.raises(DataError, match="episode_000001"):
        list(episodes(damage(copy, [1]), 16))


def test_wide_videos_are_cut_to_the_centre(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "wide.mp4").write_bytes(make.video(4, 96, 48, noise=True))
    pack("folder", tmp_path / "raw", tmp_path / "out", PackConfig())
    manifest = Manifest.load(tmp_path / "out")
    episode = next(episodes(manifest, 48))
    clip = draw(manifest, PLAIN, batch_size=1, steps=1)[0]  # its square does not fit, so the centre is taken
    assert torch.equal(clip.frames[0], episode.frames)


def test_config_from_presets() -> None:
    from omegaconf import OmegaConf

    given = OmegaConf.merge(OmegaConf.structured(DataConfig), {"crop_scale": [0.5, 1], "frames": 4})
    config = OmegaConf.to_object(given)
    assert isinstance(config, DataConfig) and config.crop_scale == (0.5, 1.0)


def test_errors(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="batch size 9 does not divide over 2 processes"):
        clips([manifest], CONFIG, batch_size=9, seed=0, steps=1, world=2)
    with pytest.raises(DataError, match="crop_scale"):
        DataConfig(crop_scale=(0.9, 0.5))
    with pytest.raises(DataError, match="frames and size"):
        DataConfig(frames=0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> list[str]:
    """Two packed data sets: episodes with arrays, and plain videos with labels of whole recordings."""
    folder = tmp_path_factory.mktemp("two")
    make.collected(folder / "episodes", [12, 14, 16, 9])
    (folder / "videos").mkdir()
    for i in range(3):
        (folder / "videos" / f"{i}.mp4").write_bytes(make.video(20 + i, 64, 48))
    (folder / "videos" / "list.csv").write_text("".join(f"{i}.mp4 {i + 5}\n" for i in range(3)))
    pack("collected", folder / "episodes", folder / "a", PackConfig(per_shard=2))
    pack("csv", folder / "videos" / "list.csv", folder / "b")
    return [str(folder / "a"), str(folder / "b")]


def mixed(two: Sequence[str], **more: object) -> DataConfig:
    parts = [DataSet(two[0], 3.0), DataSet(two[1], 1.0, fps=5.0), DataSet(two[1], 2.0, frames=6)]
    return DataConfig(**{"mix": parts, "frames": 4, "fps": 10.0, "size": 24, **more})  # type: ignore[arg-type]


def test_mixtures_keep_weights_lengths_rates_and_ids(two: list[str], make: SimpleNamespace) -> None:
    config = mixed(two, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False)
    batches = list(clips(load_manifests(config), config, batch_size=4, seed=0, steps=60))
    lengths = [batch.frames.shape[1] for batch in batches]
    assert set(lengths) == {4, 6} and 12 <= lengths.count(6) <= 28  # a third
    ids = torch.cat([batch.sample_id for batch in batches if batch.frames.shape[1] == 4])
    assert set(ids.tolist()) == set(range(7)) and 0.6 < (ids < 4).float().mean() < 0.9  # three quarters
    assert {i for batch in batches if batch.frames.shape[1] == 6 for i in batch.sample_id.tolist()} == {7, 8, 9}
    for batch in batches:
        assert batch.states is None and not batch.labels  # not every data set has them
        steps = make.numbers(batch.frames).diff()
        slow = (batch.sample_id >= 4) & (batch.sample_id < 7)
        assert (steps[~slow] == 1).all() and (steps[slow].float().mean(1) > 1.9).all()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("case", range(4))
def test_mixtures_are_the_same_for_any_world_workers_and_resume(two: list[str], case: int) -> None:
    rng = np.random.default_rng(case)
    world, workers, start = int(rng.integers(1, 9)), int(rng.integers(0, 5)), int(rng.integers(0, 5))
    config, seed = mixed(two, rand_augment=case % 2 == 1), int(rng.integers(100))
    whole = list(clips(load_manifests(config), config, batch_size=24, seed=seed, steps=6))
    config = mixed(two, rand_augment=case % 2 == 1, workers=workers)
    world = next(w for w in range(world, 0, -1) if 24 % w == 0)
    more = {"batch_size": 24, "seed": seed, "steps": 6, "start_step": start, "world": world}
    ranks = [list(clips(load_manifests(config), config, rank=r, **more)) for r in range(world)]
    for step, batch in enumerate(whole[start:]):
        for name in ("frames", "sample_id", "epoch", "valid"):
            assert torch.equal(torch.cat([getattr(rank[step], name) for rank in ranks]), getattr(batch, name))


def test_labels_of_whole_recordings(two: list[str]) -> None:
    config = DataConfig(shards=two[1], frames=2, size=16)
    for clip in clips(load_manifests(config), config, batch_size=3, seed=0, steps=2):
        assert torch.equal(clip.labels["label"], clip.sample_id + 5)


def test_short_videos_can_be_left_out(manifest: Manifest, make: SimpleNamespace) -> None:
    config = DataConfig(frames=9, fps=0, size=48, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False, short="skip")
    batches = clips([manifest], config, batch_size=11, seed=1, steps=2)
    assert batches.left_out == 1
    for batch in batches:
        assert sorted(batch.sample_id.tolist()) == [0, 1, *range(3, 12)] and batch.valid.all()
    assert not batches.skipped
    with pytest.raises(DataError, match="every video is shorter than a clip of 99 frames"):
        clips([manifest], DataConfig(frames=99, fps=0, short="skip"), batch_size=1, seed=0, steps=1)


def test_short_videos_can_start_again(manifest: Manifest, make: SimpleNamespace) -> None:
    config = DataConfig(frames=9, fps=0, size=48, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False, short="loop")
    clip = draw(manifest, config, batch_size=12, steps=1)[0]
    row = int((clip.sample_id == 2).nonzero())
    assert make.numbers(clip.frames[row]).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert clip.valid[row].tolist() == [True] * 6 + [False] * 3
    assert clip.actions is not None and clip.actions[row, :, 0].tolist() == [0, -1, -2, -3, -4, 0, 0, 0]


def test_varying_frame_rates_are_sampled_by_time(tmp_path: Path, make: SimpleNamespace) -> None:
    """Ten frames a second, then five: frames are taken at equal distances in time, not in number."""
    from fractions import Fraction

    import av

    (tmp_path / "raw").mkdir()
    ticks = [*range(12), *range(12, 36, 2)]
    with av.open(str(tmp_path / "raw" / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width = stream.height = 48
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "10", "threads": "1"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 10)
        for i, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(np.full((48, 48, 3), 6 * i + 12, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    pack("folder", tmp_path / "raw", tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert "times.npy" in manifest[0].members
    config = DataConfig(frames=8, fps=3.5, size=48, crop_scale=(1, 1), crop_aspect=(1, 1), hflip=False)
    for clip in draw(manifest, config, batch_size=4, steps=4):
        shown = torch.tensor(ticks)[make.numbers(clip.frames)]
        distance = float(shown.diff(dim=1).float().mean()) / 10
        assert 1 / 3.5 < distance < 1.4 / 3.5  # the reference's windows are somewhat wider than asked
        numbers = make.numbers(clip.frames).diff(dim=1)
        fast, slow = numbers[shown[:, 1:] < 12], numbers[shown[:, :-1] >= 12]
        assert fast.float().mean() > 1.5 * slow.float().mean()
