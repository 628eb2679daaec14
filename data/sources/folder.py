"""Any folder of video files, searched to the bottom."""

from collections.abc import Iterator
from pathlib import Path

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.sources.base import Episode, Rejected, need_folder, read_bytes, safe_key

SUFFIXES = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .mts .m2ts .flv .wmv .asf .ogv .3gp".split()  # noqa: SIM905


def spec(path: Path) -> Spec:
    """Nothing is promised beyond pixels."""
    need_folder(path)
    return Spec()


def episodes(path: Path) -> Iterator[Episode | Rejected]:
    """Every file of the folder, by name: a recording, or the reason why not."""
    need_folder(path)
    for file in sorted(p for p in path.rglob("*") if not p.is_dir()):
        name = file.relative_to(path).as_posix()
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES or not file.is_file():
            yield Rejected(name, f"not a video file (suffix '{suffix}')" if file.is_file() else "not a file")
            continue
        try:
            data = read_bytes(file)
        except DataError as error:
            yield Rejected(name, str(error))
            continue
        yield Episode(safe_key(name), name, data, suffix[1:], meta={"file": name})
