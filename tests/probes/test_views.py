"""Clips of the protocols: where they lie in time and in the picture, what augmentation may change, and token order."""

import av
import numpy as np
import pytest
import torch

from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.transforms import generator, normalize
from jepa.interop.processor import evaluation_frames
from jepa.models.encoder import build_encoder
from jepa.probes.annotations.base import Sample
from jepa.probes.published.encode import encode_views
from jepa.probes.published.footage import Footage, footage_of, survey
from jepa.probes.published.views import Views, erase, evaluation_clips, frame_ids, training_clips

SHOWN = Views(size=16, frames=4, frame_step=2, segments=2, views=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames of 48×32 px at 8 a second, each 4 grey levels brighter than the last, and by 1 a pixel to the right."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"crf": "1", "threads": "1"}
        for t in range(40):
            image = np.full((32, 48, 3), 4 * t, np.uint8) + np.arange(48, dtype=np.uint8)[:, None]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def footage(path, sample: Sample | None = None) -> Footage:
    record = survey([path], path.parent / "videos.jsonl", workers=0)[str(path)]
    return footage_of(sample or Sample(path, 0, ""), record)


def test_segments_are_windows_of_equal_parts(video):
    f = footage(video)
    ids = frame_ids(f, SHOWN, None)
    # Parts of 20 frames, windows of 4·2 frames, linspace to the window's end, as the reference's.
    assert ids.tolist() == [[0, 2, 5, 7], [20, 22, 25, 27]]
    drawn = np.stack([frame_ids(f, SHOWN, np.random.default_rng(seed)) for seed in range(200)])
    assert drawn[:, 0].max() < 20 <= drawn[:, 1].min() and drawn.max() < 40
    assert len({tuple(row) for row in drawn[:, 0]}) > 10


def test_a_step_is_exact_at_any_frame_rate():
    for fps in (24.0, 25.0, 29.97, 30.0, 0.0):
        for step in (2, 4, 7):
            ids = frame_ids(Footage("", 0, 1000, fps, None, ""), Views(frames=16, frame_step=step), None)
            assert ids.max() == 16 * step - 1  # the window's end, less one


def test_frames_a_second_and_a_labelled_part(video):
    f = footage(video, Sample(video, 0, "", start=2.0, stop=4.0))
    assert (f.first, f.frames) == (16, 16)
    ids = frame_ids(f, Views(frames=4, frame_step=0, fps=4.0), None)
    assert ids.tolist() == [[16, 18, 21, 23]]
    with pytest.raises(DataError, match="no part from 9 s on"):
        footage(video, Sample(video, 0, "", start=9.0))


def test_a_test_sees_squares_from_edge_to_edge_twice_the_same(video):
    clips = evaluation_clips(footage(video), SHOWN)
    assert clips.shape == (3, 2, 4, 3, 16, 16) and clips.dtype == torch.uint8
    assert torch.equal(clips, evaluation_clips(footage(video), SHOWN))
    left, middle, right = clips.float().mean((1, 2, 3, 4, 5))
    # The picture gets brighter by one grey level a pixel; the squares begin 0, 8 and 16 px from the left.
    assert middle - left == pytest.approx(8, abs=1) and right - middle == pytest.approx(8, abs=1)
    by_frame = clips.float().mean((0, 3, 4, 5)).flatten()
    assert torch.allclose((by_frame - by_frame[0]) / 4, torch.tensor([0, 2, 5, 7, 20, 22, 25, 27.0]), atol=0.5)


def test_one_view_is_the_processors_centre(video):
    clips = evaluation_clips(footage(video), Views(size=16, frames=4, frame_step=2))
    frames = torch.from_numpy(decode(video.read_bytes(), [0, 2, 5, 7])).permute(0, 3, 1, 2)
    assert torch.equal(clips[0, 0], evaluation_frames(frames, 16))


def test_training_clips_are_a_function_of_seed_epoch_and_sample(video):
    f, state = footage(video), torch.get_rng_state()
    one = training_clips(f, SHOWN, generator(0, 1, 2))
    assert one.shape == (1, 2, 4, 3, 16, 16) and one.dtype == torch.uint8
    assert torch.equal(one, training_clips(f, SHOWN, generator(0, 1, 2)))
    others = [training_clips(f, SHOWN, generator(*key)) for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert all(not torch.equal(one, other) for other in others)
    assert torch.equal(state, torch.get_rng_state())


def test_without_augmentation_training_sees_the_middle_of_what_tests_see(video):
    shown = Views(size=16, frames=4, frame_step=2, segments=2, views=3, augment="none")
    clips = training_clips(footage(video), shown, generator(0, 0, 0))
    assert torch.equal(clips, training_clips(footage(video), shown, generator(0, 9, 9)))
    assert torch.equal(clips[0], evaluation_clips(footage(video), shown)[1])


def test_only_hflip_mirrors(video):
    def rising(hflip: bool) -> list[bool]:
        shown = Views(size=16, frames=4, frame_step=2, hflip=hflip)
        found = []
        for seed in range(40):
            columns = training_clips(footage(video), shown, generator(seed, 0, 0)).float().mean((0, 1, 2, 3, 4))
            found.append(bool(columns[8:].mean() > columns[:8].mean()))
        return found

    # Other changes (inverting is none of them, erasing puts noise) leave the right side the brighter one.
    assert np.mean(rising(False)) > 0.75 and 0.25 < np.mean(rising(True)) < 0.75


def test_a_quarter_is_erased_in_the_same_box_of_all_frames():
    frames = torch.full((4, 3, 24, 32), 7, dtype=torch.uint8)
    erased = []
    for seed in range(400):
        changed = erase(frames, np.random.default_rng(seed)) != 7
        if changed.any():
            boxes = [(changed[t].any(0).nonzero().amin(0), changed[t].any(0).nonzero().amax(0)) for t in range(4)]
            assert all(torch.equal(low, boxes[0][0]) and torch.equal(high, boxes[0][1]) for low, high in boxes)
            low, high = boxes[0]
            erased.append(float((high - low + 1).prod() / (24 * 32)))
    assert len(erased) / 400 == pytest.approx(0.25, abs=0.07)
    assert min(erased) > 0.01 and max(erased) < 0.36
    assert (frames == 7).all()


def test_an_image_and_a_folder_of_images(tmp_path):
    from PIL import Image

    for t in range(6):
        Image.fromarray(np.full((24, 20, 3), 40 * t, np.uint8)).save(tmp_path / f"{t:05d}.png")
    shown = Views(size=16, frames=4, frame_step=4)
    still = evaluation_clips(footage(tmp_path / "00002.png"), shown)
    assert still.shape == (1, 1, 4, 3, 16, 16) and (still == 80).all()
    film = evaluation_clips(footage(tmp_path), Views(size=16, frames=4, frame_step=1))[0, 0, :, 0, 0, 0]
    assert film.tolist() == [0, 40, 80, 120]
    with pytest.raises(DataError, match="no frame rate"):
        footage(tmp_path, Sample(tmp_path, 0, "", start=1.0))


def test_a_survey_lists_what_cannot_be_read_and_reads_nothing_twice(video, tmp_path, monkeypatch):
    torn, file = tmp_path / "torn.mp4", tmp_path / "videos.jsonl"
    torn.write_bytes(video.read_bytes()[:-3000])
    found = survey([video, torn, tmp_path / "gone.mp4", video], file, workers=0)
    assert list(found) == [str(video), str(torn), str(tmp_path / "gone.mp4")]
    assert found[str(video)]["frames"] == 40 and "truncated" in found[str(torn)]["error"]
    assert "No such file" in found[str(tmp_path / "gone.mp4")]["error"]
    with pytest.raises(DataError, match="truncated"):
        footage_of(Sample(torn, 0, ""), found[str(torn)])

    file.write_text(file.read_text()[:-20])  # cut off in the last line
    torn.write_bytes(video.read_bytes())
    looked = []
    monkeypatch.setattr("jepa.probes.published.footage.inspect", lambda data: looked.append(data))
    with pytest.raises(AttributeError):  # of what the stand-in gives: `torn` is another file now
        survey([video, torn], file, workers=0)
    assert len(looked) == 1

    file.write_text(file.read_text() + "{")
    before = file.read_text()
    survey([video], file, workers=0)
    assert file.read_text() == before and len(looked) == 1  # nothing to read: other processes may be reading the file


def test_tokens_are_ordered_by_level_segment_and_time(tiny):
    encoder = build_encoder(tiny, 0).eval()
    frames = torch.randint(
        0, 256, (2, 3, 2, 4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    tokens = encode_views(encoder, (0, 1), frames).unflatten(2, (2, 2, 2, 16))  # (B, V, level, segment, t, N, D)
    with torch.no_grad():
        for b, v, s in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
            alone = encoder(normalize(frames[b, v, s][None]), layers=(0, 1))
            for level in (0, 1):
                expected = alone[level][0].unflatten(0, (2, 16))
                assert torch.allclose(tokens[b, v, level, s].float(), expected, atol=2e-3)
        last = encode_views(encoder, (), frames)
    assert torch.equal(last, tokens[:, :, 1].flatten(2, 4))
