"""Puts the repository root on the path once, for weights, train and sample; one thread a process.

Tests run on every core (pytest-xdist), so that a second thread in one of them only waits.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts, here and in what tests start

import torch

torch.set_num_threads(1)
