"""The README's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.rand(16, 1, 8, 8)
    names = {"model": model, "images": images, "loader": [(images, torch.zeros(16))]}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        code = block if HAS_RECIPES else block.replace("converter.convert(model)", "converter(model)")
        exec(compile(code, "README.md", "exec"), names)
    names["pascal_ext"].unregister()  # type: ignore[attr-defined]
    torch.testing.assert_close(names["sequence"].mean(0), names["logits"])  # type: ignore[attr-defined]
    assert (tmp_path / "snn.safetensors").exists()
