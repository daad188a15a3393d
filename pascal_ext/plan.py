"""The level plan: how many levels, and so how many timesteps, each layer gets."""

from __future__ import annotations

import json
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, SupportsIndex

from pascal_ext.errors import InvalidArgumentError, PlanError

FORMAT_VERSION = 1
DEFAULT_LEVELS = 8
MAX_LEVELS = 1 << 23  # beyond, float32 does not hold the middle between two counts, where QCFS rounds


def check_levels(levels: SupportsIndex, where: str = "levels") -> int:
    """Return ``levels`` as an int; raise :class:`PlanError` unless it is a whole number, 1 ... :data:`MAX_LEVELS`."""
    try:
        if isinstance(levels, bool):
            raise TypeError
        value = operator.index(levels)
    except TypeError:
        raise PlanError(f"{where} must be a whole number of at least 1, got {levels!r}") from None
    if value < 1:
        raise PlanError(f"{where} must be at least 1, got {value}")
    if value > MAX_LEVELS:
        raise PlanError(f"{where} must be at most {MAX_LEVELS} (2**23), which float32 can tell apart, got {value}")
    return value


def barrier(window: int, levels: int) -> int:
    """Timesteps that a layer adds to its path: it integrates its window T1, settles, and emits."""
    return window + max(window, levels) - 1 + levels


class LevelPlan(Mapping[str, int]):
    """A frozen mapping from layer name to number of levels, with the reason for each.

    A layer with ``L`` levels emits its spikes over ``L`` timesteps. The plan is a value: it compares equal by content,
    and "changing" it (:meth:`updated`) gives a new one.

    Args:
        levels: layer name -> levels (whole numbers of at least 1).
        reasons: layer name -> why it got them; names may be missing.

    Raises:
        PlanError: ``levels`` or ``reasons`` is no mapping, a value is not a whole number of at least 1, or a reason
            names a layer that is not in the plan.
    """

    __slots__ = ("_levels", "_reasons")

    def __init__(self, levels: Mapping[str, int], reasons: Mapping[str, str] | None = None) -> None:
        for given in (levels, {} if reasons is None else reasons):
            if not isinstance(given, Mapping):
                raise PlanError(
                    f"a plan is made of mappings by the layers' names, such as {{'relu': 8}}, got {given!r}"
                )
        self._levels = {str(name): check_levels(value, f"levels of layer {name!r}") for name, value in levels.items()}
        self._reasons = {str(name): str(why) for name, why in (reasons or {}).items()}
        unknown = self._reasons.keys() - self._levels.keys()
        if unknown:
            raise PlanError(f"reasons are given for layers that the plan does not have: {sorted(unknown)}")

    @classmethod
    def uniform(cls, names: Iterable[str], levels: int, reason: str = "uniform") -> LevelPlan:
        """The plan that gives every layer in ``names`` the same ``levels``."""
        names = list(names)
        return cls(dict.fromkeys(names, levels), dict.fromkeys(names, reason))

    def __getitem__(self, name: str) -> int:
        return self._levels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)

    def __hash__(self) -> int:
        return hash(frozenset(self._levels.items()))

    def __repr__(self) -> str:
        return f"LevelPlan({self._levels!r})"

    @property
    def levels(self) -> Mapping[str, int]:
        """Layer name -> levels (read-only): what the plan itself is as a mapping."""
        return MappingProxyType(self._levels)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Layer name -> why it got its levels (read-only)."""
        return MappingProxyType(self._reasons)

    @property
    def mean_levels(self) -> float:
        """Mean number of levels over the layers, the "mean T" of the literature (0 for an empty plan)."""
        return sum(self.values()) / len(self) if self else 0.0

    def updated(self, levels: Mapping[str, int], reason: str = "edited") -> LevelPlan:
        """A new plan with the given layers changed.

        Raises:
            PlanError: a name is not in this plan, or a value is not a whole number of at least 1.
        """
        changes = LevelPlan(levels)
        unknown = changes.keys() - self._levels.keys()
        if unknown:
            raise PlanError(f"the plan has no layers {sorted(unknown)}; it has {list(self)}")
        return LevelPlan({**self._levels, **changes}, {**self._reasons, **dict.fromkeys(changes, reason)})

    def check_layers(self, names: Iterable[str]) -> None:
        """Raise :class:`PlanError` unless the plan covers exactly the layers ``names``."""
        names = list(names)
        missing = [name for name in names if name not in self._levels]
        extra = [name for name in self._levels if name not in set(names)]
        if missing or extra:
            raise PlanError(
                f"the plan does not fit this model: it lacks {missing} and has unknown layers {extra}; "
                f"the model's activation layers are {names}"
            )

    def to_json(self, path: str | Path | None = None) -> str:
        """The plan as JSON text, made to be edited by hand; also written to ``path`` where one is given.

        A layer's entry may be written as a bare number, too.

        Raises:
            PlanError: the file cannot be written.
        """
        layers = {name: {"levels": levels, "reason": self._reasons.get(name, "")} for name, levels in self.items()}
        text = json.dumps({"format": "pascal-ext level plan", "version": FORMAT_VERSION, "layers": layers}, indent=2)
        if path is not None:
            try:
                Path(path).write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                raise PlanError(f"cannot write the plan {str(path)!r}: {error}") from None
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> LevelPlan:
        """Read a plan from JSON text, or from a file (a :class:`~pathlib.Path`, or a string that is not JSON).

        Raises:
            PlanError: the text is not a plan, the file cannot be read, or is of a newer version.
        """
        if not isinstance(source, str | Path):
            raise PlanError(
                f"a plan is read from JSON text or a file, got {source!r:.80}; LevelPlan(...) makes it of a dict"
            )
        if isinstance(source, Path) or not source.lstrip().startswith("{"):
            try:
                source = Path(source).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:  # ValueError: it is not UTF-8, or no name of a file
                raise PlanError(f"cannot read the plan {str(source)!r}: {error}") from None
        try:
            data: Any = json.loads(source)
            version, layers = data["version"], data["layers"]
            if version > FORMAT_VERSION:
                raise PlanError(f"the plan has version {version}; this release reads up to {FORMAT_VERSION}")
            entries = {
                name: entry if isinstance(entry, Mapping) else {"levels": entry} for name, entry in layers.items()
            }
            return cls(
                {name: entry["levels"] for name, entry in entries.items()},
                {name: entry["reason"] for name, entry in entries.items() if entry.get("reason")},
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"not a level plan: {type(error).__name__}: {error}") from None


def chosen(only: Collection[str] | None, names: Iterable[str]) -> set[str]:
    """Those of the layers ``names`` that ``only`` names; all where it is None.

    Raises:
        InvalidArgumentError: ``only`` is no collection of names, or empty, or names layers that are not there.
    """
    names = list(names)
    if only is None:
        return set(names)
    if isinstance(only, str) or not isinstance(only, Collection):
        raise InvalidArgumentError(f"only is a list of layers' names, such as {names[:1]}; got {only!r}")
    unknown = [name for name in only if name not in names]
    if unknown:
        raise InvalidArgumentError(f"only names layers that the model does not have: {unknown}; it has {names}")
    if not only:
        raise InvalidArgumentError(f"only is empty; give names of layers, or None for all of {names}")
    return set(only)


Levels = int | Mapping[str, int] | LevelPlan


def levels_of(levels: Levels, names: Iterable[str], learnt: Mapping[str, int] | None = None) -> dict[str, int]:
    """Layer name -> the levels that ``levels`` asks for; layers that a mapping does not name are left out.

    Args:
        levels: one number for the layers ``names``, a mapping for any of them, or a plan for exactly them.
        names: of the layers.
        learnt: layers that have their levels already, and keep them. A mapping may name them, and a plan has to.

    Raises:
        PlanError: a level is not a whole number of at least 1, ``levels`` names other layers, or contradicts a learnt
            one.
    """
    names, learnt = list(names), learnt or {}
    known = list(dict.fromkeys([*learnt, *names]))
    if isinstance(levels, LevelPlan):
        levels.check_layers(known)
        wanted = dict(levels)
    elif isinstance(levels, Mapping):
        unknown = levels.keys() - set(known)
        if unknown:
            raise PlanError(f"levels names layers that the model does not have: {sorted(unknown)}; it has {known}")
        wanted = {name: check_levels(value, f"levels of layer {name!r}") for name, value in levels.items()}
    else:
        wanted = dict.fromkeys(names, check_levels(levels))
    clash = {name: (wanted[name], own) for name, own in learnt.items() if wanted.get(name, own) != own}
    if clash:
        told = ", ".join(f"{name!r}: {asked} asked, {own} learnt" for name, (asked, own) in clash.items())
        raise PlanError(
            f"levels disagrees with QCFS layers that learnt their thresholds at other levels ({told}). Leave levels "
            "out, or change them with pascal_ext.set_levels and fine-tune again"
        )
    return wanted
