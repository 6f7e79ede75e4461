"""A saved model asked about new patients: the run's scores to the bit, what they are
worth, and one clear line where something is missing.
"""

import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from glioma_repro.images.preprocess import load_recipe, recipe_from
from glioma_repro.methods.catalogue import load_model
from glioma_repro.images.patient import read_patient
from glioma_repro.methods.hybrid_cnn import HybridCNN
from glioma_repro.methods.method import Age, keep_model, run_folds, sign_model
from glioma_repro.methods.residual_cnn import ResidualCNN
from glioma_repro.methods.segmentation_unet import SegmentationUNet
from glioma_repro.networks.training import Training
from glioma_repro.patients.cohort import patient_splits, split_external
from glioma_repro.patients.core import (
    PatientError,
    ReproError,
    read_cohort,
    read_predictions,
    write_text,
)
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.patients.scanner import write_dicom
from glioma_repro.runs.command import main
from glioma_repro.runs.prediction import (
    drawn_on,
    find_model,
    models_table,
    one_patient,
    predict,
    recipe_of,
    with_what_it_needs,
    worth_of,
)

NETWORK = ResidualCNN(
    "chang2018", training=Training(iterations=4, batch=8), filters=(4, 8), features=8
)
METHODS = [Age(), NETWORK]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Models of two methods, the external patients, and what the run said of them."""
    home = tmp_path_factory.mktemp("predict")
    everybody = make_phantom(home / "p", patients=14, sites=1, voxel_size=6, jobs=1)
    words = everybody.participants["idh"]
    ids = [everybody.ids[words.tolist().index(one)] for one in ("mutant", "wildtype")]
    patients, apart = split_external(everybody, ids)
    run = run_folds(
        METHODS,
        patients,
        patient_splits(patients, ["idh"], folds=2, seed=0),
        ["idh"],
        external=apart,
        folder=home / "folds",
        jobs=1,
        description="",
        study="head_to_head",
    )
    for method in METHODS:
        keep_model(run, method, home / "runs" / "model" / method.name)
    return home, patients, apart, run


@pytest.mark.parametrize("name", ["age", "chang2018"])
def test_external_patients_get_the_scores_of_the_run_to_the_bit(asked, name, tmp_path):
    home, _, apart, run = asked
    page = predict(home / "runs" / "model" / name, apart, tmp_path, jobs=1)
    said = read_predictions(tmp_path / "predictions.csv").table
    then = run.predictions.select(model=name, subset="external").table
    columns = ["participant_id", "class", "score"]
    assert said[columns].equals(then[columns].reset_index(drop=True))
    text = page.read_text(encoding="utf-8")
    assert "Not for clinical use" in text and "AUROC" in text
    for one in apart.ids:
        own = (tmp_path / "patients" / f"{one}.html").read_text(encoding="utf-8")
        assert "http" not in own.partition("<body>")[2] and len(own) < 3_000_000
        assert ("data:image/png" in own) == (name == "chang2018")
        assert "cannot be ruled out" in own and "no scores out of fold" not in own


def test_a_second_call_makes_no_page_again(asked, tmp_path):
    home, _, apart, _ = asked
    before = {}
    for _ in range(2):
        predict(home / "runs" / "model" / "age", apart, tmp_path, jobs=1)
        pages = (tmp_path / "patients").iterdir()
        now = {path.name: path.stat().st_mtime_ns for path in pages}
        assert not before or before == now
        before = now


def test_one_bad_patient_costs_himself_only(asked, tmp_path):
    home, _, apart, _ = asked
    folder = tmp_path / "cohort"
    shutil.copytree(apart.folder, folder)
    first, second = apart.ids
    (folder / first / "anat" / f"{first}_FLAIR.nii.gz").write_bytes(b"broken")
    few = read_cohort(folder).subset(apart.ids)
    page = predict(home / "runs" / "model" / "chang2018", few, tmp_path / "a", jobs=1)
    said = read_predictions(tmp_path / "a" / "predictions.csv").table
    assert set(said["participant_id"]) == {second}
    assert first in page.read_text(encoding="utf-8")
    assert first in (tmp_path / "a" / "problems.csv").read_text(encoding="utf-8")


def test_one_patient_by_files(asked, tmp_path, capsys):
    home, patients, apart, _ = asked
    model, one = home / "runs" / "model" / "chang2018", apart.ids[0]
    images = [
        word
        for name in apart.sequences(one)
        for word in ("--image", f"{name}={apart.path(one, name)}")
    ]
    mask = ["--mask", str(apart.path(one, "label-tumor_mask", apart.mask_method))]
    call = [
        "predict",
        "--model",
        str(model),
        "--out",
        str(tmp_path / "a"),
        "--jobs",
        "1",
    ]
    assert main([*call, *images, *mask]) == 0
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "the files lie on one grid, and they are taken as such" in page
    # a model that needs four sequences says which is missing
    assert main([*call[:-3], str(tmp_path / "b"), *images[2:], *mask]) == 1
    assert "no T1w" in capsys.readouterr().err
    # without a mask there is no tumour to cut out
    assert main([*call[:-3], str(tmp_path / "c"), *images]) == 1
    assert "mask" in capsys.readouterr().err


def test_age_that_is_missing_is_asked_for(asked, tmp_path, capsys):
    home, _, apart, _ = asked
    path = apart.path(apart.ids[0], "T1w")
    call = ["predict", "--model", str(home / "runs" / "model" / "age")]
    call += ["--image", f"T1w={path}", "--out", str(tmp_path / "a")]
    assert main(call) == 1
    assert "--age" in capsys.readouterr().err
    assert main([*call, "--age", "43"]) == 0
    assert main([*call, "--age", "119"]) == 0
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "outside the training patients" in page


def test_a_training_patient_is_known_again(asked, tmp_path):
    home, patients, _, _ = asked
    seen = patients.subset(patients.ids[:1])
    page = predict(home / "runs" / "model" / "age", seen, tmp_path, jobs=1)
    assert "was in training" in page.read_text(encoding="utf-8")


def test_a_card_says_what_and_holds_no_name(asked):
    home, patients, _, _ = asked
    folder = home / "runs" / "model" / "chang2018"
    sign_model(folder, command="glioma-repro run x --cohort p", recipe=None)
    for name in ("card.md", "card.json", "tested.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not [one for one in patients.ids if one in text], name
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    told = (folder / "card.md").read_text(encoding="utf-8")
    for digest in card["files"].values():
        assert digest in told
    assert "glioma-repro run x" in told and "AUROC" in told and "clinical" in told
    assert load_model(folder).about["made"]["command"].endswith("--cohort p")


def test_worth_is_told_in_the_digits_that_its_interval_allows():
    """Before, every figure had two digits, also where its interval allows three."""
    known = {
        "auroc": {"idh": [0.8123, 0.79, 0.83]},
        "calibration": {"idh": {"brier": [0.12345, 0.12, 0.13, 40]}},
    }
    outside = {"idh": [0.5, None, None, 3]}
    about = {"cross_validated": known, "external": outside}
    first, second, third = worth_of(SimpleNamespace(about=about), "idh")
    assert "had AUROC 0.812 [0.790 to 0.830], better than chance" in first
    assert "had AUROC 0.50, without an interval" in second
    assert "Brier score 0.123 [0.120 to 0.130] (0 is perfect)" in third


def test_models_are_listed_and_the_nearest_is_named(asked, capsys):
    home = asked[0]
    table = models_table(home / "runs").set_index("name")
    assert {"model/age", "model/chang2018"} <= set(table.index)
    assert "12 patients" in table.at["model/age", "trained on"]
    assert main(["models", str(home / "runs")]) == 0
    assert "model/chang2018" in capsys.readouterr().out
    with pytest.raises(ReproError, match="did you mean model/age"):
        find_model("model/aeg", home / "runs")


def test_a_recipe_of_a_card_is_read_with_care(asked):
    model = load_model(asked[0] / "runs" / "model" / "age")
    plain = json.loads(json.dumps(asdict(load_recipe("atlas", bias="none"))))
    assert recipe_from(plain, "card") == load_recipe("atlas", bias="none")
    for key, value in (("name", "../evil"), ("steps", [{"step": "shell"}])):
        made = {"recipe": plain | {key: value}}
        with pytest.raises(ReproError):
            recipe_of(replace(model, about={"made": made}))


def test_a_mask_on_no_image_shows_the_grids(asked, tmp_path):
    apart = asked[2]
    one = apart.ids[0]
    mask = apart.mask(one)
    moved = sitk.Image(mask)
    moved.SetOrigin(tuple(np.array(mask.GetOrigin()) + 5))
    images = {"FLAIR": apart.image(one, "FLAIR")}
    assert drawn_on(images, mask, one) == "FLAIR"
    with pytest.raises(PatientError, match="no image's grid.*origin"):
        drawn_on(images, moved, one)


def test_a_folder_of_others_is_not_touched(asked, tmp_path):
    apart = asked[2]
    write_text(tmp_path / "images" / "thesis.txt", "years of work")
    with pytest.raises(ReproError, match="other files"):
        one_patient(tmp_path / "images", {"T1w": apart.path(apart.ids[0], "T1w")})
    assert (tmp_path / "images" / "thesis.txt").read_text() == "years of work"


def test_a_model_that_draws_shows_its_outline_and_links_its_mask(
    asked, tmp_path, monkeypatch
):
    """Before, a pure segmenter ended in an IndexError, and no page knew of a mask; then
    a page read its patient twice.
    """
    read = []

    def noted(one, *rest, **ways):
        read.append(one)
        return read_patient(one, *rest, **ways)

    monkeypatch.setattr("glioma_repro.runs.prediction.read_patient", noted)
    _, patients, apart, _ = asked
    training = Training(epochs=1, batch=2, optimizer="adam", balance="none")
    unet = SegmentationUNet(training=training, augment=None, size=16, width=2, levels=2)
    model = unet.fit(unet.samples(patients.subset(patients.ids[:3]), jobs=1)[0])
    model.save(tmp_path / "model")
    one = apart.ids[0]
    page = predict(tmp_path / "model", apart.subset([one]), tmp_path / "a", jobs=1)
    mask = f"masks/{one}_label-tumor_mask.nii.gz"
    text = page.read_text(encoding="utf-8")
    assert read == [one]
    assert f"<a href='{mask}'>" in text and (tmp_path / "a" / mask).exists()
    assert "data:image/png" in text and "Dice with the mask that was given" in text
    assert "scores nothing" in text
    predict(tmp_path / "model", apart, tmp_path / "b", jobs=1)
    own = tmp_path / "b" / "patients" / f"{one}.html"
    assert f"<a href='../{mask}'>" in own.read_text(encoding="utf-8")
    assert not len(read_predictions(tmp_path / "b" / "predictions.csv"))


SERIES = {
    "T1w": {"0008|103e": "AX T1", "0018|0080": "500", "0018|0081": "10"},
    "ce-gadolinium_T1w": {
        "0008|103e": "AX T1 +C",
        "0018|0080": "500",
        "0018|0081": "10",
        "0018|0010": "Gadovist",
    },
    "T2w": {"0008|103e": "AX T2 TSE", "0018|0080": "4000", "0018|0081": "100"},
    "FLAIR": {
        "0008|103e": "AX FLAIR",
        "0018|0080": "9000",
        "0018|0081": "120",
        "0018|0082": "2500",
    },
}


def test_a_method_that_fills_gaps_is_asked_without_a_sequence(asked, tmp_path):
    model, one = load_model(asked[0] / "runs" / "model" / "chang2018"), asked[2].ids[0]
    blank = SegmentationUNet(missing="blank")
    filling = [replace(NETWORK, missing="impute"), blank, HybridCNN(segmenter=blank)]
    strict = [NETWORK, SegmentationUNet(), HybridCNN(), Age()]
    assert all(method.fills_gaps for method in filling)
    assert not any(method.fills_gaps for method in strict)
    given = {name: asked[2].path(one, name) for name in ("T1w", "T2w", "FLAIR")}
    mask = asked[2].path(one, "label-tumor_mask", asked[2].mask_method)
    single = one_patient(tmp_path / "p", given, mask)
    with pytest.raises(ReproError, match="no T1w post-contrast"):
        with_what_it_needs(model, single)
    filled, nobody = with_what_it_needs(replace(model, method=filling[0]), single)
    assert filled.ids == single.ids and not len(nobody)


def test_one_patient_by_dicom(asked, tmp_path, capsys):
    """Before, the importer was looked for in a module that has none, and a second call
    took our own table for one that a person had changed.
    """
    home, _, apart, _ = asked
    one = apart.ids[0]
    for number, (name, tags) in enumerate(SERIES.items(), 1):
        image = apart.image(one, name)
        write_dicom(image, tmp_path / "scans" / name, number, tags)
    call = ["predict", "--model", str(home / "runs" / "model" / "chang2018")]
    call += ["--dicom", str(tmp_path / "scans"), "--out", str(tmp_path / "a")]
    mask = ["--mask", str(apart.path(one, "label-tumor_mask", apart.mask_method))]
    for _ in range(2):
        assert main([*call, *mask, "--age", "43", "--jobs", "1"]) == 0
        assert "by hand" not in "".join(capsys.readouterr())
    table = read_cohort(tmp_path / "a" / "images").participants
    assert table["age"].tolist() == [43.0]
    assert main([*call, *mask, "--age", "44", "--jobs", "1"]) == 0
    assert "by hand" not in "".join(capsys.readouterr())
    said = read_predictions(tmp_path / "a" / "predictions.csv").table
    assert (
        set(said["participant_id"]) == {"sub-LESSONA"} and said["score"].notna().all()
    )
    assert (tmp_path / "a" / "report.html").exists()


def test_brainix_lacks_the_post_contrast_t1w(asked, downloads, tmp_path, capsys):
    scans = downloads / "brainix_dicom"
    if not scans.is_dir():
        pytest.skip("brainix_dicom is not among the downloads")
    call = ["predict", "--model", str(asked[0] / "runs" / "model" / "chang2018")]
    assert main([*call, "--dicom", str(scans), "--out", str(tmp_path / "a")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no T1w post-contrast" in said and "was trained on" in said


@pytest.mark.parametrize(
    "given, said",
    [
        (["--cohort", "p", "--patient", "x"], "--patient and --stripped belong"),
        (["--dicom", "p", "--stripped"], "--patient and --stripped belong"),
        (["--cohort", "p", "--age", "0"], "--mask and --age belong"),
    ],
)
def test_an_option_that_would_not_be_read_is_refused(asked, given, said, capsys):
    model = str(asked[0] / "runs" / "model" / "age")
    assert main(["predict", "--model", model, *given]) == 1
    assert said in capsys.readouterr().err


def test_a_model_of_a_phantom_asked_about_a_person_says_wiring(asked, tmp_path):
    home, _, apart, _ = asked
    model = tmp_path / "model"
    shutil.copytree(home / "runs" / "model" / "age", model)
    sign_model(model, phantom=True)
    person = replace(apart, phantom=False)
    page = predict(model, person, tmp_path / "a", jobs=1).read_text(encoding="utf-8")
    assert "A wiring test" in page
    page = predict(model, apart, tmp_path / "b", jobs=1).read_text(encoding="utf-8")
    assert "A phantom" in page and "A wiring test" not in page
