"""Puts the repository root on the path once, for weights, train and sample."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
