"""The study head_to_head, run as a user runs it, on a phantom of 24 patients."""

import json

import pandas as pd
import pytest

from glioma_repro.patients.core import ReproError, read_predictions
from glioma_repro.runs.execution import run

COHORT = "phantom:patients=24,voxel_size=6"
SMALL = dict(targets="idh", folds=3, bootstrap=100, jobs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "One run of the three cheapest methods."
    out = tmp_path_factory.mktemp("runs")
    return run("head_to_head", COHORT, out, methods="majority,age,site", **SMALL)


def test_every_method_sees_the_same_patients_in_the_same_folds(folder):
    table = read_predictions(folder / "predictions.csv").table
    table = table[table["subset"] == "test"]
    seen = {
        name: set(zip(part["participant_id"], part["fold"]))
        for name, part in table.groupby("model")
    }
    assert set(seen) == {"majority", "age", "site"}
    assert seen["majority"] == seen["age"] == seen["site"]


def test_the_report_answers_first_and_keeps_a_model_a_method(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["headline"] and results["headline"][0]["target"] == "idh"
    rows = results["tables"]["paired"]
    paired = pd.DataFrame(rows["rows"], columns=rows["columns"])
    pairs = {frozenset(one) for one in zip(paired["a"], paired["b"])}
    assert pairs == {frozenset({"age", "site"})}
    assert (paired["p_holm"] >= paired["p"]).all()
    kept = {one.name for one in (folder / "model").iterdir()}
    assert kept == {"majority", "age", "site"}
    # no section of a report is empty
    assert "-p permutations 19" in results["statements"]["null"]


def test_an_unknown_method_is_named(tmp_path):
    with pytest.raises(ReproError, match="chang2081"):
        run("head_to_head", COHORT, tmp_path, methods="age,chang2081", **SMALL)
