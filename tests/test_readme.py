"""The code of the README, and of the page about training, runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pascal_ext.adapters.spikingjelly.compat import HAS_RECIPES

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.rand(16, 1, 8, 8)
    names = {"model": network(), "images": images, "loader": [(images, torch.zeros(16))]}
    names["test_loader"] = [(images, torch.randint(5, (16,)))]
    code_blocks = blocks("README.md")
    assert len(code_blocks) == 5
    for block in code_blocks:
        code = block if HAS_RECIPES else block.replace("converter.convert(model)", "converter(model)")
        exec(compile(code, "README.md", "exec"), names)
    names["pascal_ext"].unregister()
    torch.testing.assert_close(names["sequence"].mean(0), names["logits"])
    assert (tmp_path / "snn.safetensors").exists()
    assert (tmp_path / "comparison" / "report.html").exists()


def test_the_code_of_the_page_about_training_runs() -> None:
    images, labels = torch.rand(16, 1, 8, 8), torch.randint(5, (16,))
    names = {"model": network(), "loader": [(images, labels)]}
    (block,) = blocks("docs/training.md")
    exec(compile(block, "docs/training.md", "exec"), names)
    snn, model = names["snn"], names["model"]
    assert not torch.equal(names["student"].get_submodule("0").weight, model[0].weight)
    assert set(snn.plan.values()) == {4}
    with torch.no_grad():
        torch.testing.assert_close(snn(images), names["student"].eval()(images))
