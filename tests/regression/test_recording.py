"""Launches of a run go into the history: once, on devices of their target, with those that did not count marked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_results import cell as made_cell

from kdedge.latency.history.store import open_history
from kdedge.latency.percentiles import nearest_rank
from kdedge.measured import Cell, DeviceIdentity, Latency
from kdedge.regression.recording import record_profiles

BOARD = DeviceIdentity("board", "ssh", ("x86_64",), {"cpu": "made up"})
