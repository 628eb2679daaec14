"""The meter against a clock that is told the time: waiting, rates over all processes, FLOPs by length of clip."""

from dataclasses import replace

import pytest
import torch

from jepa import cost, throughput
from jepa.config import load_config
from jepa.data.clip import Clip
from jepa.data.config import DataSet
from jepa.pretrain import PretrainConfig
from jepa.throughput import Meter, Work, clip_work, peak_tflops

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(work=None, waits=(1.0, 3.0, 0.0), precision="bf16"):
    """The figures of steps of 2 s each after such waits, with 50 s of measuring between them."""
    clock = Clock()
    meter = Meter(CPU, precision, work, clock)

    def batches():
        for wait in waits:
            clock.now += wait
            yield "batch"

    clock.now += 7  # loading a checkpoint is no waiting
    found = []
    for batch in meter.feed(batches()):
        clock.now += 2
        found.append(meter.figures(batch))
        clock.now += 50
    return found


def test_a_step_is_waiting_and_work_and_nothing_else():
    found = run()
    assert [figures["speed/step_s"] for figures in found] == [3, 5, 2]
    assert [figures["speed/data_wait"] for figures in found] == pytest.approx([1 / 3, 3 / 5, 0])
    assert set(found[0]) == {"speed/step_s", "speed/data_wait", "speed/memory_gib"}
    assert 0.05 < found[0]["speed/memory_gib"] < 50  # torch alone takes hundreds of MiB


def test_rates_are_those_of_all_processes_and_flops_of_one_device(monkeypatch):
    asked = []

    def agree(values, device):
        asked.append(values)
        return [0.9, 70.0]  # of a process that is worse off

    monkeypatch.setattr(throughput, "processes", lambda: 4)
    monkeypatch.setattr(throughput, "agree", agree)
    figures = run(lambda batch: Work(clips=6, tokens=600, flops=9e12))[0]
    assert figures == {
        "speed/step_s": 3.0,
        "speed/data_wait": 0.9,
        "speed/clips_s": 8.0,
        "speed/tokens_s": 800.0,
        "speed/tflops": 3.0,
        "speed/memory_gib": 70.0,
    }  # and no share of a CPU's peak, which nobody knows
    assert asked[0][0] == pytest.approx(1 / 3)


def test_a_gpu_has_its_share_of_the_peak_and_the_memory_it_once_needed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    meter = Meter(torch.device("cuda"), "bf16", lambda batch: Work(1, 1, 989e12), Clock())
    meter._clock.now += 2
    figures = meter.figures("batch")
    assert figures["speed/mfu"] == pytest.approx(0.5) and figures["speed/memory_gib"] == 1.5


def test_peaks_are_found_by_name_and_none_is_invented():
    assert peak_tflops("NVIDIA A100-SXM4-80GB", "bf16") == 312
    assert peak_tflops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5
    assert peak_tflops("NVIDIA H100 PCIe", "fp16") < peak_tflops("NVIDIA H100 80GB HBM3", "fp16") == 989
    assert peak_tflops("NVIDIA L40S", "bf16") == 362 and peak_tflops("NVIDIA L4", "bf16") == 121
    assert peak_tflops("NVIDIA GH200 480GB", "bf16") == 989
    for unknown in ("Some Other GPU", "NVIDIA L40", "NVIDIA RTX A4000"):
        assert peak_tflops(unknown, "bf16") is None
    assert all(low < high for high, low in throughput.PEAKS.values())


def test_work_is_that_of_the_batch_by_its_length_without_recomputing():
    values = ["out=x", "data.size=32", "encoder.size=32", "encoder.width=32", "encoder.depth=2", "encoder.heads=2"]
    config = load_config(PretrainConfig, "pretrain", "debug", values)
    mix = [DataSet("stills", frames=1), DataSet("videos", frames=8)]
    full = replace(config.encoder, checkpointing="full")
    config = replace(config, data=replace(config.data, mix=mix), encoder=full)
    objective = cost.build_objective(config)
    work = clip_work(config, objective)
    for frames, grid in ((1, (1, 4, 4)), (8, (4, 4, 4))):
        tokens = grid[0] * grid[1] * grid[2]
        sizes = cost.mask_sizes(config, grid, 4)
        once = sum(part.forward + part.backward for part in cost.step_flops(objective, tokens, sizes).values())
        assert work(clip_of(3, frames)) == Work(3, 3 * tokens, 3 * once)


def clip_of(rows, frames):
    ids = torch.zeros(rows, dtype=torch.int64)
    pixels = torch.zeros(rows, frames, 3, 32, 32, dtype=torch.uint8)
    return Clip(pixels, ids, ids, 0, torch.ones(rows, frames, dtype=torch.bool))
