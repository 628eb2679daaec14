"""Multi-block masks: pinned ids and block sizes, every option against a slow reading, no dependence on the batch."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from jepa.config import ConfigError, load_config, plugin
from jepa.masks.multiblock import BlockConfig, Config, _mix, block_size, build

SHORT, LONG = Config().short, Config().long
POLICIES = [(size, cut) for size in ("fixed", "batch_min") for cut in ("random", "tail")]


@pytest.mark.parametrize(
    ("config", "side", "sizes"),
    [
        (SHORT, 16, [(6, 7), (6, 6), (7, 6), (6, 6), (6, 7), (7, 5)]),
        (LONG, 16, [(12, 15), (14, 13), (15, 12), (13, 14), (12, 15), (16, 11)]),
        (SHORT, 24, [(8, 10), (10, 9), (10, 8), (9, 9), (8, 10), (11, 8)]),
        (LONG, 24, [(18, 22), (21, 20), (22, 18), (20, 20), (18, 22), (24, 17)]),
    ],
)
def test_block_sizes_match_the_reference(config, side, sizes):
    drawn = [block_size((8, side, side), config, torch.Generator().manual_seed(seed)) for seed in range(6)]
    assert drawn == [(8, *size) for size in sizes]


def test_block_sizes_lie_in_their_ranges():
    config = BlockConfig(spatial_scale=(0.1, 0.5), temporal_scale=(0.25, 0.75), aspect_ratio=(1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    times, rows, columns = zip(*(block_size((8, 16, 16), config, generator) for _ in range(200)), strict=True)
    assert set(times) == {2, 3, 4, 5} and rows == columns
    assert (min(rows), max(rows)) == (5, 11)  # √(0.1 · 256) and √(0.5 · 256)


def sample(ids, epochs, step=0, grid=(4, 16, 16), seed=0, config=None):
    return build(config or Config(), seed).sample(grid, torch.tensor(ids), torch.tensor(epochs), step)


@pytest.mark.parametrize(
    ("grid", "digest"),
    [((2, 8, 8), "e810bb271b41239c"), ((8, 16, 16), "6872ca30e93a9ac0"), ((3, 4, 5), "afb5331901df588c")],
)
def test_ids_of_the_default_are_pinned(grid, digest):
    """A run that goes on from a checkpoint must see the masks that it would have seen."""
    found = hashlib.sha256()
    for step in range(3):
        for masks in sample([3, 1, 400], [0, 2, 1], step, grid, seed=7):
            for ids in (masks.context, masks.target):
                found.update(ids.contiguous().numpy().astype("<i8").tobytes())
    assert found.hexdigest()[:16] == digest


def slow(config, block_config, number, grid, ids, step, seed):
    """Contexts and targets of a batch in the epoch 0, token by token, each set as a list in the order it is cut in."""
    time, height, width = grid
    t, h, w = block_size(grid, block_config, torch.Generator().manual_seed(_mix(seed, step, number)))
    visible, masked = [], []
    for i in ids:
        rng = np.random.default_rng((seed, 0, i, 1 + number))
        seen = []
        while not seen:
            corners = [
                (rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), rng.integers(0, time - t + 1))
                for _ in range(block_config.blocks)
            ]
            seen = [
                n
                for n, (z, y, x) in enumerate(np.ndindex(grid))
                if z < max(1, int(time * block_config.max_temporal_keep))
                and not any(b <= y < b + h and c <= x < c + w and a <= z < a + t for b, c, a in corners)
            ]
        order = rng.permutation(time * height * width).tolist() if config.cut == "random" else None
        hidden = sorted(set(range(time * height * width)) - set(seen))
        if order:  # the random cut keeps the first visible and the last masked of its order
            seen, hidden = sorted(seen, key=order.index), sorted(hidden, key=order.index, reverse=True)
        visible.append(seen)
        masked.append(hidden)
    contexts, targets = keep_fewest(visible, block_config.max_keep), keep_fewest(masked, None)
    everything = set(range(time * height * width))
    if block_config.full_complement:
        targets = [everything - c for c in contexts]
    if block_config.pred_full_complement:
        contexts = [everything - t for t in targets]
    return (targets, contexts) if block_config.inv_block else (contexts, targets)


def keep_fewest(sets, limit):
    fewest = min(map(len, sets))
    return [set(s[: min(fewest, limit or fewest)]) for s in sets]


@pytest.mark.parametrize("cut", ["random", "tail"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temporal_scale": (0.3, 0.9), "spatial_scale": (0.2, 0.8), "aspect_ratio": (0.3, 3.0)},
        {"max_temporal_keep": 0.6},
        {"max_keep": 5},
        {"full_complement": True},
        {"full_complement": True, "max_keep": 5, "max_temporal_keep": 0.5},
        {"pred_full_complement": True},
        {"inv_block": True, "max_keep": 5},
        {"blocks": 2, "spatial_scale": (0.8, 0.8)},  # often covers all, and is drawn again
    ],
    ids=str,
)
def test_batch_min_equals_a_slow_reading(options, cut):
    grid, ids = (4, 5, 6), [3, 8, 11]
    mine = BlockConfig(**{"blocks": 3, "spatial_scale": (0.2, 0.2), **options})
    config = Config(short=None, long=None, more={"mine": mine}, size="batch_min", cut=cut)
    for step in range(6):
        [masks] = sample(ids, [0, 0, 0], step, grid, 1, config)
        contexts, targets = slow(config, mine, 2, grid, ids, step, 1)
        assert masks.context.tolist() == [sorted(c) for c in contexts]
        assert masks.target.tolist() == [sorted(t) for t in targets]


@pytest.mark.parametrize(("size", "cut"), POLICIES)
def test_sets_are_disjoint_ascending_and_of_one_size(size, cut):
    for step in range(5):
        config = Config(size=size, cut=cut)
        for masks, fixed in zip(sample([1, 2, 3], [0] * 3, step, config=config), [(256, 512), (61, 716)], strict=True):
            for c, t in zip(masks.context.tolist(), masks.target.tolist(), strict=True):
                assert c and t and not set(c) & set(t) and c == sorted(set(c)) and t == sorted(set(t))
            if size == "fixed":
                assert (masks.context.shape[1], masks.target.shape[1]) == fixed


def test_fixed_sizes_by_the_tail_keep_the_first_of_each_side():
    grid, tokens = (4, 8, 8), 256
    lean = BlockConfig(blocks=3, context_keep=0.1, target_keep=0.1)  # both sides have more than wanted
    whole = replace(lean, full_complement=True, context_keep=0.01)
    for i in range(8):
        [kept] = sample([i], [0], 0, grid, config=Config(lean, None, size="fixed", cut="tail"))
        [union] = sample([i], [0], 0, grid, config=Config(lean, None, size="batch_min", cut="tail"))  # of one: not cut
        assert kept.context.tolist() == union.context[:, :25].tolist()
        assert kept.target.tolist() == union.target[:, :25].tolist()
        [rest] = sample([i], [0], 0, grid, config=Config(whole, None, cut="tail"))
        assert sorted(rest.context[0].tolist() + rest.target[0].tolist()) == list(range(tokens))


@pytest.mark.parametrize("cut", ["random", "tail"])
def test_a_side_that_has_too_few_tokens_takes_from_the_other(cut):
    """Here all cells are hidden: the context is made up of masked tokens, of the time that may be seen."""
    covered = BlockConfig(
        1, (1.0, 1.0), aspect_ratio=(1.0, 1.0), max_temporal_keep=0.5, context_keep=0.25, target_keep=0.7
    )
    [masks] = sample([1, 2], [0, 0], 0, (4, 4, 4), config=Config(covered, None, cut=cut))
    for context, target in zip(masks.context.tolist(), masks.target.tolist(), strict=True):
        assert len(context) == 16 and max(context) < 32 and len(target) == 44 and not set(context) & set(target)
    bare = BlockConfig(1, (0.01, 0.01), context_keep=0.4, target_keep=0.6)
    [masks] = sample([1, 2], [0, 0], 0, (4, 4, 4), config=Config(bare, None, cut=cut))
    assert masks.context.shape == (2, 25) and masks.target.shape == (2, 38)


@pytest.mark.parametrize(
    ("limits", "context"),
    [({"max_temporal_keep": 0.25}, 16), ({"max_keep": 7}, 7), ({"max_keep": 7, "max_temporal_keep": 0.1}, 7)],
)
def test_limits_of_the_context_bound_a_fixed_size_too(limits, context):
    block = BlockConfig(2, (0.3, 0.3), context_keep=0.4, target_keep=0.5, **limits)
    [masks] = sample([1, 2], [0, 0], 0, (4, 4, 4), config=Config(block, None))
    assert masks.context.shape == (2, context) and masks.target.shape == (2, 32)
    assert "max_temporal_keep" not in limits or masks.context.max() < 16


@pytest.mark.parametrize("config", [Config(size="fixed", cut="random"), Config(size="fixed", cut="tail")])
def test_masks_do_not_depend_on_the_batch_split(config):
    whole = sample([5, 6, 7, 8], [0, 0, 1, 1], step=3, config=config)
    parts = [sample(ids, epochs, 3, config=config) for ids, epochs in (([5, 6], [0, 0]), ([7, 8], [1, 1]))]
    for i, masks in enumerate(whole):
        assert torch.equal(masks.context, torch.cat([p[i].context for p in parts]))
        assert torch.equal(masks.target, torch.cat([p[i].target for p in parts]))


def test_in_batch_min_only_the_sizes_depend_on_the_batch():
    config = Config(size="batch_min", cut="tail")
    whole, alone = (sample(ids, [0] * len(ids), 3, config=config) for ids in ([5, 6, 7, 8], [5]))
    for masks, one in zip(whole, alone, strict=True):
        assert masks.context[0].tolist() == one.context[0, : masks.context.shape[1]].tolist()
        assert masks.target[0].tolist() == one.target[0, : masks.target.shape[1]].tolist()


def test_masks_change_with_sample_epoch_and_seed():
    base = sample([5], [0])[0].target
    for other in (sample([6], [0]), sample([5], [1]), sample([5], [0], seed=1)):
        assert not torch.equal(base, other[0].target)


def test_a_mask_config_keeps_its_masks_whatever_stands_beside_it():
    third = BlockConfig(4, (0.3, 0.3))
    all_three = sample([5, 6], [0, 0], config=Config(more={"middle": third}))
    long, middle = sample([5, 6], [0, 0], config=Config(short=None, more={"middle": third}))
    assert len(all_three) == 3
    assert torch.equal(all_three[1].target, long.target) and torch.equal(all_three[2].target, middle.target)


def usage(config, batches, batch=24, grid=(8, 16, 16)):
    """Share of each time step's tokens in (mask config, context or target), and the sets' sizes, as means."""
    sampler, cells = build(config, 0), grid[1] * grid[2]
    used, sizes = np.zeros((2, 2, grid[0])), np.zeros((2, 2))
    for step in range(batches):
        ids = torch.arange(batch) + batch * step
        for i, masks in enumerate(sampler.sample(grid, ids, torch.zeros_like(ids), step)):
            for j, kept in enumerate((masks.context, masks.target)):
                used[i, j] += np.bincount(kept.flatten().numpy() // cells, minlength=grid[0]) / (cells * batch)
                sizes[i, j] += kept.shape[1]
    return used / batches, sizes / batches


def test_the_reference_starves_the_end_of_the_clip():
    """Use of tokens by time step as simulated with the reference's own generator: 16 frames, 256 px, 24 clips."""
    used, sizes = usage(Config(size="batch_min", cut="tail"), 150)
    reference = [
        [[0.39, 0.39, 0.39, 0.36, 0.26, 0.14, 0.05, 0.02], [0.61, 0.61, 0.61, 0.61, 0.59, 0.43, 0.19, 0.05]],
        [[0.19, 0.15, 0.08, 0.04, 0.02, 0.01, 0.01, 0.01], [0.81, 0.81, 0.81, 0.81, 0.81, 0.81, 0.60, 0.17]],
    ]
    np.testing.assert_allclose(used, reference, atol=0.03)
    np.testing.assert_allclose(sizes / 2048, [[0.25, 0.47], [0.063, 0.70]], atol=0.015)


@pytest.mark.parametrize("size", ["fixed", "batch_min"])
def test_a_random_cut_uses_all_time_steps_alike(size):
    used, sizes = usage(Config(size=size, cut="random"), 20)
    np.testing.assert_allclose(used, np.broadcast_to(used.mean(-1, keepdims=True), used.shape), rtol=0.04)
    np.testing.assert_allclose(used.sum(-1) * 256, sizes)
    if size == "fixed":
        assert sizes.tolist() == [[512, 1024], [122, 1433]]


def test_targets_lie_in_tubes():
    """A target is masked at every time step: the spatial cells of context and target rarely meet."""
    masks = sample(list(range(16)), [0] * 16)[1]
    target = {(i, int(n) % 256) for i in range(16) for n in masks.target[i]}
    context = {(i, int(n) % 256) for i in range(16) for n in masks.context[i]}
    assert len(context & target) < 0.1 * len(context)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(size="smallest"), r"masks\.size 'smallest' is not one of fixed, batch_min"),
        (Config(cut="head"), r"masks\.cut 'head' is not one of random, tail"),
        (Config(None, None), "short and long are null"),
        (Config(BlockConfig(context_keep=0.6, target_keep=0.6)), r"masks\.short: context_keep \+ target_keep"),
        (Config(BlockConfig(context_keep=0.0)), r"masks\.short: context_keep"),
        (Config(BlockConfig(0)), r"masks\.short: blocks"),
        (Config(long=BlockConfig(spatial_scale=(0.3, 0.2))), r"masks\.long\.spatial_scale: \[0\.3, 0\.2\]"),
        (Config(long=BlockConfig(temporal_scale=(0.5, 1.5))), r"masks\.long\.temporal_scale"),
        (Config(more={"x": BlockConfig(aspect_ratio=(0.0, 1.0))}), r"masks\.more\.x\.aspect_ratio"),
        (Config(BlockConfig(max_temporal_keep=0.0)), "max_temporal_keep"),
        (Config(BlockConfig(max_keep=0)), "max_keep"),
        (Config(BlockConfig(pred_full_complement=True, full_complement=True)), "pred_full_complement"),
        (Config(BlockConfig(pred_full_complement=True, max_keep=3)), "pred_full_complement"),
    ],
)
def test_impossible_configs_are_refused(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(config, 0)
    assert "\n" not in str(caught.value)


def test_blocks_that_leave_nothing_to_see_are_refused():
    with pytest.raises(ConfigError, match=r"masks\.long: 2 blocks of 2×4×4 tokens hid all of 2×4×4"):
        sample(
            [1],
            [0],
            0,
            (2, 4, 4),
            config=Config(long=BlockConfig(2, (1.0, 1.0), aspect_ratio=(1, 1)), size="batch_min"),
        )


@dataclass(frozen=True)
class Outer:
    masks: Any = plugin("jepa.masks", "multiblock")


def test_options_are_read_from_a_preset(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("masks: {short: null, long: {max_keep: 9}, more: {far: {blocks: 3}}, size: batch_min}")
    masks = load_config(Outer, "pretrain", str(preset)).masks
    assert masks.short is None and build(masks, 0).configs == 2
    assert (masks.long.max_keep, masks.long.blocks, masks.more["far"].blocks, masks.size) == (9, 2, 3, "batch_min")
    for wrong, message in (("masks.shirt.blocks=2", "shirt"), ("masks.long.spatial_scale=0.7", "spatial_scale")):
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(Outer, "pretrain", str(preset), [wrong])
        assert "\n" not in str(caught.value)


def test_masks_do_not_share_a_stream_with_the_crops():
    """numpy pads seeds with zeros: (seed, epoch, sample, 0) would be the stream that cuts the clip."""
    from jepa.data import transforms

    crop = [int(transforms.generator(0, 0, i).integers(0, 2**31)) for i in range(8)]
    mask = [int(np.random.default_rng((0, 0, i, 1)).integers(0, 2**31)) for i in range(8)]
    same = [int(np.random.default_rng((0, 0, i, 0)).integers(0, 2**31)) for i in range(8)]
    assert same == crop and mask != crop
