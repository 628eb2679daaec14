"""Two processes of one launch share a probe run and find what one finds."""

import json
import os
import subprocess
import sys

import torch

from jepa import checkpoint
from jepa.config import load_config, to_dict
from jepa.models.encoder import build_encoder
from jepa.probes.run import ProbeConfig, run

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
