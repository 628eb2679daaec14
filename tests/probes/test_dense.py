"""Dense probes: planted maps are found, pixels without a label never count, and files are read as they lie."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from jepa import checkpoint
from jepa.config import ConfigError, load_config, preset_names, to_dict
from jepa.models.encoder import build_encoder
from jepa.probes import features
from jepa.probes.dense.images import find_pairs, read_images, read_maps
from jepa.probes.dense.maps import UNKNOWN, map_sums, scores_of
from jepa.probes.dense.report import show, summarise
from jepa.probes.dense.run import DenseConfig, run
from jepa.probes.kinds import dense
from jepa.probes.kinds.base import Features, ProbeError

SMALL = {"epochs": 10, "batch": 8, "lr": (3e-2,), "weight_decay": (0.01,)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def planted(depth: bool, images: int = 60, seed: int = 0):
    """Tokens (B, 16, 8) of a 4×4 grid that show what lies at their place, and maps (B, 8, 8); 2 images a group."""
    g = torch.Generator().manual_seed(seed)
    grid = torch.randint(0, 3, (images, 4, 4), generator=g)
    tokens = torch.randn(images, 16, 8, generator=g) + 20
    tokens[..., :3] += 8 * torch.nn.functional.one_hot(grid.flatten(1), 3)
    maps = grid.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return Features(tokens.half(), torch.arange(images) // 2), 2.0**maps if depth else maps.to(torch.uint8)


def fitted(seen: Features, maps: torch.Tensor, **changes) -> dense.Dense:
    probe = dense.build(dense.Config(**SMALL | changes), rng())
    probe.fit(seen, maps)
    return probe


def test_sums_of_classes_equal_a_count_by_hand():
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (3, 5, 6), generator=g).to(torch.uint8)
    predicted = torch.randint(0, 5, (3, 5, 6), generator=g)
    truth[0, :2] = UNKNOWN
    sums = map_sums(predicted, truth, 5).numpy()
    for image in range(3):
        known = truth[image] != UNKNOWN
        for c in range(5):
            p, t = (predicted[image] == c)[known], (truth[image] == c)[known]
            assert sums[image, [c, 5 + c, 10 + c]].tolist() == [int((p & t).sum()), int(p.sum()), int(t.sum())]
    known = truth != UNKNOWN
    ious = [
        float(((predicted == c) & (truth == c) & known).sum() / (((predicted == c) | (truth == c)) & known).sum())
        for c in range(4)  # class 4 is predicted and never there: it has no union of its own
    ]
    found = scores_of(sums.sum(0), False)
    assert found["miou"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(float((predicted == truth)[known].float().mean()), abs=1e-6)


def test_sums_of_depths_equal_a_count_by_hand():
    truth = torch.tensor([[[1.0, 2.0, 0.0, float("nan")]], [[4.0, -1.0, 8.0, float("inf")]]])
    predicted = torch.tensor([[[1.2, 1.0, 9.0, 9.0]], [[4.0, 9.0, 12.0, 9.0]]])
    found = scores_of(map_sums(predicted, truth, 1).sum(0).numpy(), True)
    assert found["rmse"] == pytest.approx(np.sqrt((0.2**2 + 1 + 0 + 16) / 4), abs=1e-6)
    assert found["abs_rel"] == pytest.approx((0.2 + 0.5 + 0 + 0.5) / 4, abs=1e-6)
    assert found["delta1"] == 0.5


@pytest.mark.parametrize("depth", [False, True])
def test_planted_maps_are_found_and_nothing_in_noise(depth):
    (seen, maps), (unseen, truth) = planted(depth), planted(depth, seed=1)
    before, state = seen.values.clone(), torch.get_rng_state()
    probe = fitted(seen, maps)
    scores = probe.score(unseen, truth)
    again = fitted(seen, maps)
    assert torch.equal(probe.predict(unseen), again.predict(unseen)) and probe.chosen == again.chosen
    assert torch.equal(before, seen.values) and torch.equal(state, torch.get_rng_state())
    assert probe.predict(unseen).shape == truth.shape
    noise = Features(torch.randn(seen.values.shape, generator=torch.Generator().manual_seed(1)), seen.episodes)
    blind = fitted(noise, maps).score(unseen, truth)
    if depth:
        assert scores["delta1"] > 0.55 > 0.45 > blind["delta1"] and scores["rmse"] < 0.6 * blind["rmse"]
    else:
        assert scores["miou"] > 0.9 > 0.35 > blind["miou"] and scores["pixel_accuracy"] > 0.9


@pytest.mark.parametrize("depth", [False, True])
def test_pixels_without_a_label_change_nothing(depth):
    """The same probe, whatever a map's unlabelled half would have said; and that half is not scored."""
    seen, maps = planted(depth)
    half, nothing = maps.clone(), 0.0 if depth else UNKNOWN
    half[:, :, 4:] = nothing
    if depth:
        other = half.clone()
        other[:, :, 4:] = float("nan")
        assert torch.equal(fitted(seen, half).predict(seen), fitted(seen, other).predict(seen))
    probe = fitted(seen, half)
    sums = probe.sums(seen, half)
    left = map_sums(probe.predict(seen)[:, :, :4], maps[:, :, :4], 3).numpy()
    assert np.allclose(sums, left) and not np.allclose(sums, probe.sums(seen, maps))
    with pytest.raises(ProbeError, match="no pixel of the label maps has a label"):
        fitted(seen, torch.full_like(maps, nothing))


@pytest.mark.parametrize("depth", [False, True])
def test_the_best_head_on_images_held_out_is_kept(depth):
    seen, maps = planted(depth)
    for lr in ((0.0, 3e-2), (3e-2, 0.0)):
        assert fitted(seen, maps, lr=lr).chosen["lr"] == 3e-2


def test_tokens_of_no_square_grid_are_refused():
    seen, maps = planted(False)
    with pytest.raises(ProbeError, match="15 are no square grid"):
        fitted(Features(seen.values[:, :15], seen.episodes), maps)


def scene(folder, name: str, generator: np.random.Generator, depth: bool = False, shape=(20, 32)) -> None:
    """A picture of a coloured rectangle on grey, and its map: 0 around it, 1 if it is red and 2 if it is blue."""
    colour = int(generator.integers(1, 3))
    top, left = generator.integers(0, 8), generator.integers(6, 14)
    image = generator.integers(90, 130, (*shape, 3)).astype(np.uint8)
    image[top : top + 10, left : left + 12] = ((230, 20, 20), (20, 20, 230))[colour - 1]
    labels = np.zeros(shape, np.uint8)
    labels[top : top + 10, left : left + 12] = colour
    for kind in ("images", "labels"):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "images" / f"{name}.png")
    stored = 1000 * (1 + labels.astype(np.uint16)) if depth else labels
    Image.fromarray(stored).save(folder / "labels" / f"{name}.png")


def scenes(folder, count: int, seed: int, depth: bool = False):
    generator = rng(seed)
    for i in range(count):
        scene(folder, f"scene{i // 4}/view{i}", generator, depth)
    return folder


def test_images_and_maps_are_cut_alike(tmp_path):
    pairs = find_pairs(*(str(scenes(tmp_path, 8, 0) / kind) for kind in ("images", "labels")))
    assert pairs.groups.tolist() == [0] * 4 + [1] * 4
    frames, maps = read_images(pairs.images, 20), read_maps(pairs, 20, 0.0)
    assert frames.shape == (8, 1, 3, 20, 20) and maps.dtype == torch.uint8
    red, blue = (frames[:, 0, channel] > 200 for channel in (0, 2))
    assert torch.equal(red.long() + 2 * blue, maps.long())  # the centred square of 20×32, at its own size
    assert read_maps(pairs, 10, 0.0).unique().tolist() == [0, 1, 2]  # no class between two others appears


def test_depths_of_png_and_npy_are_metres(tmp_path):
    folder = scenes(tmp_path, 4, 0, depth=True)
    for suffix in ("png", "npy"):
        maps = read_maps(find_pairs(str(folder / "images"), str(folder / "labels")), 20, 0.001)
        assert maps.dtype == torch.float32 and set(maps.unique().numpy().round(5).tolist()) == {1.0, 2.0, 3.0}
        if suffix == "png":
            first = maps
            for path in (folder / "labels").rglob("*.png"):
                np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)) / 1000)
                path.unlink()
    assert torch.allclose(first, maps)


def test_bad_files_are_one_line(tmp_path):
    scenes(tmp_path, 4, 0)
    images, labels = str(tmp_path / "images"), str(tmp_path / "labels")
    path = tmp_path / "labels" / "scene0" / "view1.png"
    for stored, message in [
        (np.zeros((20, 32, 3), np.uint8), "a colour picture"),
        (np.zeros((20, 31), np.uint8), r"its shape is \(20, 31\), that of its image \(20, 32\)"),
        (np.full((20, 32), 300, np.uint16), "from 0 to 255"),
    ]:
        Image.fromarray(stored).save(path)
        with pytest.raises(ProbeError, match=message):
            read_maps(find_pairs(images, labels), 20, 0.0)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ProbeError, match="not a readable label map"):
        read_maps(find_pairs(images, labels), 20, 0.0)
    path.unlink()
    with pytest.raises(ProbeError, match=r"view1.png \(or .npy\) is missing, the label map of an image"):
        find_pairs(images, labels)
    with pytest.raises(ProbeError, match="no such folder"):
        find_pairs(images, labels + "s")
    with pytest.raises(ProbeError, match="no image in it"):
        find_pairs(str((tmp_path / "empty").mkdir() or tmp_path / "empty"), labels)


class Pretrained(nn.Module):
    """What a pre-training run saves, as far as `load_encoder` is concerned."""

    def __init__(self, config) -> None:
        super().__init__()
        self.encoder, self.target_encoder = build_encoder(config, 0), build_encoder(config, 7)


@pytest.fixture
def given(tiny, tmp_path, save_model):
    """A run, and folders of pictures; settings of a small probe."""
    checkpoint.claim_run(tmp_path / "pretrain", {"encoder": to_dict(tiny)})
    save_model(tmp_path / "pretrain", Pretrained(tiny))

    def config(depth: bool = False, *more: str) -> DenseConfig:
        name = "depth" if depth else "segmentation"
        values = [f"encoder={tmp_path / 'pretrain'}", f"out={tmp_path / name}", "seeds=2", "probe.batch=8"]
        for side, count, seed in (("train", 12, 0), ("test", 12, 1)):
            folder = scenes(tmp_path / name / side, count, seed, depth)
            values += [f"images_{side}={folder / 'images'}", f"labels_{side}={folder / 'labels'}"]
        return load_config(DenseConfig, "dense", name, [*values, "probe.lr=[0.03]", "probe.weight_decay=[0.01]", *more])

    return config


@pytest.mark.parametrize("depth", [False, True])
def test_every_row_is_measured_and_what_is_encoded_is_kept(given, depth, tmp_path, monkeypatch, capsys):
    config = given(depth)
    result = run(config)
    assert result == json.loads((tmp_path / config.task / "dense.json").read_text())
    assert set(result["rows"]) == {"constant", "pretrained", "random_init", "pixels"} and result["images"] == [12, 12]
    metric, sign = ("rmse", -1) if depth else ("miou", 1)
    means = {maker: sign * np.mean(scores[metric]) for maker, scores in result["rows"].items()}
    assert means["pixels"] > means["constant"] + 0.1  # a patch's colour tells its class
    ours, control = (result["rows"][maker][metric] for maker in ("pretrained", "random_init"))
    assert ours[0] != control[0] and len(ours) == 2
    found = result["differences"][metric]
    assert found["difference"] == pytest.approx(np.mean(ours) - np.mean(control), abs=1e-5)
    assert found["bootstrap95"][0] <= found["bootstrap95"][1]
    assert "pretrained − random init" in capsys.readouterr().out

    monkeypatch.setattr(features, "encode", lambda *a: pytest.fail("tokens that are there were made again"))
    assert run(config) == result
    with pytest.raises(ConfigError, match=r"holds the results of another config \(seed: 0 there, 5 here\)"):
        run(replace(config, seed=5))


def test_a_train_image_among_the_tests_and_an_unknown_task_are_refused(given, tmp_path):
    config = given(False)
    with pytest.raises(ConfigError, match="task 'normals' is not one of segmentation, depth"):
        run(given(False, "task=normals"))
    with pytest.raises(ProbeError, match="no pixel has a label"):
        for path in (tmp_path / "segmentation" / "test" / "labels").rglob("*.png"):
            Image.fromarray(np.zeros((20, 32), np.uint8)).save(path)
        run(replace(config, no_label=0))
    copy = tmp_path / "segmentation" / "train" / "images" / "scene0" / "view0.png"
    (tmp_path / "segmentation" / "test" / "images" / "scene0" / "view1.png").write_bytes(copy.read_bytes())
    with pytest.raises(ProbeError, match=r"view1\.png is a train image too"):
        run(config)


@pytest.mark.parametrize("values", ["seeds=0", "size=-4", "depth_unit=0"])
def test_wrong_values_are_one_line(given, values):
    with pytest.raises(ConfigError, match=values.replace("=", " ")):
        given(False, values)


def test_one_group_of_test_images_has_no_interval(capsys):
    sums = {maker: [np.array([[3.0, 1.0, 4.0, 2.0, 4.0, 2.0]] * 3)] for maker in ("pretrained", "random_init")}
    found = summarise(sums, np.array([0, 0, 1]), False, 0)
    assert found["differences"]["miou"]["bootstrap95"] == [0.0, 0.0]
    alone = summarise(sums, np.zeros(3), False, 0)
    assert alone["differences"]["miou"]["bootstrap95"] == [None, None]
    show(alone | {"images": [3, 3], "config": {"task": "segmentation"}}, Console())
    assert "one group of test images: no interval" in capsys.readouterr().out


@pytest.mark.parametrize("name", preset_names("dense"))
def test_every_preset_is_a_config(name):
    places = [f"{kind}_{side}=x" for kind in ("images", "labels") for side in ("train", "test")]
    assert load_config(DenseConfig, "dense", name, ["encoder=x", *places]).task in ("segmentation", "depth")
