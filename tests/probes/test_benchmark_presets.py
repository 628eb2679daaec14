"""Every published protocol, shrunk, from official annotations and video files to a report."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jepa.config import load_config, preset_names
from jepa.probes.published.benchmark import run
from jepa.probes.published.benchmark_config import BenchmarkConfig

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("benchmark_fixtures.py"))))
official = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_annotations.py"))))
FORMATS = {
    "k400_vitl": "kinetics",
    "ssv2_vitg384": "ssv2",
    "coin_vitl": "coin",
    "diving48_vitl": "diving48",
    "jester_vitg384": "jester",
    "in1k_vitl": "imagenet",
}
SHRUNK = ["size=16", "frames=4", "epochs=1", "batch=2", "depth=2", "heads=2", "workers=0", "warmup=0", "validation=0.5"]


def fill(folder) -> None:
    """Pictures for the empty files that stand for videos and images."""
    rng = np.random.default_rng(0)
    made.write_video(folder / "one.mp4", 1, rng)
    for path in folder.rglob("*"):
        if path.is_file() and not path.stat().st_size:
            if path.suffix.lower() in (".jpg", ".jpeg"):
                Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(path, "JPEG")
            else:
                path.write_bytes((folder / "one.mp4").read_bytes())


@pytest.mark.parametrize("preset", FORMATS)
def test_a_protocol_runs_from_official_files_to_a_report(preset, tiny, tmp_path, save_model):
    (tmp_path / "data").mkdir()
    annotations = official.WRITERS[FORMATS[preset]](tmp_path / "data")
    fill(tmp_path / "data")
    encoder = made.write_run(tmp_path / "pretrain", tiny, save_model)
    given = [f"annotations.{key}={value}" for key, value in annotations.items()]
    given += [f"encoder={encoder}", f"out={tmp_path / 'out'}", *SHRUNK]
    plain = load_config(BenchmarkConfig, "benchmark", preset, [f"annotations.{k}=x" for k in annotations])
    given += ["levels=[0,1]"] if plain.levels else []
    result = run(load_config(BenchmarkConfig, "benchmark", preset, given))
    row = result["rows"][0]
    assert row["heads"] == len(plain.lr) * len(plain.weight_decay) in (3, 20)
    assert result["data"]["videos"]["test"] == row["test"]["clips"] > 0 and not row["unread"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_no_data_set_is_left_out():
    names = {name.split("_")[0] for name in preset_names("benchmark")}
    assert names - {preset.split("_")[0] for preset in FORMATS} <= {"ek100"}  # which has a protocol of its own
