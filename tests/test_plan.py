"""Level plans: values that can be read, compared, edited and saved."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pascal_ext import LevelPlan
from pascal_ext.errors import InvalidArgumentError, PlanError
from pascal_ext.plan import MAX_LEVELS, check_levels
from pascal_ext.qcfs import QCFS

PLAN = LevelPlan({"relu": 4, "layer1.0.relu": 8, "layer1.0.relu_1": 1}, {"relu": "first layer"})


def test_a_plan_is_a_mapping_in_the_order_of_the_layers() -> None:
    assert list(PLAN) == ["relu", "layer1.0.relu", "layer1.0.relu_1"]
    assert PLAN["layer1.0.relu"] == 8
    assert dict(PLAN) == {"relu": 4, "layer1.0.relu": 8, "layer1.0.relu_1": 1}
    assert PLAN.levels == dict(PLAN)
    assert PLAN.reasons == {"relu": "first layer"}
    assert PLAN.mean_levels == pytest.approx(13 / 3)
    with pytest.raises(KeyError):
        PLAN["fc"]


def test_an_empty_plan() -> None:
    assert len(LevelPlan({})) == 0
    assert LevelPlan({}).mean_levels == 0


def test_a_plan_compares_by_content_and_hashes() -> None:
    same = LevelPlan(dict(sorted(PLAN.items())), {"relu": "another reason"})
    assert same == PLAN
    assert same == {"layer1.0.relu": 8, "layer1.0.relu_1": 1, "relu": 4}
    assert hash(PLAN) == hash(same)
    assert PLAN.updated({"relu": 5}) != PLAN


def test_a_plan_is_frozen() -> None:
    levels = {"relu": 4}
    plan = LevelPlan(levels)
    levels["relu"] = 9
    assert plan["relu"] == 4
    with pytest.raises(TypeError):
        plan["relu"] = 9
    with pytest.raises(TypeError):
        plan.reasons["relu"] = "no"
    with pytest.raises(TypeError):
        plan.levels["relu"] = 9
    with pytest.raises(AttributeError):
        plan.levels = {}


def test_updated_gives_a_new_plan() -> None:
    edited = PLAN.updated({"relu": 2}, reason="by hand")
    assert (edited["relu"], edited.reasons["relu"]) == (2, "by hand")
    assert edited["layer1.0.relu"] == 8
    assert PLAN["relu"] == 4
    with pytest.raises(PlanError, match=r"no layers \['fc'\]; it has \['relu'"):
        PLAN.updated({"fc": 2})
    with pytest.raises(PlanError, match=r"mappings by the layers' names, .* got 2"):
        PLAN.updated(2)


def test_uniform() -> None:
    plan = LevelPlan.uniform((name for name in "ab"), 6)
    assert dict(plan) == {"a": 6, "b": 6}
    assert plan.reasons == {"a": "uniform", "b": "uniform"}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies(copied: object) -> None:
    assert copied(PLAN) == PLAN
    assert copied(PLAN).reasons == PLAN.reasons


def test_repr_is_the_call_that_makes_it() -> None:
    assert eval(repr(PLAN)) == PLAN


@given(
    st.dictionaries(st.text(max_size=8), st.integers(1, 10**6), max_size=6).flatmap(
        lambda levels: st.tuples(
            st.just(levels),
            st.dictionaries(st.sampled_from(sorted(levels)), st.text(max_size=8)) if levels else st.just({}),
        )
    )
)
def test_json_round_trip(case: tuple[dict[str, int], dict[str, str]]) -> None:
    plan = LevelPlan(*case)
    again = LevelPlan.from_json(plan.to_json())
    assert again == plan
    assert list(again) == list(plan)
    assert again.reasons == {name: why for name, why in plan.reasons.items() if why}


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    text = PLAN.to_json(path)
    assert path.read_text(encoding="utf-8").strip() == text
    assert LevelPlan.from_json(path) == LevelPlan.from_json(str(path)) == LevelPlan.from_json(text) == PLAN


def test_json_is_made_to_be_edited() -> None:
    data = json.loads(PLAN.to_json())
    data["layers"]["relu"] = {"levels": 3}  # a reason may be left out
    data["layers"]["layer1.0.relu"] = 5  # and so may all but the number
    plan = LevelPlan.from_json(json.dumps(data))
    assert (plan["relu"], plan["layer1.0.relu"]) == (3, 5)
    assert plan.reasons == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a level plan: JSONDecodeError"),
        ("{}", "not a level plan: KeyError: 'version'"),
        ('{"version": 1}', "not a level plan: KeyError: 'layers'"),
        ('{"version": 1, "layers": [1]}', "not a level plan: AttributeError"),
        ('{"version": 1, "layers": {"a": "4"}}', "levels of layer 'a' must be a whole number.*'4'"),
        ('{"version": 1, "layers": {"a": {}}}', "not a level plan: KeyError: 'levels'"),
        ('{"version": "x", "layers": {}}', "not a level plan: TypeError"),
        ('{"version": 2, "layers": {}}', "version 2; this release reads up to 1"),
        ('{"version": 1, "layers": {"a": {"levels": 2.5}}}', "levels of layer 'a' must be a whole number.*2.5"),
        ('{"version": 1, "layers": {"a": {"levels": 0}}}', "levels of layer 'a' must be at least 1, got 0"),
    ],
)
def test_json_that_is_no_plan(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        LevelPlan.from_json(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", str(tmp_path / "none.json")):
        with pytest.raises(PlanError, match=r"cannot read the plan '.*none\.json'"):
            LevelPlan.from_json(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "latin1.json").write_bytes(PLAN.to_json().encode() + "é".encode("latin1"))
    for path in (tmp_path / "latin1.json", tmp_path):
        with pytest.raises(PlanError, match="cannot read the plan"):
            LevelPlan.from_json(path)
    for path in (tmp_path / "none" / "plan.json", tmp_path):
        with pytest.raises(PlanError, match="cannot write the plan"):
            PLAN.to_json(path)


@pytest.mark.parametrize("source", [None, b"{}", {"relu": 4}, 4])
def test_what_is_no_source_of_a_plan(source: object) -> None:
    with pytest.raises(PlanError, match=r"read from JSON text or a file, got .*LevelPlan\(\.\.\.\) makes it of a dict"):
        LevelPlan.from_json(source)


@pytest.mark.parametrize("levels", [[1, 2], None, 4, "relu"])
def test_what_is_no_mapping(levels: object) -> None:
    with pytest.raises(PlanError, match="mappings by the layers' names"):
        LevelPlan(levels)
    with pytest.raises(PlanError, match="mappings by the layers' names"):
        LevelPlan({"relu": 4}, levels or [])


def test_check_layers() -> None:
    PLAN.check_layers(["layer1.0.relu_1", "relu", "layer1.0.relu"])
    with pytest.raises(PlanError, match=r"lacks \['fc'\] and has unknown layers \['layer1.0.relu', "):
        PLAN.check_layers(["relu", "fc"])


def test_reasons_for_unknown_layers() -> None:
    with pytest.raises(PlanError, match=r"does not have: \['fc'\]"):
        LevelPlan({"relu": 4}, {"fc": "?"})


@pytest.mark.parametrize("value", [np.int64(4), np.uint8(4), 4])
def test_check_levels_takes_whole_numbers_of_any_kind(value: object) -> None:
    checked = check_levels(value)
    assert checked == 4
    assert type(checked) is int


@pytest.mark.parametrize("value", [0, -3, 2.5, 4.0, True, "8", None, float("nan")])
def test_check_levels_refuses_the_rest(value: object) -> None:
    with pytest.raises(PlanError, match=r"levels of 'relu' must be .*at least 1, got"):
        check_levels(value, "levels of 'relu'")
    with pytest.raises(InvalidArgumentError):
        LevelPlan({"relu": value})


def test_no_more_levels_than_counts_of_float32() -> None:
    """Up to the most levels, every count begins where it should."""
    counts = torch.cat([torch.arange(1, 99), MAX_LEVELS - torch.arange(99)]).int()
    begins = ((counts.double() - 0.5) / MAX_LEVELS).float()
    qcfs = QCFS(MAX_LEVELS)
    assert torch.equal(qcfs.counts(begins), counts)
    assert torch.equal(qcfs.counts((counts - 1) / MAX_LEVELS), counts - 1)
    for levels in (MAX_LEVELS + 1, 2**31, 10**30):
        with pytest.raises(PlanError, match=r"at most 8388608 .*, got"):
            QCFS(levels)
