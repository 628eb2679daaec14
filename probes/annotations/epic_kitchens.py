"""EPIC-KITCHENS-100 (Damen et al., 2022): its CSV lists, and videos `<participant>/videos/<video_id>.MP4`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from jepa.probes.annotations.base import UNSEEN, Annotated, Sample, Split, check_apart, check_found
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import need_folder, read_table, whole

TIMES, FRAMES = ("start_timestamp", "stop_timestamp"), ("start_frame", "stop_frame")


@dataclass(frozen=True)
class Config:
    """`train` and `test` are EPIC_100_train.csv and EPIC_100_validation.csv, or lists that have of their columns only
    video_id, start_frame, stop_frame, verb_class and noun_class, as V-JEPA 2 reads them.

    `videos` holds a folder for each participant, with the videos in it or in its folder `videos`. `verbs` and `nouns`
    are EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv; without them classes are called by their numbers.
    """

    train: str = MISSING
    test: str = MISSING
    videos: str = MISSING
    verbs: str = ""
    nouns: str = ""


@dataclass(frozen=True)
class Action:
    """One row: seconds where the list has timestamps, else the frames of the video."""

    where: str
    video: str
    start: float
    stop: float
    timed: bool
    verb: int
    noun: int


def read(config: Config, split: Split) -> Annotated:
    """Labels are (verb, noun, action); classes are those of train: verbs, nouns and pairs of them, each sorted.

    A verb, noun or pair that train does not have is `UNSEEN` in test: such a sample counts for the heads that know its
    class, and is to be left out of the others' scores, and counted. A group is a video.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`; also a class that `verbs` or `nouns` does not have, or, where
            frames must be turned into seconds, a video that has no frame rate.
    """
    names = [_names(config.verbs), _names(config.nouns)]
    rows: dict[Split, list[Action]] = {
        "train": list(_actions(config.train, names)),
        "test": list(_actions(config.test, names)),
    }
    check_apart({side: [(action.where, action.video) for action in rows[side]] for side in rows})
    pairs = sorted({(a.verb, a.noun) for a in rows["train"]})
    verbs, nouns = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    numbers = [{key: i for i, key in enumerate(keys)} for keys in (verbs, nouns, pairs)]
    need_folder(config.videos)
    files = {action.video: _file(Path(config.videos), action.video) for action in rows[split]}
    untimed = {a.video for a in rows[split] if not a.timed}
    rates = {video: _rate(file) for video, file in files.items() if file and video in untimed}
    samples = []
    for a in rows[split]:
        if file := files[a.video]:
            keys, rate = (a.verb, a.noun, (a.verb, a.noun)), rates.get(a.video, 1.0)
            label = tuple(known.get(key, UNSEEN) for known, key in zip(numbers, keys, strict=True))
            samples.append(Sample(file, label, a.video, a.start / rate, a.stop / rate))
    classes = {
        "verb": tuple(_name(names[0], v) for v in verbs),
        "noun": tuple(_name(names[1], n) for n in nouns),
        "action": tuple(f"{_name(names[0], v)} {_name(names[1], n)}" for v, n in pairs),
    }
    return Annotated(tuple(samples), classes, check_found(files, split))


def _actions(path: str, names: list[Mapping[int, str]]) -> Iterator[Action]:
    classes = ("verb_class", "noun_class")
    for where, values in read_table(path, ("video_id", *FRAMES, *classes)):
        timed = TIMES[0] in values and TIMES[1] in values
        if timed:
            start, stop = (_seconds(where, key, values[key]) for key in TIMES)
        else:
            start, stop = (float(whole(where, key, values[key])) for key in FRAMES)
        if start >= stop:
            raise ProbeError(f"{where}: the action stops at {stop:g}, not after its start at {start:g}")
        verb, noun = (whole(where, key, values[key]) for key in classes)
        for key, number, known in zip(classes, (verb, noun), names, strict=True):
            if known and number not in known:
                raise ProbeError(f"{where}: {key} {number} is not in the list of its names; correct one of them")
        yield Action(where, values["video_id"], start, stop, timed, verb, noun)


def _seconds(where: str, column: str, text: str) -> float:
    if not (match := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)):
        raise ProbeError(f"{where}: {column} '{text}' is not of the form hours:minutes:seconds")
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _names(path: str) -> dict[int, str]:
    return (
        {whole(w, "id", values["id"]): values["key"] for w, values in read_table(path, ("id", "key"))} if path else {}
    )


def _name(names: Mapping[int, str], number: int) -> str:
    return names.get(number, str(number))


def _file(base: Path, video: str) -> Path | None:
    folder = base / video.split("_")[0]
    places = (folder / "videos" / f"{video}.MP4", folder / f"{video}.MP4")
    return next((place for place in places if place.is_file()), None)


def _rate(file: Path) -> float:
    """Frames per second, from the file's head."""
    import av

    try:
        with av.open(str(file)) as container:
            rate = container.streams.video[0].average_rate
    except (av.error.FFmpegError, IndexError) as error:
        raise ProbeError(f"{file}: not a readable video; its frames have no times") from error
    if not rate:
        raise ProbeError(f"{file}: has no frame rate; give lists with start_timestamp and stop_timestamp")
    return float(rate)
