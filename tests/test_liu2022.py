"The study liu2022, run as a user runs it, on made-up pictures and on a phantom."

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glioma_repro.patients.core import ReproError, generator, read_predictions
from glioma_repro.patients.curation import curate
from glioma_repro.runs.execution import run

SMALL = dict(
    size=128,
    epochs=1,
    fine_tune_epochs=1,
    folds=2,
    bootstrap=100,
    permutations=0,
    jobs=1,
)


def head(number, tumor):
    "A head with spots of its own; a tumour is a bright disc."
    random = generator("head", number)
    rows, columns = np.mgrid[-1:1:150j, -1:1:150j]
    inside = (rows / 0.9) ** 2 + (columns / random.uniform(0.6, 0.8)) ** 2 < 1
    picture = 90.0 * inside
    for _ in range(8):
        row, column = random.uniform(-0.7, 0.7, 2)
        spot = (rows - row) ** 2 + (columns - column) ** 2 < random.uniform(0.05, 0.2)
        picture += random.uniform(-90, 90) * (spot & inside)
    if tumor:
        row, column = random.uniform(-0.4, 0.4, 2)
        picture += 120 * ((rows - row) ** 2 + (columns - column) ** 2 < 0.03)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "20 heads, four of them twice, one of them in both folders, curated."
    place = tmp_path_factory.mktemp("pictures")
    for word in ("yes", "no"):
        (place / "in" / word).mkdir(parents=True)
    for number in range(20):
        word = "yes" if number % 2 else "no"
        Image.fromarray(head(number, number % 2)).save(
            place / "in" / word / f"{number}.png"
        )
        if number < 4:
            again = Image.fromarray(head(number, number % 2)).resize((170, 160))
            again.save(place / "in" / word / f"{number}b.jpg", quality=95)
    both = Image.fromarray(head(99, False))
    for word in ("yes", "no"):
        both.save(place / "in" / word / "same.png")
    return curate("brain-mri-yes-no", place / "in", place / "out", jobs=1).folder


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    "One run on the pictures, with the published split beside the honest one."
    return run(
        "liu2022",
        str(pictures),
        tmp_path_factory.mktemp("runs"),
        **SMALL,
        transfer="EfficientNet-Lite0 from scratch,VGG16",
        allow_leak=True,
    )


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def as_table(results, key):
    one = results["tables"][key]
    return pd.DataFrame(one["rows"], columns=one["columns"])


def test_the_same_picture_in_both_classes_is_left_out_and_said(folder):
    table = read_predictions(folder / "predictions.csv").table
    assert not table["participant_id"].str.contains("same").any()
    counts = as_table(results_of(folder), "pictures")
    assert counts["pictures"].sum() == 24 and counts["identities"].sum() == 20
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "a copy of it stands in the other class" in page


def test_copies_stay_on_one_side_and_leaks_are_measured(folder):
    results = results_of(folder)
    table = read_predictions(folder / "predictions.csv").table
    inside = table[(table["protocol"] == "by person") & (table["subset"] == "test")]
    inside = inside.assign(person=inside["participant_id"].str.rstrip("b"))
    for _, one in inside.groupby("model"):
        assert one.groupby("person")["fold"].nunique().max() == 1
    leaks = as_table(results, "inflation").set_index(["model", "protocol"])
    assert set(leaks.index.get_level_values(1)) == {"at random", "copies first"}
    shown = leaks["person also in training"]
    assert (
        shown.xs("copies first", level=1).min() > shown.xs("at random", level=1).max()
    )
    assert np.allclose(leaks["leaky"] - leaks["honest"], leaks["inflation"])
    assert "inflation_tumor_at_random" in results["statements"]


def test_missing_weights_are_left_out_and_the_report_says_how_to_get_them(folder):
    results = results_of(folder)
    left = as_table(results, "left_out")
    assert left["method"].tolist() == ["VGG16"]
    assert "glioma-repro fetch imagenet" in left["reason"].iloc[0]
    assert "glioma-repro fetch imagenet" in results["statements"]["left_out"]
    rivals = set(as_table(results, "claim_tumor")["rival"])
    assert rivals == {"EfficientNet-Lite0 from scratch", "shortcut"}


def test_tables_and_verdicts_stand_on_the_same_numbers(folder):
    results = results_of(folder)
    report = as_table(results, "report_tumor")
    own = report[report["model"] == "14-layer CNN"].set_index(["class", "quantity"])
    judged = as_table(results, "published_reproduced")
    row = judged[(judged["source"] == "Abstract") & (judged["quantity"] == "f1")].iloc[
        0
    ]
    assert row["reproduced"] == pytest.approx(own.at[("weighted mean", "f1"), "value"])
    lacking = judged[judged["model"] == "VGG16"]
    assert len(lacking) and lacking["reproduced"].isna().all()
    assert lacking["reason"].eq("not run here").all()
    assert (judged.loc[judged["verdict"] == "reproduced", "null_p"] < 0.05).all()
    table = read_predictions(folder / "predictions.csv").select(
        model="14-layer CNN", protocol="by person", subset="test"
    )
    wide = table.wide()
    right = (wide["present"] >= 0.5) == (wide["label"] == "present")
    assert own.at[("all", "accuracy"), "value"] == pytest.approx(right.mean())
    assert len(as_table(results, "deviations")["item"].unique()) == 21
    assert {"table1", "figure3", "chosen_tumor", "matched_tumor"} <= set(
        results["tables"]
    )
    assert "figure5_tumor" in results["figures"]


def test_a_cohort_with_volumes_by_patient(tmp_path):
    folder = run(
        "liu2022",
        "phantom:patients=18,voxel_size=6",
        tmp_path,
        **SMALL,
        transfer="VGG16",
        targets="idh",
    )
    results = results_of(folder)
    assert results["headline"][0]["target"] == "idh"
    # what is asked of pictures alone, and of targets that were not asked for
    assert not {"pairs", "examples"} & set(results["figures"])
    assert "table4_idh" in results["tables"]
    assert "table4_codel_1p19q" not in results["tables"]
    assert "was not tested" in results["statements"]["claim_idh"]
    table = read_predictions(folder / "predictions.csv").table
    network = table[(table["model"] == "14-layer CNN") & (table["subset"] == "test")]
    assert network.groupby("participant_id")["fold"].nunique().max() == 1
    assert (folder / "model" / "card.json").exists()


def test_unusable_targets_are_named(tmp_path, pictures):
    with pytest.raises(ReproError, match="no target of codel_1p19q"):
        run("liu2022", str(pictures), tmp_path, **SMALL, targets="codel_1p19q")
