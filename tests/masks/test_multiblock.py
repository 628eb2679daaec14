"""Multi-block masks: pinned block sizes, disjoint static-size sets, no dependence on the batch, no bias in time."""

import numpy as np
import pytest
import torch

from jepa.config import ConfigError, load_config
from jepa.masks.multiblock import BlockConfig, Config, MultiBlock, _mix, block_size, build

SHORT, LONG = BlockConfig(8, 0.15), BlockConfig(2, 0.70, context_keep=0.06, target_keep=0.70)


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
    assert drawn == sizes


def sample(ids, epochs, step=0, grid=(4, 16, 16), seed=0):
    return MultiBlock(Config(), seed).sample(grid, torch.tensor(ids), torch.tensor(epochs), step)


def test_sets_are_disjoint_and_of_fixed_size():
    for step in range(5):
        for masks, (context, target) in zip(sample([1, 2, 3], [0, 0, 0], step), [(256, 512), (61, 716)], strict=True):
            assert masks.context.shape == (3, context) and masks.target.shape == (3, target)
            for c, t in zip(masks.context.tolist(), masks.target.tolist(), strict=True):
                assert not set(c) & set(t) and c == sorted(set(c)) and t == sorted(set(t))


def test_masks_do_not_depend_on_the_batch_split():
    whole = sample([5, 6, 7, 8], [0, 0, 1, 1], step=3)
    parts = [sample([5, 6], [0, 0], step=3), sample([7, 8], [1, 1], step=3)]
    for i, masks in enumerate(whole):
        assert torch.equal(masks.context, torch.cat([p[i].context for p in parts]))
        assert torch.equal(masks.target, torch.cat([p[i].target for p in parts]))


def test_masks_change_with_sample_epoch_and_seed():
    base = sample([5], [0])[0].target
    for other in (sample([6], [0]), sample([5], [1]), sample([5], [0], seed=1)):
        assert not torch.equal(base, other[0].target)


def test_use_of_tokens_is_even_over_time():
    counts = np.zeros((2, 4))
    for masks in (sample(list(range(64)), [0] * 64, step) for step in range(4)):
        for row, ids in enumerate((masks[0].context, masks[0].target)):
            counts[row] += np.bincount(ids.flatten().numpy() // 256, minlength=4)
    share = counts / counts.sum(1, keepdims=True)
    assert np.abs(share - 0.25).max() < 0.01  # cutting the end of the raster order gives 0.39 … 0.05 here


def test_targets_lie_in_tubes():
    """A target is masked at every time step: the spatial cells of context and target rarely meet."""
    masks = sample(list(range(16)), [0] * 16)[1]
    target = {(i, int(n) % 256) for i in range(16) for n in masks.target[i]}
    context = {(i, int(n) % 256) for i in range(16) for n in masks.context[i]}
    assert len(context & target) < 0.1 * len(context)


def test_impossible_shares_are_refused():
    with pytest.raises(ConfigError, match=r"masks\.short"):
        build(Config(short=BlockConfig(context_keep=0.6, target_keep=0.6)), 0)
    with pytest.raises(ConfigError, match="shirt"):
        from jepa.pretrain import PretrainConfig

        load_config(PretrainConfig, "pretrain", "demo", ["masks.shirt.blocks=2"])


def test_masks_do_not_share_a_stream_with_the_crops():
    """numpy pads seeds with zeros: (seed, epoch, sample, 0) would be the stream that cuts the clip."""
    from jepa.data import transforms

    crop = [int(transforms.generator(0, 0, i).integers(0, 2**31)) for i in range(8)]
    mask = [int(np.random.default_rng((0, 0, i, 1)).integers(0, 2**31)) for i in range(8)]
    same = [int(np.random.default_rng((0, 0, i, 0)).integers(0, 2**31)) for i in range(8)]
    assert same == crop and mask != crop
    taken = MultiBlock(Config(), 0).sample((4, 16, 16), torch.tensor([5]), torch.tensor([0]), 0)[0]
    sizes = block_size((4, 16, 16), SHORT, torch.Generator().manual_seed(_mix(0, 0, 0)))
    again = MultiBlock(Config(), 0)._one((4, 16, 16), sizes, SHORT, np.random.default_rng((0, 0, 5, 1)))
    assert taken.target[0].tolist() == again[1].tolist()
