"""Where the kernels of a GPU run in the tests of this folder."""

from __future__ import annotations

import device_kernels
import pytest
import torch


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    return device_kernels.prepared(monkeypatch)
