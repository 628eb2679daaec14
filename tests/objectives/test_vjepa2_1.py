"""V-JEPA 2.1: the dense loss against a slow reading, distances, the ramp, and images beside videos."""

import pytest
import torch
import torch.nn.functional as F

from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.objectives.vjepa2_1 import distance_to_masked


@pytest.mark.parametrize("frames", [4, 1])
def test_loss_equals_a_slow_reading(frames, make, clip_of, optimise):
    """Clip by clip and token by token; the visible ones weigh 0.3 (0.2 in images) over the root of their distance."""
    config = {"ramp_start": 0, "ramp_end": 10, "context_weight": 0.3, "context_weight_image": 0.2}
    objective, clip = make("vjepa2_1", **config), clip_of(2, frames)
    optimise(objective, clip, 2)
    grid, pixels = (max(1, frames // 2), 4, 4), normalize(clip.frames)
    weight = 0.2 if frames == 1 else 0.3
    coordinates = torch.cartesian_prod(*(torch.arange(n) for n in grid)).float()

    def normed(levels):
        return torch.cat([F.layer_norm(level, level.shape[-1:]) for level in levels], dim=-1)

    with torch.no_grad():
        for norm in (objective.target_encoder.norm, *objective.target_levels.norms):
            norm.weight.uniform_(1, 3, generator=torch.Generator().manual_seed(0))
        features = normed(objective.target_levels(objective.target_encoder, pixels))
        per_config = []
        for index, mask in enumerate(objective.masks.sample(grid, clip.sample_id, clip.epoch, clip.step)):
            masked, visible = [], []
            for b in range(2):
                seen, hidden = mask.context[b : b + 1], mask.target[b : b + 1]
                context = torch.cat(objective.levels(objective.encoder, pixels[b : b + 1], seen), dim=-1)
                z, z_context = objective.predictor(context, seen, hidden, grid, index, frames == 1)
                masked += [(z[0, i] - features[b, n]).abs().mean() for i, n in enumerate(hidden[0].tolist())]
                for i, n in enumerate(seen[0].tolist()):
                    nearest = min((coordinates[n] - coordinates[m]).norm() for m in hidden[0].tolist())
                    visible.append((z_context[0, i] - features[b, n]).abs().mean() / nearest.sqrt())
            per_config.append(torch.stack(masked).mean() + weight * torch.stack(visible).mean())
        torch.testing.assert_close(objective(clip)[0], torch.stack(per_config).mean())


def test_distance_to_the_nearest_masked_token_is_exact():
    grid, rng = (3, 5, 4), torch.Generator().manual_seed(0)
    target = torch.stack([torch.randperm(60, generator=rng)[:7] for _ in range(6)])
    place = torch.cartesian_prod(*(torch.arange(n) for n in grid)).float()
    slow = torch.stack([torch.cdist(place, place[row]).amin(1) for row in target])
    torch.testing.assert_close(distance_to_masked(target, grid), slow)


def test_weight_of_visible_tokens_ramps_up(make, clip_of):
    objective = make("vjepa2_1", ramp_start=10, ramp_end=20, context_weight=0.4)
    masked = {step: sum(objective(clip_of(step=step))[1][f"loss_mask{i}"] for i in (0, 1)) / 2 for step in (10, 15, 99)}
    for step, weight in ((10, 0.0), (15, 0.2), (99, 0.4)):
        loss, metrics = objective(clip_of(step=step))
        torch.testing.assert_close(loss, masked[step] + weight * metrics["loss_context"])


def test_an_image_has_its_own_patches_and_a_video_its_own(make, clip_of):
    """Each kind trains its own embeddings, in the encoder and in the predictor, and leaves the other's alone."""
    for frames, own, others in (
        (1, ("levels.image_patch_embed.proj.weight", "predictor.image_embed"), ("encoder.patch_embed.proj.weight",)),
        (4, ("encoder.patch_embed.proj.weight", "predictor.video_embed"), ("levels.image_patch_embed.proj.weight",)),
    ):
        objective = make("vjepa2_1")
        objective(clip_of(frames=frames))[0].backward()
        gradient = {name: p.grad for name, p in objective.named_parameters()}
        assert all(gradient[name].any() for name in own) and all(gradient[name] is None for name in others)


@pytest.mark.parametrize("levels", [(0,), (1, 0), (1, 1), (-1, 1), (0, 1, 2)])
def test_levels_that_the_encoder_does_not_have_are_refused(levels, make):
    with pytest.raises(ConfigError, match=r"objective\.levels: blocks from 0, ascending, the last 1; not"):
        make("vjepa2_1", levels=levels)
