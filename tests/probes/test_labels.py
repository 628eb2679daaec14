"""Own labels go to the frames they are of; a file that does not fit the shards is one line."""

import pytest
import torch
from safetensors.torch import save_file

from jepa.data.index import Manifest
from jepa.probes.kinds.base import ProbeError
from jepa.probes.labels import CLASSES, VALUES, read_labels
from jepa.probes.metrics import CLASS_METRICS
from jepa.probes.tasks import TASKS


@pytest.fixture
def manifest(moving_square) -> Manifest:
    return Manifest.load(moving_square)


def write(path, manifest, **changes):
    own = {f"phase/{entry.key}": torch.arange(entry.frames) + 100 * entry.id for entry in manifest}
    own |= {key if "/" in key else f"phase/{key}": value for key, value in changes.items()}
    save_file({name: value for name, value in own.items() if value is not None}, path, {"classes": '["a", "b"]'})
    return str(path)


def test_labels_are_those_of_the_frames(manifest, tmp_path):
    labels = read_labels(write(tmp_path / "l", manifest, elsewhere=torch.zeros(3).long()), [manifest])
    keys = [manifest[i].key for i in (4, 0)]
    found = labels.of(keys, torch.tensor([[3, 5], [0, 11]]))
    assert found["phase"].tolist() == [[403, 405], [0, 11]] and labels.classes == ("a", "b")


def test_any_whole_or_floating_type_will_do(manifest, tmp_path):
    keys = [entry.key for entry in manifest]
    short = {f"phase/{key}": torch.arange(12, dtype=torch.int16) for key in keys}
    half = {f"states/{key}": torch.ones(12, 3, dtype=torch.float16) for key in keys}
    save_file(short | half, tmp_path / "l")
    found = read_labels(str(tmp_path / "l"), [manifest]).of(keys[:1], torch.tensor([[3, 5]]))
    assert found["phase"].dtype == torch.int64 and found["states"].dtype == torch.float32


def test_arrays_are_checked_by_what_the_tasks_read():
    needs = {True: set(), False: set()}
    for task in TASKS.values():
        needs[task.metric in CLASS_METRICS] |= {task.needs} - {""}
    assert needs == {True: set(CLASSES), False: set(VALUES)}


def test_what_does_not_fit_is_one_line(manifest, tmp_path):
    key, path = manifest[2].key, tmp_path / "l"
    for changes, words in (
        ({key: None}, f"'phase/{key}' is missing, a key of "),
        ({key: torch.arange(11)}, f"'phase/{key}' has 11 values, the episode 12 frames"),
        ({key: torch.tensor(1)}, rf"labels=.*l: 'phase/{key}' is \(\) int64; it must be \(T\) whole numbers"),
        ({key: torch.zeros(12)}, rf"'phase/{key}' is \(12,\) float32; it must be \(T\) whole"),
        ({key: torch.zeros(12, 2).long()}, rf"'phase/{key}' is \(12, 2\) int64; it must be \(T\) whole"),
        ({key: torch.zeros(12).bool()}, f"'phase/{key}' is .* bool; it must be"),
        ({f"states/{key}": torch.zeros(12).long()}, f"'states/{key}' is .*; it must be .T, O. floating values$"),
        ({f"scene/{key}": torch.zeros(12)}, f"'scene/{key}' is .* a class for each frame, or .T, O. floating"),
        (
            {f"states/{e.key}": torch.zeros(12, 3 if e.key == key else 2) for e in manifest},
            f"'states/{key}' is of another kind than 'states/{manifest[0].key}'",
        ),
    ):
        with pytest.raises(ProbeError, match=words):
            read_labels(write(path, manifest, **changes), [manifest])
    save_file({"phase": torch.zeros(3)}, path)
    with pytest.raises(ProbeError, match="tensor 'phase' is not called ARRAY/KEY"):
        read_labels(str(path), [manifest])
    for classes in ("reach, carry", '{"reach": 0}', "[0, 1]"):
        save_file({f"phase/{e.key}": torch.arange(e.frames) for e in manifest}, path, {"classes": classes})
        with pytest.raises(ProbeError, match="`classes` in its header is not a JSON list of names"):
            read_labels(str(path), [manifest])
    path.write_bytes(b"no")
    with pytest.raises(ProbeError, match="not a safetensors file"):
        read_labels(str(path), [manifest])
    with pytest.raises(ProbeError, match="not a safetensors file"):
        read_labels(str(tmp_path / "nothing"), [manifest])
    with pytest.raises(ProbeError, match="is a key of both folders"):
        read_labels(write(path, manifest), [manifest, manifest])
