"""Who imports whom: downwards only, frameworks in the adapters only, and nothing heavy at import time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up. A module imports from lower layers, and from its own as long as there is no circle.
LAYERS = (
    {"errors", "extras", "observers", "plan"},
    {"data", "distributed", "ops"},
    {"functional", "qcfs"},
    {"graph"},
    {"activations", "neuron"},
    {"calibration", "network"},
    {"energy", "saving"},
    {"allocation"},
    {"conversion"},
    {"verification"},
    {"reports"},
    {"adapters"},
    {"demo"},
    {"comparison"},
    {"command"},
    {"benchmarks"},
)
FRAMEWORKS = {"spikingjelly", "snntorch", "norse", "lava", "sinabs"}
WHEN_NEEDED = {"ops.pasc_if.triton_kernel"}  # imported when it runs, since importing it imports Triton
HEAVY = FRAMEWORKS | {"cupy", "lightning", "matplotlib", "scipy", "sklearn", "torchvision", "triton"}


def modules() -> dict[str, ast.Module]:
    """Dotted name, without ``pascal_ext.`` -> syntax tree, for every module of the package and of the benchmarks."""
    trees = {}
    for path in [*ROOT.glob("pascal_ext/**/*.py"), *ROOT.glob("adapters/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part not in ("pascal_ext", "__init__"))
        if name:  # the package itself only looks names up where they are used, and belongs to no layer
            trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


MODULES = modules()


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names that are imported anywhere in ``tree`` when it runs; ``from a import b`` counts as ``a.b``."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module} in line {node.lineno}; write it out"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def own_imports(tree: ast.Module) -> Iterator[str]:
    """Those of :func:`imports` that are modules of the project, under their names in :data:`MODULES`."""
    for name in imports(tree):
        if name.startswith(("pascal_ext.", "benchmarks.")):
            name = name.removeprefix("pascal_ext.")
            module = name if name in MODULES else name.rpartition(".")[0]
            if module:  # else a name of the package itself
                yield module


def rank(module: str) -> int:
    """The layer that ``module`` belongs to, counted from the bottom."""
    top = module.partition(".")[0]
    ranks = [rank for rank, layer in enumerate(LAYERS) if top in layer]
    assert len(ranks) == 1, f"give {top!r} its one place in LAYERS"
    return ranks[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module: str) -> None:
    above = [imported for imported in own_imports(MODULES[module]) if rank(imported) > rank(module)]
    assert above == [], f"{module} imports from above"


def test_no_import_circles() -> None:
    uses = {module: set(own_imports(tree)) - {module} for module, tree in MODULES.items()}
    TopologicalSorter(uses).prepare()


@pytest.mark.parametrize("module", sorted(name for name in MODULES if not name.startswith("adapters")))
def test_only_adapters_import_frameworks(module: str) -> None:
    assert {name.partition(".")[0] for name in imports(MODULES[module])}.isdisjoint(FRAMEWORKS)


def loaded_after(statement: str) -> dict[str, bool]:
    """Top-level modules that ``statement`` loads in a new process, and whether it touched CUDA, as ``"CUDA"``."""
    code = f"""
import json, sys
{statement}
torch = sys.modules.get("torch")
modules = {{name.partition(".")[0]: True for name in sys.modules}}
print(json.dumps({{**modules, "CUDA": torch is not None and torch.cuda.is_initialized()}}))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(process.stdout)


def test_importing_the_package_is_free() -> None:
    loaded = loaded_after("import pascal_ext")
    assert set(loaded).isdisjoint({*HEAVY, "numpy", "torch"})
    assert not loaded["CUDA"]


def test_importing_the_core_loads_nothing_heavy() -> None:
    core = [module for module in sorted(MODULES) if rank(module) < rank("adapters") and module not in WHEN_NEEDED]
    loaded = loaded_after("\n".join(f"import pascal_ext.{module}" for module in core))
    assert loaded["torch"]
    assert set(loaded).isdisjoint(HEAVY)
    assert not loaded["CUDA"]


def test_after_a_conversion_other_code_still_compiles() -> None:
    """Tracing exchanges ``len`` for a while; what torch imports then must not keep the exchanged one."""
    program = """
import torch
from torch import nn
import pascal_ext

pascal_ext.replace_activations(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), 4)
double = torch.compile(lambda x: x * len(x), fullgraph=True, backend="eager")
assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
