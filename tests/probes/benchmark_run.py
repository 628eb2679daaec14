"""A benchmark as one process of several, for test_benchmark_ranks: `benchmark_run.py PRESET.yaml KEY=VALUE …`."""

import sys

import torch

from jepa.config import load_config
from jepa.probes.published.benchmark import run
from jepa.probes.published.benchmark_config import BenchmarkConfig

torch.set_num_threads(1)
run(load_config(BenchmarkConfig, "benchmark", sys.argv[1], sys.argv[2:]))
