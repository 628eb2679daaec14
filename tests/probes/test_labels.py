"""Own labels go to the frames they are of; a file that does not fit the shards is one line."""

import pytest
import torch
from safetensors.torch import save_file

from jepa.data.index import Manifest
from jepa.probes.kinds.base import ProbeError
from jepa.probes.labels import read_labels


@pytest.fixture
def manifest(moving_square) -> Manifest:
    return Manifest.load(moving_square)


def write(path, manifest, **changes):
    own = {f"phase/{entry.key}": torch.arange(entry.frames) + 100 * entry.id for entry in manifest}
    own |= {f"phase/{key}": value for key, value in changes.items()}
    save_file({name: value for name, value in own.items() if value is not None}, path, {"classes": '["a", "b"]'})
    return str(path)


def test_labels_are_those_of_the_frames(manifest, tmp_path):
    labels = read_labels(write(tmp_path / "l", manifest, elsewhere=torch.zeros(3)), [manifest])
    keys = [manifest[i].key for i in (4, 0)]
    found = labels.of(keys, torch.tensor([[3, 5], [0, 11]]))
    assert found["phase"].tolist() == [[403, 405], [0, 11]] and labels.classes == ("a", "b")


def test_what_does_not_fit_is_one_line(manifest, tmp_path):
    key, path = manifest[2].key, tmp_path / "l"
    for changes, words in (
        ({key: None}, f"'phase/{key}' is missing, a key of "),
        ({key: torch.zeros(11)}, f"'phase/{key}' has 11 values, the episode 12 frames"),
        ({key: torch.tensor(1)}, "is not called ARRAY/KEY and a value for each frame"),
    ):
        with pytest.raises(ProbeError, match=words):
            read_labels(write(path, manifest, **changes), [manifest])
    save_file({"phase": torch.zeros(3)}, path)
    with pytest.raises(ProbeError, match="tensor 'phase' is not called ARRAY/KEY"):
        read_labels(str(path), [manifest])
    path.write_bytes(b"no")
    with pytest.raises(ProbeError, match="not a safetensors file"):
        read_labels(str(path), [manifest])
    with pytest.raises(ProbeError, match="not a safetensors file"):
        read_labels(str(tmp_path / "nothing"), [manifest])
    with pytest.raises(ProbeError, match="is a key of both folders"):
        read_labels(write(path, manifest), [manifest, manifest])
