"""Checkpoints appear whole or not at all, load strictly, and are the same whatever number of processes wrote them."""

import json
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from jepa import checkpoint, checkpoint_attempt, checkpoint_retention
from jepa.checkpoint import CheckpointError, claim_data, claim_run, find, latest, load_weights, read_model
from jepa.checkpoint_format import fault, file_of, folder_of, names, read_state, reader
from jepa.checkpoint_writer import Writer
from jepa.pieces import Piece, whole


def pieces(value=1.0):
    weight = torch.arange(12.0).reshape(3, 4) + value
    return {
        "model/net.weight": whole(weight),
        "model/count": whole(torch.tensor(int(value))),
        "optimizer/net.weight/exp_avg": whole(weight * 2),
        "engine/loss_scale": whole(torch.tensor(8.0)),
    }


def save(run, *steps, score=None, **options):
    """The checkpoints of a run by one process, step for value."""
    with Writer(run, **options) as writer:
        for step in steps:
            writer.save(step, pieces(step), {"at": step}, score)
    return folder_of(run, steps[-1])


def split(all_pieces, rank, world):
    """Process `rank`'s share: every tensor of some size in `world` flat parts, and others whole with process 0."""
    own = {}
    for name, piece in all_pieces.items():
        count = len(piece.values)
        cuts = [count * r // world for r in range(world + 1)]
        if count >= world:
            own[name] = Piece(piece.values[cuts[rank] : cuts[rank + 1]], piece.shape, cuts[rank])
        elif rank == 0:
            own[name] = piece
    return own


def save_by(run, shares, step=1, **options):
    """A checkpoint by several processes, here threads; the errors of each, None where there is none."""
    barrier, errors = threading.Barrier(len(shares)), [None] * len(shares)

    def one(rank):
        try:
            with Writer(run, rank, len(shares), barrier=barrier.wait, **options) as writer:
                writer.save(step, shares[rank], {})
        except CheckpointError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def steps_of(run):
    return sorted(int(f.name[5:]) for f in (run / "checkpoints").iterdir())


def test_one_process_leaves_plain_files(tmp_path):
    folder = save(tmp_path, 3)
    assert sorted(f.name for f in folder.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    tensors = load_file(folder / "model.safetensors")
    assert tensors["net.weight"].shape == (3, 4) and tensors["count"].shape == ()
    state = read_state(folder)
    assert (state["step"], state["world"], state["engine"], state["extra"]) == (3, 1, "plain", {"at": 3})
    assert reader(folder)("nosuch") is None and fault(folder) == ""


@pytest.mark.parametrize("world", [2, 3, 5])
def test_parts_of_several_processes_are_the_whole(tmp_path, world):
    given = pieces()
    assert save_by(tmp_path, [split(given, rank, world) for rank in range(world)]) == [None] * world
    folder = find(tmp_path)
    assert (folder / f"model-00001-of-0000{world}.safetensors").is_file() and len(
        list(folder.iterdir())
    ) == 2 * world + 1
    read = reader(folder)
    assert names(folder) == sorted(given)
    for name, piece in given.items():
        assert torch.equal(read(name), piece.values.reshape(piece.shape))
    assert checkpoint.load(folder)["net.weight"].shape == (3, 4)


@pytest.mark.parametrize("cuts", [((0, 5), (6, 12)), ((0, 7), (6, 12)), ((0, 6), (6, 11)), ((0, 12), (0, 12))])
def test_parts_that_do_not_fit_together_are_not_committed(tmp_path, cuts):
    values = torch.arange(12.0)
    shares = [{"model/odd": Piece(values[a:b], (3, 4), a)} for a, b in cuts]
    errors = save_by(tmp_path, shares)
    assert "the parts of model/odd overlap or leave a gap" in errors[0] and errors[1] is None
    assert latest(tmp_path) == (None, [])


def test_an_earlier_attempt_is_not_mistaken_for_this_one(tmp_path):
    """Process 1 never writes; what it left at the same step, with its word, is not taken for its part."""
    left = folder_of(tmp_path, 1).with_suffix(".partial")
    shares = [split(pieces(), rank, 2) for rank in range(2)]
    left.mkdir(parents=True)
    checkpoint_attempt.write_part(left, "earlier", 1, 2, shares[1])

    class Stubborn(Writer):
        """The zombie of the earlier attempt writes once more, after process 0 has cleared the folder."""

        def _write(self, partial, *rest):
            checkpoint_attempt.write_part(partial, "earlier", 1, 2, shares[1])
            super()._write(partial, *rest)

    late = r"process 1 of 2 was not done within 0\.2 s"
    with pytest.raises(CheckpointError, match=late), Stubborn(tmp_path, 0, 2, timeout=0.2) as writer:
        writer.save(1, shares[0], {})
    assert latest(tmp_path) == (None, [])
    assert save_by(tmp_path, shares) == [None, None]
    assert steps_of(tmp_path) == [1]


def test_a_snapshot_is_of_the_moment(tmp_path, monkeypatch):
    gate, weight = threading.Event(), torch.ones(5)
    write = checkpoint_attempt.save_file
    monkeypatch.setattr(checkpoint_attempt, "save_file", lambda *args: (gate.wait(20), write(*args)))
    with Writer(tmp_path) as writer:
        writer.save(1, {"model/w": whole(weight)}, {})
        weight.zero_()  # training goes on
        gate.set()
    assert checkpoint.load(find(tmp_path))["w"].tolist() == [1.0] * 5


@pytest.mark.parametrize("stage", ["save_file", "sync", "measure", "write_state", "names", "os.replace", "set_aside"])
def test_trouble_at_any_stage_leaves_the_older_checkpoint(tmp_path, monkeypatch, stage):
    first, damaged = save(tmp_path, 1), save(tmp_path, 2)
    (damaged / "model.safetensors").write_bytes(b"")

    def crash(*args, **kwargs):
        raise OSError(28, "No space left on device", "a file")

    with monkeypatch.context() as patch:
        patch.setattr(f"jepa.checkpoint_attempt.{stage}", crash)
        with pytest.raises(
            CheckpointError, match="step_00000002 was not written: a file: No space left on device; older"
        ):
            save(tmp_path, 2)
    assert latest(tmp_path)[0] == first
    assert save(tmp_path, 2) == latest(tmp_path)[0]


def test_the_newest_every_nth_and_the_best_are_kept(tmp_path):
    with Writer(tmp_path, keep=2, keep_every=4) as writer:
        for step, score in enumerate([0.1, 0.5, 0.9, 0.3, float("nan"), None, 0.8, 0.2, 0.7, 0.1], start=1):
            writer.save(step, pieces(step), {}, score)
    assert steps_of(tmp_path) == [3, 4, 8, 9, 10]
    assert checkpoint_retention.best(tmp_path) == {"step": 3, "score": 0.9}
    save(tmp_path, 11, score=0.95)
    assert steps_of(tmp_path) == [10, 11]


def test_a_purge_counts_nothing_that_is_later(tmp_path):
    """A run that fell back from damaged checkpoints writes older steps than they are."""
    for step in (1, 2, 3):
        save(tmp_path, step, keep=9)
    for step in (2, 3):
        (folder_of(tmp_path, step) / "model.safetensors").write_bytes(b"")
    (folder_of(tmp_path, 2)).rename(folder_of(tmp_path, 4))
    assert save(tmp_path, 2, keep=1) == latest(tmp_path)[0]
    assert steps_of(tmp_path) == [2, 3, 4]


def test_a_step_can_be_chosen(tmp_path):
    claim_run(tmp_path, {"a": 1})
    save(tmp_path, 1, 2)
    config, tensors, folder = read_model(tmp_path, 1)
    assert config == {"a": 1} and tensors["count"] == 1 and folder == folder_of(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 in .*; there are: 1, 2$"):
        read_model(tmp_path, 7)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not match"):
        read_model(tmp_path, 1)


def test_loading_is_all_or_nothing():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    good = {k: v + 1 for k, v in before.items()}
    for tensors, message in (
        ({k: v for k, v in good.items() if k != "0.bias"}, "0.bias is missing"),
        ({**good, "extra": torch.zeros(1)}, "extra is unexpected"),
        ({**good, "2.weight": torch.zeros(3, 8)}, r"2.weight is \(3, 8\), the model wants \(2, 8\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_weights(model, tensors, "here")
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_another_version_of_the_format_is_named(tmp_path, monkeypatch):
    folder = save(tmp_path, 1)
    monkeypatch.setattr("jepa.checkpoint_format._FORMAT", 3)
    assert "of checkpoint format 2, this version reads 3" in fault(folder)


def test_missing_runs_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no run at"):
        read_model(tmp_path / "nowhere")
    claim_run(tmp_path, {"a": 1})
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        read_model(tmp_path)


def test_a_run_is_of_one_config_once_it_has_a_checkpoint(tmp_path):
    claim_run(tmp_path, {"a": 1})
    claim_run(tmp_path, {"a": 2})  # nothing was trained: a mistake may be put right
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="a: 2 there, 1 here"):
        claim_run(tmp_path, {"a": 1})


def test_a_run_of_before_there_was_a_crop_goes_on_with_what_it_did(tmp_path):
    claim_run(tmp_path, {"a": 1})
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="crop: centre there, squeeze here"):
        claim_run(tmp_path, {"a": 1, "crop": "squeeze"})
    claim_run(tmp_path, {"a": 1, "crop": "centre"})


def test_a_run_notices_that_its_data_have_changed(tmp_path):
    for _ in range(2):
        claim_data(tmp_path, {"shards/a": "1", "shards/b": "2"})
        save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="shards/b: 2 there, 3 here"):
        claim_data(tmp_path, {"shards/a": "1", "shards/b": "3"})


def test_the_files_of_a_rank_sort_and_say_how_many(tmp_path):
    assert file_of("model", 3, 16) == "model-00003-of-00016.safetensors"
    assert json.loads((save(tmp_path, 1) / "state.json").read_text())["files"].keys() == {
        "model.safetensors",
        "optimizer.safetensors",
    }
