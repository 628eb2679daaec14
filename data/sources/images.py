"""A folder of images as videos of one frame; where each class has a folder, as in ImageNet, with labels."""

from collections.abc import Iterator
from pathlib import Path

from jepa.data.clip import Spec
from jepa.data.sources.base import Episode, Recording, Rejected, need_folder, read_bytes, safe_key
from jepa.data.suffixes import IMAGE


def spec(path: Path) -> Spec:
    """The names of the classes, if every image lies in a sub-folder of `path`."""
    classes = _classes(_files(path))
    return Spec(labels={"label": classes} if classes else {})


def recordings(path: Path) -> Iterator[Recording | Rejected]:
    """Every file of the folder, by name: a recording, or the reason why not."""
    files = _files(path)
    label_of = {name: label for label, name in enumerate(_classes(files))}
    for file in files:
        name = file.as_posix()
        if not (path / file).is_file():
            yield Rejected(name, "not a file")
        elif file.suffix.lower() not in IMAGE:
            yield Rejected(name, f"not an image file (suffix '{file.suffix}')")
        else:
            yield Recording(safe_key(name), name, (label_of[file.parts[0]],) if label_of else ())


def load(path: Path, recording: Recording) -> Episode:
    """The file's bytes as they are; `label` is the number of its class in the order of names."""
    file = path / recording.file
    label = recording.place[0] if recording.place else None
    return Episode(read_bytes(file), file.suffix[1:].lower(), label=label, meta={"file": recording.file})


def _files(path: Path) -> list[Path]:
    """Every file below `path`, relative to it."""
    need_folder(path)
    return sorted(p.relative_to(path) for p in path.rglob("*") if not p.is_dir())


def _classes(files: list[Path]) -> tuple[str, ...]:
    """The first-level folders of the images; none if an image lies beside them."""
    images = [file for file in files if file.suffix.lower() in IMAGE]
    if any(len(file.parts) == 1 for file in images):
        return ()
    return tuple(sorted({file.parts[0] for file in images}))
