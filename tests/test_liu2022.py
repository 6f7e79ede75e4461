"The study liu2022, run as a user runs it, on made-up pictures and on a phantom."

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glioma_repro.images import pictures as pictures_module
from glioma_repro.images.pictures import read_slice, review_pictures
from glioma_repro.methods.catalogue import load_model
from glioma_repro.methods.method import predict_cohort
from glioma_repro.patients.cohort import split_external
from glioma_repro.patients.core import (
    ReproError,
    generator,
    read_cohort,
    read_predictions,
)
from glioma_repro.patients.curation import curate
from glioma_repro.runs.execution import run
from glioma_repro.runs.parameters import find_notebook, parameters_of, read_cells

SMALL = dict(
    size=128,
    epochs=1,
    fine_tune_epochs=1,
    folds=2,
    bootstrap=100,
    permutations=0,
    shortcut_permutations=0,
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


def heads_in(place, number):
    "The folder, with heads below `in`; every second has a tumour."
    for word in ("yes", "no"):
        (place / "in" / word).mkdir(parents=True)
    for one in range(number):
        word = "yes" if one % 2 else "no"
        picture = Image.fromarray(head(one, one % 2))
        picture.save(place / "in" / word / f"{one}.png")
    return place


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "20 heads, four of them twice, one of them in both folders, curated."
    place = heads_in(tmp_path_factory.mktemp("pictures"), 20)
    for number in range(4):
        word = "yes" if number % 2 else "no"
        again = Image.fromarray(head(number, number % 2)).resize((170, 160))
        again.save(place / "in" / word / f"{number}b.jpg", quality=95)
    both = Image.fromarray(head(99, False))
    for word in ("yes", "no"):
        both.save(place / "in" / word / "same.png")
    return curate("brain-mri-yes-no", place / "in", place / "out", jobs=1).folder


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    "12 heads, no two alike, and files of kinds that a collection from the web has."
    place = heads_in(tmp_path_factory.mktemp("odd"), 12)
    yes = place / "in" / "yes"
    whole = Image.fromarray(head(50, True))
    whole.save(yes / "cut.jpg", quality=95)
    content = (yes / "cut.jpg").read_bytes()
    (yes / "cut.jpg").write_bytes(content[: len(content) // 2])
    inks = Image.fromarray(head(51, True)).convert("CMYK")
    inks.save(yes / "inks.jpg", quality=95)
    frames = [Image.fromarray(np.roll(head(52, True), n)) for n in range(3)]
    frames[0].save(yes / "moves.gif", save_all=True, append_images=frames[1:])
    return curate("brain-mri-yes-no", place / "in", place / "out", jobs=1)


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
    # what is trained from scratch is no transfer: it does not test the claim
    assert "claim_tumor" not in results["tables"]
    assert "the claim was not tested" in results["statements"]["claim_tumor"]
    beside = set(as_table(results, "beside_tumor")["rival"])
    assert beside == {"EfficientNet-Lite0 from scratch", "shortcut"}


def test_tables_and_verdicts_stand_on_the_same_numbers(folder):
    results = results_of(folder)
    report = as_table(results, "report_tumor")
    own = report[report["model"] == "14-layer CNN"].set_index(["class", "quantity"])
    judged = as_table(results, "published_reproduced")
    page = as_table(results, "published_reproduced_page")
    assert 0 < len(page) < len(judged) and page["reproduced"].notna().all()
    alt = results["figures"]["figure5_tumor"]["alt"]
    assert alt.startswith("Confusion matrices of pictures.")
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
    deviations = as_table(results, "deviations")
    assert len(deviations["item"].unique()) == 21
    learned = deviations.set_index("what")["here"]["how they learn"]
    assert learned.startswith("from scratch") and "1 epochs" in learned
    assert {"table1", "figure3", "chosen_tumor", "matched_tumor"} <= set(
        results["tables"]
    )
    rival = "training_tumor_EfficientNet-Lite0_from_scratch"
    assert {"figure5_tumor", "training_tumor", rival} <= set(results["figures"])
    table3 = as_table(results, "table3_tumor").set_index("class")
    accuracy = own.loc[("all", "accuracy")]
    # an interval of half the scale allows two digits
    said = f"{accuracy['value']:.2f} [{accuracy['low']:.2f} to {accuracy['high']:.2f}]"
    assert table3.at["weighted mean", "accuracy"] == said
    drawn_at = as_table(results, "thresholds")
    assert drawn_at["any bits"].is_monotonic_decreasing and drawn_at["any bits"].max()
    # the published split stands beside, and the verdict does not look at it
    mine = judged[judged["model"] == "proposed CNN"]
    assert mine["at random"].notna().all()
    assert lacking["at random"].isna().all()


def test_the_record_says_which_pictures_are_one_person(folder):
    persons = as_table(results_of(folder), "persons").set_index("participant_id")
    scored = read_predictions(folder / "predictions.csv").table["participant_id"]
    assert set(scored) <= set(persons.index)
    assert persons.at["sub-yes1", "person"] == persons.at["sub-yes1b", "person"]
    assert persons["person"].nunique() == 20
    assert persons["person"].str.startswith("sha256:").all()


def test_a_model_knows_its_training_pictures_again_and_their_copies(folder, pictures):
    model, cohort = load_model(folder / "model"), read_cohort(pictures)
    notes = predict_cohort(model, cohort, jobs=1).notes
    known = notes.loc[notes["note"].str.contains("was in training"), "participant_id"]
    trained = [one for one in cohort.ids if "same" not in one]
    # before, no picture was: copies had got a word of their own as identity
    assert set(known) == set(trained) and len(trained) == 24


def test_a_copy_does_not_cross_to_the_external_pictures(pictures, monkeypatch):
    cohort, compared = read_cohort(pictures), []
    every_pair = pictures_module.pairs_of

    def counted(signatures):
        compared.append(len(signatures))
        return every_pair(signatures)

    monkeypatch.setattr(pictures_module, "pairs_of", counted)
    outer = ["sub-yes1b", "sub-yes5", "sub-no6"]  # the first has a twin inside
    inner, outer = split_external(cohort, outer)
    review = review_pictures(inner, outer, jobs=1)
    # before, all pairs within the development pictures were compared twice
    assert compared == [len(inner) + len(outer)]
    alone = review_pictures(inner, jobs=1)
    assert review.pairs.equals(alone.pairs)
    assert review.thresholds.equals(alone.thresholds)
    assert review.external.ids == [one for one in outer.ids if one != "sub-yes1b"]
    said = review.external.problems.set_index("participant_id")["problem"]
    assert "among the development pictures" in said["sub-yes1b"]
    inside = set(review.cohort.identities())
    assert not inside & set(review.external.identities())


def test_files_of_a_collection_from_the_web(odd_files):
    problems = odd_files.problems.set_index("participant_id")["problem"]
    assert "sub-yescut" in problems and "sub-yescut" not in odd_files.ids
    assert "holds 3 pictures" in problems["sub-yesmoves"]
    inks = read_slice("sub-yesinks", odd_files)
    assert np.abs(inks - head(51, True)).mean() < 3  # JPEG's loss, and no negative


def test_without_copies_and_with_dealt_labels(odd_files, tmp_path):
    known = SMALL | dict(permutations=1, shortcut_permutations=3, channels=1)
    folder = run(
        "liu2022",
        str(odd_files.folder),
        tmp_path,
        **known,
        transfer="EfficientNet-Lite0 from scratch",
    )
    results = results_of(folder)
    assert "No two pictures are copies" in results["statements"]["pairs"]
    assert "pairs" not in results["figures"]
    null = as_table(results, "null").set_index("model")
    # one of the shortcut's three deals leaves its training parts with one class
    assert null["trainings"].to_dict() == {"14-layer CNN": 1, "shortcut": 2}
    assert np.allclose(null["smallest p"], 1 / (1 + null["trainings"]))
    assert (null["p"] >= null["smallest p"]).all()


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
    steps = as_table(results, "deviations")["what"]
    assert steps.str.contains("of volumes").sum() == 3
    # the words say what was run: patients are persons, and the folds were two
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "18 patients, 2 folds by person." in page and " persons, 2 folds" not in page
    assert "2 folds, stratified" in page and "three folds" not in page
    learned = as_table(results, "deviations").set_index("what")["here"]
    assert learned["how they learn"] == "none: no weights on this machine"
    table = read_predictions(folder / "predictions.csv").table
    network = table[(table["model"] == "14-layer CNN") & (table["subset"] == "test")]
    assert network.groupby("participant_id")["fold"].nunique().max() == 1
    assert (folder / "model" / "card.json").exists()


def test_unusable_targets_are_named(tmp_path, pictures):
    with pytest.raises(ReproError, match="no target of codel_1p19q"):
        run("liu2022", str(pictures), tmp_path, **SMALL, targets="codel_1p19q")


def test_it_stands_in_head_to_head(tmp_path):
    folder = run(
        "head_to_head",
        "phantom:patients=12,voxel_size=6",
        tmp_path,
        methods="age,liu2022",
        targets="idh",
        folds=2,
        epochs=1,
        bootstrap=100,
        jobs=1,
    )
    paired = as_table(results_of(folder), "paired")
    assert {paired["a"].iloc[0], paired["b"].iloc[0]} == {"age", "liu2022"}
    table = read_predictions(folder / "predictions.csv").table
    seen = table[table["subset"] == "test"].groupby("model")["participant_id"].nunique()
    assert seen["age"] == seen["liu2022"] == 12
    assert (folder / "model" / "liu2022" / "card.json").exists()


@pytest.fixture
def benchmark(monkeypatch):
    "benchmarks/liu2022.py as a module."
    place = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(place))
    made = importlib.util.spec_from_file_location("bench", place / "liu2022.py")
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


def test_the_core_of_the_benchmark_is_that_of_the_study(benchmark):
    study = parameters_of(read_cells(find_notebook("liu2022")))
    assert benchmark.read_arguments(["--core", "COHORT"]).size == study["size"]
    assert benchmark.read_arguments([]).size == 256  # the paper's
    assert benchmark.read_arguments(["--core", "COHORT", "--size", "64"]).size == 64


def test_the_halves_of_the_benchmark_leave_each_other_alone(tmp_path, benchmark):
    path = tmp_path / "liu2022.md"
    benchmark.kept("Training against Keras", ["first"], path)
    benchmark.kept("The core", ["minutes"], path)
    benchmark.kept("Training against Keras", ["second"], path)
    text = path.read_text()
    assert "minutes" in text and "second" in text and "first" not in text
    assert text.count("# liu2022\n") == 1 and text.count("## The core") == 1
