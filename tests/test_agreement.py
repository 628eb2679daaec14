"""Three processes that start with different settings or data: all of them refuse, with the same line."""

import json
import os
import socket
import subprocess
import sys

import pytest
from accelerate import Accelerator

from jepa.agreement import check_agreement

SCRIPT = """
import json, os, sys
import torch
from accelerate import Accelerator
from jepa.agreement import check_agreement
from jepa.config import ConfigError

def process(rank, cases, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="3")
    accelerator = Accelerator(cpu=True)
    said = []
    for facts in cases:
        try:
            check_agreement(facts[rank], accelerator)
            said.append("")
        except ConfigError as error:
            said.append(str(error))
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(said, file)
    accelerator.end_training()
    os._exit(0)

children = []
for rank in range(3):
    if not (child := os.fork()):
        process(rank, json.loads(sys.argv[1]), sys.argv[2])
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
COMMON = {"config": {"loop": {"steps": 10, "lr": 1e-3}, "seed": 0}, "data": {"shards/a": "f" * 64}, "torch": "2.13.0"}


def changed(**values):
    return {**COMMON, **values}


CASES = {
    "same": ([COMMON, COMMON, dict(reversed(COMMON.items()))], ""),
    "seed": (
        [COMMON, changed(config={**COMMON["config"], "seed": 1}), COMMON],
        "do not agree on config.seed: 1 on rank 1, 0 on the others; start all of them",
    ),
    "data": (
        [changed(data={"shards/a": "0" * 64}), COMMON, COMMON],
        f'do not agree on data.shards/a: "{"0" * 39}… on rank 0, "{"f" * 39}… on the others;',
    ),
    "longer": (
        [COMMON, COMMON, changed(config={**COMMON["config"], "out": "x" * 500})],
        f'do not agree on config.out: "{"x" * 39}… on rank 2, nothing on the others;',
    ),
    "all differ": (
        [changed(step=500), changed(step=0), changed(step=400)],
        "do not agree on step: 0 on rank 1, 400 on rank 2, 500 on rank 0;",
    ),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """By case: what each of three processes said."""
    folder = tmp_path_factory.mktemp("agreement")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cases = json.dumps([facts for facts, _ in CASES.values()])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", SCRIPT, cases, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]
    return {case: [rank[number] for rank in ranks] for number, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_all_processes_say_the_same_of_what_differs_and_where(said, case):
    first, *others = said[case]
    assert all(other == first for other in others)
    assert CASES[case][1] in first and bool(first) == bool(CASES[case][1]) and "\n" not in first


def test_a_process_alone_agrees_with_itself():
    check_agreement(COMMON, Accelerator(cpu=True))
