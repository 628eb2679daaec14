"""Any folder of video files, searched to the bottom."""

from collections.abc import Iterator
from pathlib import Path

from jepa.data.clip import Spec
from jepa.data.sources.base import Episode, Recording, Rejected, need_folder, read_bytes, safe_key
from jepa.data.suffixes import VIDEO


def spec(path: Path) -> Spec:
    """Nothing is promised beyond pixels."""
    need_folder(path)
    return Spec()


def recordings(path: Path) -> Iterator[Recording | Rejected]:
    """Every file of the folder, by name: a recording, or the reason why not."""
    need_folder(path)
    for file in sorted(p for p in path.rglob("*") if not p.is_dir()):
        name = file.relative_to(path).as_posix()
        if not file.is_file():
            yield Rejected(name, "not a file")
        elif file.suffix.lower() not in VIDEO:
            yield Rejected(name, f"not a video file (suffix '{file.suffix}')")
        else:
            yield Recording(safe_key(name), name)


def load(path: Path, recording: Recording) -> Episode:
    """The file's bytes as they are."""
    file = path / recording.file
    return Episode(read_bytes(file), file.suffix[1:].lower(), meta={"file": recording.file})
