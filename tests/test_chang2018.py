"The study chang2018, run as a user runs it, on a phantom small enough for a test."

import json

import pytest

from glioma_repro.patients.core import ReproError, read_predictions
from glioma_repro.runs.execution import run

SMALL = dict(folds=3, iterations=8, permutations=1, jobs=1)
COHORT = "phantom:patients=18,voxel_size=6"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "One run."
    return run(
        "chang2018",
        COHORT,
        tmp_path_factory.mktemp("runs"),
        **SMALL,
        targets="idh,mgmt",
    )


def test_run_folder_is_whole(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["phantom"] and {
        "published",
        "performance",
        "published_reproduced",
        "paired",
        "null",
        "components",
        "appearance",
        "stated_assumed",
    } <= set(results["tables"])
    table = results["tables"]["published_reproduced"]
    verdict = [dict(zip(table["columns"], row)) for row in table["rows"]]
    # it was not asked for
    assert {
        one["target"]: one["verdict"] for one in verdict if one["quantity"] == "auroc"
    }["codel_1p19q"] == "not testable here"
    assert (folder / "figures" / "prototypes_idh.png").stat().st_size > 5000 and (
        folder / "report.html"
    ).exists()


def test_predictions_are_slices_of_test_patients(folder):
    predictions = read_predictions(folder / "predictions.csv")
    network = predictions.select(model="residual CNN").table
    assert (
        network["slice"].notna().all()
        and set(network["target"]) == {"idh", "mgmt"}
        and network["participant_id"].nunique() == 18
    )
    # a patient is tested in one fold
    assert network.groupby(["participant_id", "target"])["fold"].nunique().eq(1).all()
    others = predictions.select(model="age").table
    merged = network.drop_duplicates("participant_id").merge(
        others.drop_duplicates("participant_id"), on="participant_id"
    )
    # the baselines have the same folds
    assert (merged["fold_x"] == merged["fold_y"]).all()


def test_same_seed_same_bytes(folder, tmp_path):
    again = run("chang2018", COHORT, tmp_path, **SMALL, targets="idh,mgmt")
    for name in ("predictions.csv", "measurements.csv"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
    one, two = (
        json.loads((one / "results.json").read_text(encoding="utf-8"))["tables"]
        for one in (folder, again)
    )
    assert {key: value for key, value in one.items() if key != "seconds"} == {
        key: value for key, value in two.items() if key != "seconds"
    }


def test_external_single_heads_and_sites(tmp_path):
    folder = run(
        "chang2018",
        COHORT,
        tmp_path,
        **SMALL | dict(permutations=0),
        targets="idh",
        external='site == "C"',
        heads="single",
    )
    table = read_predictions(folder / "predictions.csv").table
    outside = table[
        (table["subset"] == "external") & (table["model"] == "residual CNN")
    ]
    assert (
        len(outside)
        and outside["fold"].isna().all()
        and not set(outside["participant_id"])
        & set(table.loc[table["subset"] == "test", "participant_id"])
    )
    assert (
        "external"
        in json.loads((folder / "results.json").read_text(encoding="utf-8"))["tables"]
    )


def test_unknown_words_are_refused(tmp_path):
    with pytest.raises(ReproError, match="heads"):
        run("chang2018", COHORT, tmp_path, **SMALL, targets="idh", heads="both")
