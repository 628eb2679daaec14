"""Where and how precisely a world plans: bf16 stays inside the world, and a GPU's tensors meet no others."""

import importlib

import pytest
import torch

from jepa.config import ConfigError, from_dict, plugin_names
from jepa.models.ac_predictor import ACPredictorConfig
from jepa.models.encoder import build_encoder, encode_frames
from jepa.planning import placement
from jepa.planning.constraints import Bounds
from jepa.planning.goals import GoalConfig
from jepa.planning.landscape import facing, scored
from jepa.planning.placement import check_placement, lowered, tokens_of
from jepa.worlds import ac_jepa
from jepa.worlds.base import State, Step, WorldModel, WorldSpec

PLANNERS = "jepa.planning.planners"
SEARCHES = [name for name in plugin_names(PLANNERS) if name != "inverse_dynamics"]
SMALL = {"horizon": 2, "samples": 8, "restarts": 4, "iterations": 2, "elites": 3, "weights": ""}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world() -> ac_jepa.ACJepa:
    config = ac_jepa.Config(ACPredictorConfig(width=24, depth=2, heads=2), scale="layer_norm")
    return ac_jepa.build(config, WorldSpec(8, 7, 7, (2, 3)), generator()).eval().requires_grad_(False)


def seen(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, 2, 6, 8), layer-normed, and states (B, 7)."""
    tokens = torch.randn(count, 2, 6, 8, generator=generator(1))
    return torch.nn.functional.layer_norm(tokens, (8,)), 0.1 * torch.randn(count, 7, generator=generator(2))


def test_the_world_computes_in_bf16_and_its_features_and_poses_are_fp32(world):
    low, action = lowered(world, "bf16"), 0.1 * torch.randn(2, 7, generator=generator(3))
    state, _ = facing(low, *seen())
    ours, theirs = low.step(state, action).state, world.step(facing(world, *seen())[0], action).state
    assert state["ahead.queries"].dtype == ours["keys.0"].dtype == torch.bfloat16
    assert torch.equal(ours["pose"], theirs["pose"]), "poses are not rounded"
    features = low.features(ours)
    assert features.dtype == torch.float32 and not torch.equal(features, world.features(theirs))
    torch.testing.assert_close(features, world.features(theirs), atol=0.05, rtol=0.05)
    assert theirs["keys.0"].dtype == torch.float32, "the world that was given computes as it did"
    assert lowered(world, "fp32") is world
    assert low.action_scale is world.action_scale and low.state_dict().keys() == world.state_dict().keys()


@pytest.mark.parametrize("name", SEARCHES)
def test_planners_see_nothing_of_it_but_rounded_features(world, name):
    """Costs are those of fp32 arithmetic on the features, and near those of the world in fp32."""
    module = importlib.import_module(f"{PLANNERS}.{name}")
    known = {k: v for k, v in SMALL.items() if k in module.Config.__dataclass_fields__}
    planner = module.build(from_dict(module.Config, known, name))
    bounds = Bounds(torch.full((7,), -0.1), torch.full((7,), 0.1))
    plans = {}
    for precision in ("fp32", "bf16"):
        own = lowered(world, precision)
        state, aim = facing(own, *seen())

        def goal(future, aim=GoalConfig(distance="cosine")(aim.features)):
            assert not torch.is_autocast_enabled("cpu") and future.features.dtype == torch.float32
            return aim(future)

        plans[precision] = planner.plan(own, state, goal, generator(), bounds=bounds)
    low, full = plans["bf16"], plans["fp32"]
    assert low.actions.dtype == low.cost.dtype == torch.float32
    assert not torch.equal(low.cost, full.cost)
    torch.testing.assert_close(low.cost, full.cost, atol=0.02, rtol=0)


def test_frames_are_encoded_in_bf16_and_tokens_are_fp32(tiny):
    encoder, frames = build_encoder(tiny, 0), torch.randint(0, 255, (2, 3, 3, 16, 16), dtype=torch.uint8)
    low, full = tokens_of(encoder, frames, "bf16"), tokens_of(encoder, frames)
    assert torch.equal(full, encode_frames(encoder, frames)) and low.dtype == full.dtype == torch.float32
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, atol=0.1, rtol=0.1)


def test_evidence_and_candidates_go_where_the_world_is_and_costs_come_back(tiny):
    """`meta` stands in for a GPU, and refuses to be mixed with the CPU's."""

    class Far(WorldModel):
        def __init__(self):
            super().__init__()
            self.register_buffer("place", torch.empty(3, device="meta"))

        def observe(self, state, tokens, proprio=None, actions=None) -> State:
            assert proprio.is_meta
            return {"x": tokens[:, -1, 0] + self.place}

        def step(self, state, action, generator=None) -> Step:
            return Step({"x": state["x"] + action + self.place})

        def features(self, state):
            return state["x"][:, None]

    state, goal = facing(Far(), torch.zeros(2, 2, 1, 3), torch.zeros(2, 7))
    assert state["x"].is_meta and goal.features.is_meta

    def come_home(future):
        assert future.features.is_meta and future.actions.is_meta
        return torch.zeros(2, 5)  # `meta` cannot be copied back

    assert scored(Far(), state, torch.zeros(2, 5, 1, 3), come_home).shape == (2, 5)
    frames = torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8)
    assert tokens_of(build_encoder(tiny, 0).to("meta"), frames).is_meta


def test_what_is_not_there_is_one_line_and_a_slow_cpu_is_said(monkeypatch, capsys):
    for device, precision, says in (
        ("tpu", "fp32", "device 'tpu' is not cpu, or cuda where torch finds a GPU"),
        ("cpu", "fp16", "precision 'fp16' is not one of fp32, bf16"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_placement(device, precision)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda' is not cpu"):
        check_placement("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    check_placement("cuda", "bf16")
    check_placement("cpu")
    assert "bf16" not in capsys.readouterr().err
    check_placement("cpu", "bf16")
    assert "precision bf16: this CPU has no bf16" in capsys.readouterr().err


def test_the_key_of_a_result_names_what_is_not_the_default():
    assert placement.rounding("cpu", "fp32") == {}
    assert placement.rounding("cuda", "bf16") == {"device": "cuda", "precision": "bf16"}
    assert placement.rounding("cpu", "bf16") == {"precision": "bf16"}
