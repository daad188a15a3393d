"""The code on the page about snnTorch runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

PAGE = (Path(__file__).parents[3] / "docs" / "snntorch.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).eval()
    images, targets = torch.rand(16, 1, 8, 8), torch.randint(10, (16,))
    names = {"model": model, "images": images, "targets": targets, "loader": [(images, targets)]}
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        exec(compile(block, "docs/snntorch.md", "exec"), names)
