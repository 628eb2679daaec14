"""Two processes of one launch share a probe run and find what one finds."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from rich.progress import Progress

from jepa import checkpoint
from jepa.config import ConfigError, load_config, to_dict
from jepa.models.encoder import build_encoder
from jepa.probes import pool
from jepa.probes.run import ProbeConfig, run
from jepa.probes.stages import Crew

CPU = torch.device("cpu")
SMALL = ["frames=4", "clips_test=3", "tasks=[arrow]", "seeds=2", "workers=1", "attentive.epochs=1", "attentive.heads=2"]


def test_two_processes_find_what_one_finds(tiny, moving_square, save_model, tmp_path):
    encoder_run = tmp_path / "pretrain"
    checkpoint.claim_run(encoder_run, {"encoder": to_dict(tiny)})
    save_model(encoder_run, torch.nn.ModuleDict({"encoder": build_encoder(tiny, 0)}))
    given = [f"encoder={encoder_run}", f"shards_train={moving_square}", *SMALL]
    alone = run(load_config(ProbeConfig, "probe", "demo", [*given, f"out={tmp_path / 'a'}"]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")} | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "jepa", "probe", "demo", *given, f"out={tmp_path / 'b'}"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as both:
        try:
            said, _ = both.communicate(timeout=200)
        finally:
            both.terminate()
    assert both.returncode == 0, said[-5000:]
    files = [sorted(f.name for f in (tmp_path / out / "jobs").iterdir()) for out in "ab"]
    assert files[0] == files[1] and len(files[0]) == 8
    assert json.loads((tmp_path / "b" / "probe.json").read_text())["rows"] == alone["rows"]
    assert said.count("arrow of time") == 1  # one process shows the table


@pytest.fixture
def crew(tmp_path):
    alone = SimpleNamespace(device=CPU, process_index=0, num_processes=1)
    return Crew(alone, None, Progress(disable=True), tmp_path / "failed")


def test_a_process_ends_when_another_has_failed_and_not_after_all_of_its_own_jobs(crew):
    done = []

    def work(job):
        done.append(job)
        if job == 2:
            crew.failed.touch()  # as the other does

    with pytest.raises(ConfigError, match="another process cannot go on"):
        crew.each("probe", work, [1, 2, 3, 4])
    assert done == [1, 2] and not crew.failed.exists()
    assert crew.each("probe", lambda job: -job, [3, 1]) == [-3, -1]


def test_a_process_that_fails_says_so_before_it_waits_for_the_others(crew, monkeypatch):
    seen, agree = [], pool.agree
    monkeypatch.setattr(pool, "agree", lambda *args: seen.append(crew.failed.exists()) or agree(*args))
    with pytest.raises(ZeroDivisionError):
        crew.each("probe", lambda job: 1 / job, [1, 0, 2])
    assert seen == [True] and not crew.failed.exists()


def test_one_worker_has_one_thread_as_many_have():
    torch.set_num_threads(2)
    try:
        with pool.open_pool(1, CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_workers_have_the_gpu_of_the_process_that_they_work_for(monkeypatch):
    executor, chosen = MagicMock(), []
    monkeypatch.setattr(pool, "ProcessPoolExecutor", executor)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in (torch.device("cuda", 3), CPU):
        with pool.open_pool(2, device):
            executor.call_args.kwargs["initializer"]()
    assert chosen == [3]
