"""COIN (Tang et al., 2019): COIN.json, with the task that each whole video shows, and videos `<youtube_id>.mp4`."""

from dataclasses import dataclass

from omegaconf import MISSING

from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import field, read_json, videos_by_name

SUBSETS: dict[str, Split] = {"training": "train", "testing": "test"}


@dataclass(frozen=True)
class Config:
    """`labels` is COIN.json; `videos` is searched to the bottom, so that a folder for each task may be there or not."""

    labels: str = MISSING
    videos: str = MISSING


def read(config: Config, split: Split) -> Annotated:
    """Classes are the tasks in the order of their `recipe_type`. A group is a video; its steps are not read.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`.
    """
    rows: dict[Split, list[Row]] = {"train": [], "test": []}
    tasks: dict[int, str] = {}
    database = field(config.labels, read_json(config.labels, dict), "database", dict)
    for name, entry in database.items():
        where = f"{config.labels}, '{name}'"
        number, task = field(where, entry, "recipe_type", int), field(where, entry, "class", str)
        subset = field(where, entry, "subset", str)
        if tasks.setdefault(number, task) != task:
            raise ProbeError(
                f"{where}: recipe_type {number} is '{task}' here and '{tasks[number]}' before; correct one"
            )
        if subset not in SUBSETS:
            raise ProbeError(f"{where}: subset '{subset}' is not one of {', '.join(SUBSETS)}")
        rows[SUBSETS[subset]].append(Row(where, name, task, name))
    classes = tuple(tasks[number] for number in sorted(tasks))
    return assemble(rows, classes, split, videos_by_name(config.videos).get, listed=config.labels)
