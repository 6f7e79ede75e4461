"""choi2021: what its two models promise on bad input, that neither learns from whom it
scores, and the study as a user runs it.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.features import location
from glioma_repro.features.location import structures_on
from glioma_repro.methods.catalogue import METHODS
from glioma_repro.methods.drawing import (
    empty_masks,
    masks_out_of_fold,
    measure_drawn,
    with_masks,
)
from glioma_repro.methods.hybrid_cnn import HybridCNN, numbers_of, pictures_of
from glioma_repro.methods.hybrid_results import ablations, without_one
from glioma_repro.methods.method import Age, read_model, run_folds
from glioma_repro.methods.segmentation_unet import (
    Deformation,
    SegmentationUNet,
    framed_patient,
)
from glioma_repro.networks.training import Training
from glioma_repro.patients.cohort import Split
from glioma_repro.patients.core import (
    Cohort,
    PatientError,
    ReproError,
    read_predictions,
    write_volume,
)
from glioma_repro.runs import execution
from glioma_repro.runs.prediction import predict
from glioma_repro.runs.study import open_cohort

ADAM = dict(optimizer="adam", balance="none")
SEGMENTER = SegmentationUNet(
    training=Training(epochs=1, batch=2, learning_rate=1e-2, **ADAM),
    augment=None,
    size=16,
    width=2,
    levels=3,
    threshold=0.5,
    missing="blank",
)
HYBRID = HybridCNN(
    segmenter=SEGMENTER,
    training=Training(epochs=1, **ADAM),
    tuning=1,
    width=2,
    blocks=(1, 1, 1, 1),
    trees=5,
    masks="drawn",
    numbers="all",
    place=False,
)
BOTH = ("ce-gadolinium_T1w", "FLAIR")


def written(folder, patients=4, codes=(1,), lacking=(), constant=None, edge=False):
    """A small cohort on disk: a bright ball in a round brain, three sequences."""
    random = np.random.default_rng(0)
    z, y, x = (
        np.indices((20, 24, 24)) - np.array([9.5, 11.5, 11.5])[:, None, None, None]
    )
    brain = (z / 9) ** 2 + (y / 11) ** 2 + (x / 10) ** 2 < 1
    rows = []
    for number in range(patients):
        who = f"sub-{number:02d}"
        place = 8 if edge else 2 * (number % 3)
        ball = ((z**2 + y**2 + (x - place) ** 2) < 16) & brain
        mask = ball * random.choice(codes, ball.shape)
        for name in ("ce-gadolinium_T1w", "T2w", "FLAIR"):
            values = brain * (100 + 10 * random.normal(size=ball.shape) + 80 * ball)
            values = np.full(ball.shape, 7.0) if constant == (who, name) else values
            if (who, name) not in lacking:
                put(folder / who / "anat" / f"{who}_{name}.nii.gz", values)
        path = folder / "derivatives" / "hand" / who / "anat"
        put(path / f"{who}_label-tumor_mask.nii.gz", mask)
        idh = ["wildtype", "mutant"][number % 2]
        rows.append(dict(participant_id=who, idh=idh, age=40.0 + number))
    return Cohort("small", pd.DataFrame(rows), folder, mask_method="hand")


def put(path, values):
    """Writes an array with 2 mm voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing([2.0, 2.0, 2.0])
    image.SetOrigin([-24.0, -24.0, 0.0])
    write_volume(image, path)


def test_a_patient_without_a_sequence_is_named_and_the_others_go_on(tmp_path):
    cohort = written(tmp_path, lacking={("sub-01", "FLAIR")})
    samples, problems = replace(SEGMENTER, missing="leave out").samples(cohort, jobs=1)
    assert problems["participant_id"].tolist() == ["sub-01"] and len(samples) == 3
    assert "no FLAIR" in problems["problem"].iloc[0].replace("T2-", "")
    blank, nobody = SEGMENTER.samples(cohort, jobs=1)
    assert not len(nobody) and not blank.inputs[1, 1].any() and blank.inputs[1, 0].any()


def test_a_constant_channel_is_the_patients_problem(tmp_path):
    cohort = written(tmp_path, constant=("sub-02", "FLAIR"))
    samples, problems = SEGMENTER.samples(cohort, jobs=1)
    assert problems["participant_id"].tolist() == ["sub-02"] and len(samples) == 3
    assert "constant" in problems["problem"].iloc[0]


def test_a_tumour_at_the_edge_of_the_crop_stays_whole(tmp_path):
    cohort = written(tmp_path, edge=True)
    seen = framed_patient("sub-00", cohort, BOTH, 32)
    volume = seen.mask.sum() * np.prod(seen.frame.GetSpacing())
    truth = sitk.GetArrayFromImage(cohort.mask("sub-00")).sum() * 8.0
    assert abs(volume / truth - 1) < 0.1
    numbers = numbers_of(*of_one(HYBRID, cohort))
    shapes = numbers.filter(like="shape_").to_numpy(float)
    assert shapes.shape == (4, 14) and np.isfinite(shapes).all()


def of_one(method, cohort):
    """Cubes and drawn masks."""
    samples, _ = method.samples(cohort, ("idh",), jobs=1)
    return samples, samples.masks


def test_every_label_of_a_mask_is_tumour(tmp_path):
    """BraTS has 1, 2, 4 or 1, 2, 3: the union is the whole tumour."""
    volumes = []
    for name, codes in (("one", (1,)), ("old", (1, 2, 4)), ("new", (1, 2, 3))):
        cohort = written(tmp_path / name, patients=1, codes=codes)
        volumes.append(framed_patient("sub-00", cohort, BOTH, 16).mask.sum())
    assert volumes[0] == volumes[1] == volumes[2] > 0


def test_volumes_smaller_than_the_patch_are_refused_by_name():
    with pytest.raises(ReproError, match=r"patch \(64\) is larger than the volume"):
        replace(SEGMENTER, augment=Deformation(patch=64))


def test_an_empty_mask_is_listed_and_counts_as_dice_0(tmp_path):
    cohort = written(tmp_path / "data")
    never = replace(SEGMENTER, threshold=1.0)
    splits = [Split(0, 0, "test", tuple(cohort.ids[:3]), tuple(cohort.ids[3:]))]
    run = run_folds([never], cohort, splits, (), folder=tmp_path / "f", jobs=1)
    masks = masks_out_of_fold(run, never, splits)
    assert list(masks) == ["sub-03"] and not len(run.predictions)
    assert "the predicted mask is empty" in empty_masks(masks)["problem"].iloc[0]
    table = measure_drawn(cohort, masks, study="s", method="m").table
    assert table.set_index("quantity")["value"]["dice"] == 0
    drawn = with_masks(cohort, masks, "unet")
    assert drawn.mask_method == "unet"
    with pytest.raises(PatientError, match="sub-03"):
        drawn.mask("sub-03")


def test_masks_are_written_on_the_patients_own_grid(tmp_path):
    cohort = written(tmp_path)
    always = replace(SEGMENTER, threshold=0.0)
    samples, _ = always.samples(cohort, jobs=1)
    folder = always.fit(samples).save(tmp_path / "model")
    model = read_model(folder, [SegmentationUNet])
    drawn = with_masks(cohort, model.predict(samples.take([0])).masks, "unet")
    mask = drawn.mask("sub-00", like=cohort.image("sub-00", "FLAIR"))
    assert sitk.GetArrayViewFromImage(mask).any()


def test_masks_come_out_as_they_went_in(tmp_path):
    """A hybrid and its segmenter give one mask, on the grid of the images."""
    cohort = written(tmp_path, patients=6)
    learner = replace(
        HYBRID, masks="predicted", segmenter=replace(SEGMENTER, threshold=0.1)
    )
    samples, _ = learner.samples(cohort, ("idh",), jobs=1)
    masks = learner.fit(samples).predict(samples).masks
    own, _ = learner.segmenter.samples(cohort, jobs=1)
    alone = learner.segmenter.fit(own).predict(own).masks
    assert set(masks) == set(alone) == set(cohort.ids)
    assert all(np.array_equal(masks[one], alone[one]) for one in masks)
    assert masks["sub-00"].shape == (20, 24, 24)


def test_a_patient_with_an_empty_mask_is_not_scored(tmp_path):
    cohort = written(tmp_path, patients=6)
    samples, masks = of_one(HYBRID, cohort)
    model = HYBRID.fit(samples)
    hidden = np.array(masks)
    hidden[2] = 0
    found = model.predict(replace(samples, masks=hidden))
    assert "sub-02" not in set(found.samples["participant_id"])
    assert len(found.samples) == 25 and found.values["idh"].shape == (25, 2)
    with pytest.raises(ReproError, match="every predicted mask is empty"):
        pictures_of(HYBRID, samples, np.zeros_like(masks))
    # before, fitting on them ended in a KeyError about age
    blank = replace(samples, masks=np.zeros_like(masks))
    for learner in (HYBRID, replace(HYBRID, uses="numbers")):
        with pytest.raises(ReproError, match="every predicted mask is empty"):
            learner.fit(blank)


def test_no_t2w_is_a_reason_and_flair_stands_in_by_name(tmp_path):
    lacking = {(f"sub-{number:02d}", "T2w") for number in range(4)}
    cohort = written(tmp_path, lacking=lacking)
    strict = replace(HYBRID, segmenter=replace(SEGMENTER, missing="leave out"))
    with pytest.raises(ReproError, match="nobody can be scored.*T2"):
        strict.samples(cohort, ("idh",), jobs=1)
    samples, problems = replace(strict, second="FLAIR").samples(cohort, jobs=1)
    assert samples.names == BOTH and not len(problems)


def test_no_age_leaves_age_out_of_the_numbers(tmp_path):
    cohort = written(tmp_path, patients=6)
    cohort.participants = cohort.participants.drop(columns="age")
    samples, _ = HYBRID.samples(cohort, ("idh",), jobs=1)
    model = HYBRID.fit(samples)
    assert "age" not in model.facts["idh numbers"]
    assert np.isfinite(model.predict(samples).values["idh"]).all()


def test_a_fold_with_one_class_is_a_problem_and_no_crash(tmp_path):
    cohort = written(tmp_path / "data", patients=6)
    mutant = tuple(cohort.ids[1::2])
    splits = [
        Split(0, 0, "test", tuple(cohort.ids[:4]), tuple(cohort.ids[4:])),
        Split(0, 1, "test", mutant, tuple(cohort.ids[0::2])),
    ]
    run = run_folds(
        [Age(), HYBRID], cohort, splits, ["idh"], folder=tmp_path / "f", jobs=1
    )
    assert set(run.problems["fold"]) == {1}
    assert run.problems["problem"].str.contains("wildtype").all()


def test_unknown_millimetres_give_relative_numbers_and_no_lobes(tmp_path):
    cohort = replace(written(tmp_path), voxel_size_known=False)
    numbers = numbers_of(*of_one(HYBRID, cohort))
    assert not any(name.startswith("shape") for name in numbers)
    with pytest.raises(PatientError, match="voxel size is unknown"):
        structures_on("sub-00", cohort, cohort.image("sub-00", "FLAIR"))


def test_what_is_scored_changes_nothing_that_was_learned(tmp_path):
    """The model of the first four is the same whoever else is there, by every byte."""
    cohort = written(tmp_path, patients=8)
    learner = replace(
        HYBRID, masks="predicted", segmenter=replace(SEGMENTER, threshold=0.01)
    )
    samples, _ = learner.samples(cohort, ("idh",), jobs=1)
    first = learner.fit(samples.take(range(4)), seed=1)
    other = np.array(samples.inputs)
    other[4:] = other[4:] * 3 + 1
    again = learner.fit(replace(samples, inputs=other).take(range(4)), seed=1)
    assert all(np.array_equal(first.arrays[k], again.arrays[k]) for k in first.arrays)
    assert any(name.startswith("segmenter/") for name in first.arrays)


def test_masks_out_of_fold_and_ablations_learn_and_score(tmp_path):
    cohort = written(tmp_path, patients=6)
    samples, _ = HYBRID.samples(cohort, ("idh",), jobs=1)
    drawer = replace(SEGMENTER, threshold=0.05)
    inner = replace(HYBRID, uses="images", masks="out of fold", segmenter=drawer)
    model = inner.fit(samples)
    assert set(model.predict(samples).masks) == set(cohort.ids)
    less = {one.name: one for one in ablations(HYBRID)}
    for name, channels in (("tumour masked", 3), ("T1w post-contrast and mask", 2)):
        pictures = pictures_of(less[name], samples, samples.masks)
        assert pictures.inputs.shape[1] == channels
        if channels == 3:
            tumour = pictures.inputs[:, 2] > 0
            assert tumour.any() and not pictures.inputs[:, 0][tumour].any()
    found = less["one slice"].fit(samples).predict(samples)
    assert len(found.samples) == 6


def test_a_hybrid_without_a_group_does_not_see_it(tmp_path):
    cohort = written(tmp_path, patients=6)
    samples, _ = HYBRID.samples(cohort, ("idh",), jobs=1)
    (without,) = [one for one in without_one(HYBRID) if one.name.endswith(" age")]
    model = without.fit(samples)
    names = model.facts["idh numbers"]
    assert names and all(one.startswith("shape") for one in names)
    older = replace(samples, more=samples.more | {"age": samples.more["age"] + 40})
    young, old = (model.predict(part).values["idh"] for part in (samples, older))
    np.testing.assert_array_equal(young, old)
    with pytest.raises(ReproError, match="known are shape, location, age"):
        replace(HYBRID, groups=("texture",))


def test_the_catalogue_has_the_paper_and_its_rivals():
    paper = METHODS["choi2021"]
    assert paper.uses == "both" and METHODS["choi2021 images"].uses == "images"
    assert METHODS["choi2021 numbers"].source == paper.source
    assert isinstance(METHODS["segmentation U-Net"], SegmentationUNet)


SMALL = dict(
    folds=2,
    size=16,
    unet_width=4,
    unet_levels=3,
    unet_epochs=24,
    unet_augment=False,
    dropout=0.0,
    width=2,
    blocks="1,1,1,1",
    epochs=1,
    tuning=1,
    trees=5,
    bootstrap=50,
    jobs=1,
)
PHANTOM = "phantom:patients=12,voxel_size=6"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One run of the study, with external patients."""
    return execution.run(
        "choi2021",
        PHANTOM,
        tmp_path_factory.mktemp("runs"),
        external="phantom:patients=6,voxel_size=6,seed=1",
        **SMALL,
    )


def test_the_study_goes_the_whole_way(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["phantom"] and (folder / "report.html").exists()
    tables = {
        key: pd.DataFrame(one["rows"], columns=one["columns"])
        for key, one in results["tables"].items()
    }
    items = tables["stated_assumed"]["item"].astype(int).tolist()
    assert items == list(range(1, 54))  # every item of the checklist has its line
    assert {
        "tables_2_3",
        "what_each_adds",
        "exact_tests",
        "auprc",
        "importance",
    } <= set(tables)
    page = tables["published_reproduced_page"]  # what is judged, and no gaps
    assert 0 < len(page) < len(tables["published_reproduced"])
    assert page["reproduced"].notna().all()
    adds = tables["what_each_adds"]
    tested = adds[adds["subset"] == "test"]
    assert tested["input"].tolist() == ["image", "shape", "location", "age"]
    gap = adds["with all"] - adds["without it"]
    np.testing.assert_allclose(adds["adds"].astype(float), gap.astype(float), atol=1e-9)
    masks = tables["segmentation"].set_index(["subset", "quantity"])
    assert masks.at[("test", "dice"), "n"] == 12
    assert masks.at[("test", "dice"), "published"] == 0.91
    assert masks.at[("external", "dice"), "published"] == 0.86
    assert len(list((folder / "masks" / "test").glob("*.nii.gz"))) == 12
    assert {"roc", "precision_recall", "segmentation", "saliency"} <= set(
        results["figures"]
    )
    first = results["headline"][0]
    assert first["subset"] == "external" and first["published"] == 0.86
    assert (folder / "model").is_dir()


def test_every_patient_is_tested_once_by_five_slices(folder):
    scores = read_predictions(folder / "predictions.csv").table
    one = scores[(scores["model"] == "hybrid CNN") & (scores["subset"] == "test")]
    tested = one.groupby("participant_id")["fold"].nunique()
    assert (tested == 1).all()
    per_patient = one.groupby(["participant_id", "class"])["slice"].nunique()
    assert set(per_patient) == {5}


def test_its_model_needs_no_mask(folder, tmp_path):
    """From scans to scores and masks, as `glioma-repro predict` does it."""
    two = open_cohort("phantom:patients=6,voxel_size=6,seed=1")
    two = replace(two.subset(two.ids[:2], "two"), mask_method=None)
    assert two.mask_source is None
    page = predict(folder / "model", two, tmp_path / "out", jobs=1)
    assert page.exists() and len(list((page.parent / "masks").glob("*.nii.gz"))) == 2
    scores = read_predictions(page.parent / "predictions.csv").table
    assert set(scores["participant_id"]) == set(two.ids)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    cohort = written(tmp_path / "data", patients=8)
    learner = replace(
        HYBRID, masks="predicted", segmenter=replace(SEGMENTER, threshold=0.1)
    )
    splits = [Split(0, 0, "test", tuple(cohort.ids[:4]), tuple(cohort.ids[4:]))]
    kept = []
    for place in ("one", "two"):
        folder = tmp_path / place
        run = run_folds([learner], cohort, splits, ["idh"], folder=folder, jobs=1)
        run.predictions.write(tmp_path / f"{place}.csv")
        kept.append((tmp_path / f"{place}.csv").read_bytes())
        masks = masks_out_of_fold(run, learner, splits)
        kept[-1] += b"".join(masks[one].tobytes() for one in sorted(masks))
    assert kept[0] == kept[1] and len(run.predictions)


def test_another_image_is_laid_on_the_atlas_anew(tmp_path, monkeypatch):
    """Before, the transform of an earlier image was taken, because it was there."""
    people = pd.DataFrame({"participant_id": ["sub-1"]})
    cohort, calls = Cohort("own", people, tmp_path), []

    def registered(*_, **settings):
        calls.append(settings["seed"])
        moved = sitk.TranslationTransform(3, (float(len(calls)), 0.0, 0.0))
        return SimpleNamespace(transform=moved)

    monkeypatch.setattr(location, "register", registered)
    for value, expected in ((1, 1), (1, 1), (2, 2)):
        image = sitk.GetImageFromArray(np.full((4, 4, 4), value, np.float32))
        write_volume(image, cohort.path("sub-1", "T1w"))
        way, how = location.atlas_way("sub-1", cohort)
        assert len(calls) == expected == way.GetParameters()[0]
    assert how == "registered here" and len(set(calls)) == 1
    # before, only kind and seed were on record: other settings found the old transform
    monkeypatch.setitem(location._ALIGNMENT, "bins", 32)
    location.atlas_way("sub-1", cohort)
    assert len(calls) == 3
