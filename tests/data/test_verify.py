"""Verification: sound data give no fault; whatever is flipped, cut, missing, extra or harmful is named."""

import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import jepa.data.verify as module
from jepa import cli
from jepa.data.errors import DataError
from jepa.data.index import INDEX_FILES, Manifest
from jepa.data.verify import verify

FIRST = "shard-000000.tar"


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def faults(folder: Path | str) -> list[tuple[str, str]]:
    return [(fault.file, fault.reason) for fault in verify(str(folder))]


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def refit(folder: Path) -> None:
    """Make dataset.json say that the first shard is as it should be."""
    values = json.loads((folder / "dataset.json").read_text())
    data = (folder / FIRST).read_bytes()
    values["shards"][0] = [FIRST, len(data), hashlib.sha256(data).hexdigest()]
    (folder / "dataset.json").write_text(json.dumps(values))


def test_sound_data_have_no_fault_and_nothing_is_written(shards: Path) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in shards.rglob("*") if p.is_file()}

    before, calls = state(), []
    assert list(verify(str(shards), progress=lambda done, total: calls.append((done, total)))) == []
    assert state() == before
    sizes = [(shards / shard.name).stat().st_size for shard in Manifest.load(shards).shards]
    assert calls == [(sum(sizes[: i + 1]), sum(sizes)) for i in range(len(sizes))] and len(calls) > 1


def test_a_hundred_bit_flips_anywhere_in_a_shard_are_all_found(copied: Path) -> None:
    path = copied / FIRST
    data, rng = path.read_bytes(), np.random.default_rng(0)
    with tarfile.open(path) as tar:
        members = list(tar)
    headers = [m.offset + int(x) for m in members for x in rng.integers(0, 512, 1)]
    padding = [m.offset_data + m.size for m in members if m.size % 512]
    places = [*headers, *padding, len(data) - 1, 0, *rng.integers(0, len(data), 100).tolist()]
    for place in places:
        flip(path, place, int(rng.integers(8)))
        assert FIRST in {file for file, _ in faults(copied)}, place
        path.write_bytes(data)
    assert faults(copied) == []


@pytest.mark.parametrize("piece", [1000, 1 << 24])
def test_a_flip_in_a_sample_names_the_member(copied: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    manifest = Manifest.load(copied)
    for i in (0, 7):
        offset, size, _ = manifest[i].members["states.npy"]
        for place in (offset, offset + size - 1):
            flip(copied / manifest[i].shard, place)
            assert faults(copied) == [(manifest[i].shard, f"{manifest[i].key}.states.npy differs from its checksum")]
            flip(copied / manifest[i].shard, place)


def test_a_flip_between_samples_is_said_to_be_there(copied: Path) -> None:
    offset, size, _ = Manifest.load(copied)[0].members["json"]
    flip(copied / FIRST, offset + size)
    [(file, reason)] = faults(copied)
    assert file == FIRST and "differs from its checksum, in tar headers" in reason


@pytest.mark.parametrize("name", INDEX_FILES)
def test_a_damaged_index_is_found_and_does_not_hide_damaged_shards(copied: Path, name: str) -> None:
    size = (copied / name).stat().st_size
    for place in np.random.default_rng(1).integers(0, size, 10).tolist():
        flip(copied / name, place)
        assert faults(copied) == [(name, "differs from its checksum")]
        flip(copied / name, place)
    (copied / name).unlink()
    flip(copied / FIRST, 700)
    assert [file for file, _ in faults(copied)] == [name, FIRST]


def test_an_index_without_checksums_is_a_fault(copied: Path) -> None:
    path = copied / "dataset.json"
    path.write_text(path.read_text().replace('"index": {', '"indey": {'))
    assert [file for file, _ in faults(copied)] == list(INDEX_FILES)


def test_a_data_set_that_cannot_be_read_at_all_is_an_error(copied: Path, tmp_path: Path) -> None:
    flip(copied / "dataset.json", 0)
    with pytest.raises(DataError, match=r"dataset\.json"):
        faults(copied)
    with pytest.raises(DataError, match="no such folder"):
        faults(tmp_path / "nosuch")


@pytest.mark.parametrize("place", ["header", "payload", "edge", "nothing"])
def test_a_cut_shard_is_found_even_if_its_checksum_was_made_to_fit(copied: Path, place: str) -> None:
    with tarfile.open(copied / FIRST) as tar:
        last = list(tar)[-1]
    cut = {"header": last.offset + 100, "payload": last.offset_data + 1, "edge": last.offset, "nothing": 0}[place]
    data = (copied / FIRST).read_bytes()
    (copied / FIRST).write_bytes(data[:cut])
    assert faults(copied) == [(FIRST, f"has {cut} bytes, the index says {len(data)}")]
    refit(copied)
    assert any(file == FIRST and "the index of sample" in reason for file, reason in faults(copied))  # it ends outside


def test_missing_extra_and_grown_shards(copied: Path) -> None:
    second = copied / "shard-000001.tar"
    shutil.copy(second, copied / "other.tar")
    second.unlink()
    with (copied / FIRST).open("ab") as file:
        file.write(b"x")
    found = dict(faults(copied))
    assert found.pop(FIRST).startswith("has ")
    assert found == {"other.tar": "is not in the index", second.name: "is missing"}


def test_another_payload_under_a_checksum_made_to_fit_is_found_by_the_index(copied: Path) -> None:
    entry = Manifest.load(copied)[0]
    offset, size, _ = entry.members["mp4"]
    flip(copied / FIRST, offset + size // 2)
    refit(copied)
    assert faults(copied) == [(FIRST, f"{entry.key}.mp4 differs from its checksum")]


HARMFUL: dict[str, tuple[str, bytes, str]] = {
    "above": ("../evil.mp4", tarfile.REGTYPE, "extracted elsewhere"),
    "absolute": ("/tmp/evil.mp4", tarfile.REGTYPE, "extracted elsewhere"),
    "windows": ("..\\evil.mp4", tarfile.REGTYPE, "extracted elsewhere"),
    "dots": ("..", tarfile.REGTYPE, "extracted elsewhere"),
    "symlink": ("evil.mp4", tarfile.SYMTYPE, "not a plain file"),
    "hard link": ("evil.mp4", tarfile.LNKTYPE, "not a plain file"),
    "device": ("evil.mp4", tarfile.CHRTYPE, "not a plain file"),
    "folder": ("evil", tarfile.DIRTYPE, "not a plain file"),
    "pickle": ("evil.pyd", tarfile.REGTYPE, "may run code"),
    "upper case": ("evil.PTH", tarfile.REGTYPE, "may run code"),
    "compressed": ("evil.pickle.gz", tarfile.REGTYPE, "may run code"),
}


def member(name: str, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info.tobuf()


@pytest.mark.parametrize("case", HARMFUL)
@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "behind the end"])
def test_harmful_members_are_named_although_the_checksum_fits(copied: Path, case: str, hidden: bool) -> None:
    name, kind, reason = HARMFUL[case]
    path = copied / FIRST
    with tarfile.open(path) as tar:
        last = list(tar)[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    data = path.read_bytes()
    path.write_bytes((data if hidden else data[:end]) + member(name, kind) + bytes(1024))
    refit(copied)
    [(file, said)] = faults(copied)
    assert file == FIRST and repr(name) in said and reason in said
    assert {p.name for p in copied.parent.iterdir()} == {"copy"}


def test_what_is_no_tar_is_a_fault(copied: Path) -> None:
    (copied / FIRST).write_bytes(np.random.default_rng(0).bytes((copied / FIRST).stat().st_size))
    refit(copied)
    names = {f"{e.key}.{ext} differs from its checksum" for e in Manifest.load(copied) for ext in e.members}
    found = faults(copied)
    assert found and {reason for _, reason in found} < names


def test_remote_data_are_read_anew_each_time(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    files.put(str(copied), "/verified", recursive=True)
    try:
        assert faults("memory://verified") == []
        data = bytearray(files.cat_file(f"/verified/{FIRST}"))
        data[1000] ^= 1
        files.pipe_file(f"/verified/{FIRST}", bytes(data))
        assert {file for file, _ in faults("memory://verified")} == {FIRST}
    finally:
        files.rm("/verified", recursive=True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `jepa …` in this process: its exit code, and what it printed to stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["jepa", *map(str, arguments)])
        monkeypatch.setenv("JEPA_QUIET", "1")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def test_the_verb_says_that_all_is_well(copied: Path, run: Callable[..., tuple[int, str]]) -> None:
    assert run("data", "verify", copied) == (
        0,
        "12 samples in 3 shards: every byte of shards and index is as it was packed\n",
    )


def test_the_verb_prints_every_fault_and_fails(copied: Path, run: Callable[..., tuple[int, str]]) -> None:
    (copied / FIRST).unlink()
    shutil.copy(copied / "shard-000001.tar", copied / "[red].tar")
    code, said = run("data", "verify", copied)
    assert code == 2
    lines = said.splitlines()
    assert lines[:2] == ["fault [red].tar: is not in the index", f"fault {FIRST}: is missing"]
    assert (
        lines[2].startswith(f"jepa: {copied}: 2 faults, the first: [red].tar: is not in the index") and len(lines) == 3
    )


@pytest.mark.parametrize("count", [11, 13])
def test_a_count_that_the_index_contradicts_is_a_fault(copied: Path, count: int) -> None:
    path = copied / "dataset.json"
    path.write_text(path.read_text().replace('"samples": 12', f'"samples": {count}'))
    assert faults(copied) == [("dataset.json", f"promises {count} samples, the index has 12")]


def test_members_are_hashed_across_pieces() -> None:
    """A slow reading, byte by byte, agrees."""
    data = np.random.default_rng(3).bytes(300)
    spans = [(10, 10), (10, 60), (60, 61), (90, 300)]
    members = [module._Member(a, b, hashlib.sha256(data[a:b]).hexdigest(), f"{a}-{b}") for a, b in spans]

    class Store:
        def read_range(self, name: str, start: int, stop: int) -> bytes:
            return data[start:stop]

    class Fake:
        store = Store()

    for piece in (1, 7, 50, 300, 1000):
        shard = module.Shard("x.tar", len(data), "")
        file = module._Hashed(Fake(), shard, members)  # type: ignore[arg-type]
        out = io.BytesIO()
        while part := file.read(piece):
            out.write(part)
        assert out.getvalue() == data and file.finish() == hashlib.sha256(data).hexdigest() and not file.damaged
