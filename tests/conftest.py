"""One thread: the tests' tensors are small, and results must not depend on how many cores there are."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
