"The study chang2018, run as a user runs it, on a phantom small enough for a test."

import json
import re

import pandas as pd
import pytest

from glioma_repro.patients.core import ReproError, read_predictions
from glioma_repro.runs.execution import run

SMALL = dict(folds=3, iterations=8, permutations=1, jobs=1)
COHORT = "phantom:patients=18,voxel_size=6"


def as_table(results, key):
    "A table of results.json."
    one = results["tables"][key]
    return pd.DataFrame(one["rows"], columns=one["columns"])


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


def test_verdicts_have_a_null_and_the_sentence_one_family(folder):
    """Before, an accuracy that is the majority's counted as reproduced, and a p of the
    pooled AUROC stood beside the AUROC within folds.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    judged = as_table(results, "published_reproduced")
    page = as_table(results, "published_reproduced_page")
    told = judged["verdict"].ne("not testable here").sum()
    assert len(page) == told < len(judged)  # the page shows no gaps
    judged = judged[judged["reproduced"].notna()]
    assert judged["n"].notna().all() and set(judged["null"]) == {"chance", "majority"}
    beaten = judged["verdict"].eq("reproduced")
    assert (judged.loc[beaten, "null_p"].astype(float) < 0.05).all()
    paired = as_table(results, "paired").set_index(["target", "b"])
    inside = as_table(results, "against_baselines").set_index(["target", "method"])
    for key, row in paired.drop("majority", level="b", errors="ignore").iterrows():
        assert abs(row["value_b"] - inside.at[key, "value"]) < 1e-9
        assert row["p_holm"] is None or row["p_holm"] >= row["p"]
    headline = {one["target"]: one for one in results["headline"]}
    assert headline["idh"]["published"] == 0.91 and headline["idh"]["n"] == 18
    findings = as_table(results, "features_published")
    assert len(findings) >= 24 and (findings["here"] != "").all()
    assert {"mean age", "men", "grade 4"} <= set(
        as_table(results, "characteristics")["quantity"]
    )
    assert (folder / "model").is_dir()


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
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {"external", "fall", "scored_external"} <= set(results["tables"])
    assert "-p permutations 19" in results["statements"]["null"]
    # a table for a page, not of every baseline
    assert len(results["tables"]["external"]["rows"]) == 4
    # external patients are the headline, the internal figure stands beside it
    assert [one["subset"] for one in results["headline"]] == ["external", "test"]
    said = results["statements"]["answer_idh"]
    outer, inner = (one["value"] for one in results["headline"])
    word = "a fall" if outer < inner else "a rise"
    assert "external patients" in said
    lost = float(re.search(rf"{word} of ([\d.]+) \[", said)[1])
    assert lost == pytest.approx(abs(outer - inner), abs=0.005)
    assert "roc_external" in results["figures"]
    paired = as_table(results, "paired")
    assert set(paired["subset"]) == {"test", "external"}
    # a site that was never seen says nothing
    assert not ((paired["subset"] == "external") & (paired["b"] == "site")).any()


def test_unknown_words_are_refused(tmp_path):
    with pytest.raises(ReproError, match="heads"):
        run("chang2018", COHORT, tmp_path, **SMALL, targets="idh", heads="both")
