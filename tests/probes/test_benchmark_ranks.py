"""A benchmark by two processes finds what one finds: clips are split over them, and so are the heads."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from jepa.config import load_config
from jepa.probes.published.benchmark import run
from jepa.probes.published.benchmark_config import BenchmarkConfig

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("benchmark_fixtures.py"))))
SCRIPT = Path(__file__).with_name("benchmark_run.py")
MORE = ["lr=[3e-3,1e-3,3e-4]", "halving=1", "cache=evaluation", "checkpoint_every=2"]


def start(rank: int, port: int, arguments: list[str]) -> subprocess.Popen:
    """One of two processes, as torchrun starts them; it itself would be a third to wait for."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "JEPA_QUIET": "1", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        env=environment | {key: str(value) for key, value in place.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_find_what_one_finds(tiny, tmp_path, save_model):
    made.write_lists(tmp_path, 4)
    (tmp_path / "preset.yaml").write_text(
        f"annotations: {{type: csv, train: {tmp_path}/train.csv, test: {tmp_path}/test.csv}}\n"
    )
    encoder = made.write_run(tmp_path / "pretrain", tiny, save_model)
    preset, given = str(tmp_path / "preset.yaml"), [f"encoder={encoder}", *made.SMALL, *MORE]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [start(rank, port, [preset, *given, f"out={tmp_path / 'two'}"]) for rank in (0, 1)]
    try:
        run(load_config(BenchmarkConfig, "benchmark", preset, [*given, f"out={tmp_path / 'one'}"]))
        outputs = [process.communicate(timeout=240)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], outputs
    one, two = (json.loads((tmp_path / name / "benchmark.json").read_text()) for name in ("one", "two"))
    assert one["knn"] == two["knn"]
    assert one["rows"][0]["chosen"] == two["rows"][0]["chosen"]
    assert one["rows"][0]["best_on_test"] == two["rows"][0]["best_on_test"]
    a, b = (load_file(tmp_path / name / "pretrained" / "predictions.safetensors") for name in ("one", "two"))
    assert torch.equal(a["rows"], b["rows"]) and torch.allclose(a["probabilities"], b["probabilities"], atol=1e-4)
