"""Radiomics across notebooks: bad input, cached results, another tool's numbers."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.patients.core import (
    Cohort,
    PatientError,
    ReproError,
    SchemaError,
    read_cohort,
    real_data,
    write_json,
    write_volume,
)
from glioma_repro.features.radiomics import (
    SETTINGS,
    _FIRST_ORDER,
    describe_features,
    extract_features,
    feature_groups,
    feature_samples,
    features_of,
    largest_slices,
    missing_sequences,
    references,
    run_pyradiomics,
)


def ball(size=(24, 24, 12), centre=(12, 12, 6), radius=4.5):
    z, y, x = np.indices(size[::-1])
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (
        z - centre[2]
    ) ** 2 <= radius**2


def volume(tumour, seed=0):
    random = np.random.default_rng(seed)
    head = ball(radius=11) | tumour
    return sitk.GetImageFromArray(
        (
            np.where(head, 100 + 60 * tumour, 0)
            + head * random.normal(0, 5, tumour.shape)
        ).astype(np.float32)
    )


def as_mask(array):
    return sitk.GetImageFromArray(array.astype(np.uint8))


@pytest.fixture
def cohort(tmp_path):
    "Three patients: two whole, one without FLAIR."
    ids = ["sub-1", "sub-2", "sub-3"]
    made = Cohort(
        "toy",
        pd.DataFrame(
            dict(
                participant_id=ids,
                age=[40, 50, None],
                site=["A", "B", "B"],
                idh=["mutant", "wildtype", None],
            )
        ),
        tmp_path / "toy",
        mask_method="manual",
        voxel_size_known=False,
    )
    made.write()
    for number, one in enumerate(ids):
        tumour = ball(centre=(9 + 3 * number, 12, 6), radius=3.5 + 0.5 * number)
        for name in ("T1w", "FLAIR")[: 1 if one == "sub-3" else 2]:
            write_volume(volume(tumour, number), made.path(one, name))
        write_volume(as_mask(tumour), made.path(one, "label-tumor_mask", "manual"))
    return made


def test_missing_sequence_is_na_and_named(cohort):
    cohort, measured = extract_features(cohort, jobs=1, description="")
    wide = measured.wide()
    assert (
        wide.loc["sub-3", [name for name in wide if name.startswith("FLAIR")]]
        .isna()
        .all()
    )
    assert wide.loc["sub-1"].notna().all() and len(cohort.problems) == 0
    table = missing_sequences(measured).set_index("sequence")
    assert (
        table.loc["FLAIR", "who"] == "sub-3"
        and table.loc["T1w", "patients without it"] == 0
    )


def test_second_call_computes_nothing(cohort, monkeypatch):
    _, first = extract_features(cohort, jobs=1, description="")
    path = cohort.path("sub-1", "radiomics", "radiomics", ".json")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(
        "glioma_repro.features.radiomics.features_of",
        lambda *_, **__: pytest.fail("computed again"),
    )
    _, again = extract_features(cohort, jobs=1, description="")
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    assert path.stat().st_mtime_ns == before


def test_changed_image_is_measured_again(cohort):
    _, first = extract_features(cohort, jobs=1, description="")
    write_volume(
        sitk.Cast(cohort.image("sub-1", "T1w") * 2, sitk.sitkFloat32),
        cohort.path("sub-1", "T1w"),
    )
    _, again = extract_features(cohort, jobs=1, description="")
    one, two = first.wide(), again.wide()
    assert two.loc["sub-1", "T1w_raw_Mean"] == pytest.approx(
        2 * one.loc["sub-1", "T1w_raw_Mean"]
    )
    assert (one.loc["sub-2"] == two.loc["sub-2"]).all()


def test_result_carries_settings_and_versions(cohort):
    extract_features(cohort, jobs=1, description="")
    known = json.loads(
        cohort.path("sub-1", "radiomics", "radiomics", ".json").read_text(
            encoding="utf-8"
        )
    )
    assert (
        known["made"]["pyradiomics"].startswith("3.")
        and known["made"]["settings"] == SETTINGS
        and set(known["inputs"]) == {"T1w", "FLAIR", "tumour"}
    )
    assert (
        cohort.folder / "derivatives" / "radiomics" / "dataset_description.json"
    ).exists()
    assert references(cohort)["patients"].sum() == 3


def test_same_bytes_on_one_or_two_processes(cohort, tmp_path):
    _, one = extract_features(cohort, jobs=1, description="")
    shutil.rmtree(cohort.folder / "derivatives" / "radiomics")
    _, two = extract_features(cohort, jobs=2, description="")
    assert (
        one.write(tmp_path / "one.csv").read_bytes()
        == two.write(tmp_path / "two.csv").read_bytes()
    )


@pytest.mark.parametrize(
    "harm, words",
    [
        (
            lambda cohort: write_volume(
                as_mask(np.zeros((12, 24, 24))),
                cohort.path("sub-2", "label-tumor_mask", "manual"),
            ),
            "empty",
        ),
        (
            lambda cohort: write_volume(
                as_mask(ball()[:, :, :20]),
                cohort.path("sub-2", "label-tumor_mask", "manual"),
            ),
            "voxels",
        ),
        (
            lambda cohort: write_volume(
                as_mask(ball(radius=0.5)),
                cohort.path("sub-2", "label-tumor_mask", "manual"),
            ),
            "1 voxel",
        ),
        (
            lambda cohort: write_volume(
                sitk.GetImageFromArray(np.full((12, 24, 24), 7.0)),
                cohort.path("sub-2", "FLAIR"),
            ),
            "constant",
        ),
        (
            lambda cohort: write_volume(
                sitk.GetImageFromArray(np.full((12, 24, 24), np.nan)),
                cohort.path("sub-2", "FLAIR"),
            ),
            "NaN",
        ),
        (
            lambda cohort: write_volume(
                as_mask(np.ones((12, 24, 24))),
                cohort.path("sub-2", "label-tumor_mask", "manual"),
            ),
            "full, or inverted",
        ),
        (
            lambda cohort: write_volume(
                as_mask(ball(centre=(2, 2, 1), radius=2)),
                cohort.path("sub-2", "label-tumor_mask", "manual"),
            ),
            "lies in the brain",
        ),
        (
            lambda cohort: write_volume(
                cohort.image("sub-2", "FLAIR") * 1e30, cohort.path("sub-2", "FLAIR")
            ),
            "no scanner",
        ),
        (
            lambda cohort: cohort.path("sub-2", "FLAIR").write_bytes(b"no image"),
            "cannot be read",
        ),
        (
            lambda cohort: cohort.path("sub-2", "label-tumor_mask", "manual").unlink(),
            "missing",
        ),
        (
            lambda cohort: [
                cohort.path("sub-2", name).unlink() for name in ("T1w", "FLAIR")
            ],
            "no image",
        ),
    ],
)
def test_broken_patient_is_listed_and_the_others_go_on(cohort, harm, words):
    harm(cohort)
    after, measured = extract_features(cohort, jobs=1, description="")
    assert (
        after.problems["participant_id"].tolist() == ["sub-2"]
        and words in after.problems["problem"].iloc[0]
    )
    assert set(measured.wide().index) == {"sub-1", "sub-3"}


def test_nobody_left_is_an_error(cohort):
    shutil.rmtree(cohort.folder / "derivatives")
    with pytest.raises(ReproError, match="no patient could be measured"):
        extract_features(cohort, jobs=1, description="")
    with pytest.raises(ReproError, match="no tumour masks"):
        extract_features(
            Cohort("x", cohort.participants, cohort.folder), jobs=1, description=""
        )


def test_shifted_grid_is_an_error():
    tumour = ball()
    mask = as_mask(tumour)
    mask.SetOrigin((0, 0, 3))
    with pytest.raises(PatientError, match="origin"):
        features_of({"FLAIR": volume(tumour)}, mask, participant_id="sub-9")


def test_a_flipped_mask_is_the_same_patient(cohort):
    "Stored with other axes, on the same grid: the same features."
    first, _ = features_of(
        {"FLAIR": cohort.image("sub-1", "FLAIR")},
        cohort.mask("sub-1"),
        voxel_size_known=False,
    )
    again, _ = features_of(
        {"FLAIR": cohort.image("sub-1", "FLAIR")},
        sitk.DICOMOrient(cohort.mask("sub-1"), "RAI"),
        voxel_size_known=False,
    )
    assert {name: first[name] for name in first if not name.startswith("shape")} == {
        name: again[name] for name in again if not name.startswith("shape")
    }


def test_a_space_has_features_of_its_own_and_is_not_normalised_again(cohort):
    """z features of an image that a recipe scaled are in its standard deviations; those
    of the images as scanned stay.
    """
    _, first = extract_features(cohort, jobs=1, description="")
    for one in cohort.ids:
        for name in cohort.sequences(one):
            write_volume(
                cohort.image(one, name) * 0.001 + 0.5, cohort.path(one, name, "recipe")
            )
        write_volume(cohort.mask(one), cohort.path(one, "label-tumor_mask", "recipe"))
    cohort.path("sub-2", "label-tumor_mask", "recipe").unlink()
    write_json(
        cohort.folder / "derivatives" / "recipe" / "dataset_description.json",
        {
            "GliomaRepro": {
                "done": {
                    "recipe": "recipe",
                    "stripped": True,
                    "normalised": "z-score",
                    "scale": 0.1,
                    "shift": 0.5,
                }
            }
        },
    )
    space, measured = extract_features(cohort.using("recipe"), jobs=1, description="")
    assert (
        space.problems["participant_id"].tolist() == ["sub-2"]
        and "no tumour mask in derivatives/recipe" in space.problems["problem"].iloc[0]
    )
    wide, raw = measured.wide(), first.wide()
    assert wide.loc["sub-1", "T1w_z_Mean"] == pytest.approx(
        0.01 * raw.loc["sub-1", "T1w_raw_Mean"], rel=1e-4
    )
    _, again = extract_features(cohort, jobs=1, description="")
    pd.testing.assert_frame_equal(first.table, again.table)


def test_one_slice_mask():
    flat = np.zeros((12, 24, 24), bool)
    flat[6] = ball()[6]
    known, _ = features_of({"FLAIR": volume(flat)}, as_mask(flat))
    assert np.isnan(known["shape_Sphericity"]) and np.isfinite(known["FLAIR_raw_Mean"])
    unknown, _ = features_of(
        {"FLAIR": volume(flat)}, as_mask(flat), voxel_size_known=False
    )
    assert (
        np.isfinite(list(unknown.values())).all()
        and unknown["shape2D_Elongation"] > 0.9
    )


def test_no_feature_of_an_unknown_voxel_size_depends_on_it():
    tumour = ball()
    image, mask = volume(tumour), as_mask(tumour)
    first, _ = features_of({"FLAIR": image}, mask, voxel_size_known=False)
    for spacing in [(0.4, 0.4, 6.0), (2.0, 2.0, 2.0)]:
        other_image, other_mask = sitk.Image(image), sitk.Image(mask)
        other_image.SetSpacing(spacing)
        other_mask.SetSpacing(spacing)
        assert (
            features_of({"FLAIR": other_image}, other_mask, voxel_size_known=False)[0]
            == first
        )
    table = describe_features(["FLAIR"], False)
    assert set(table.loc[table["used"], "feature"]) == set(first)
    assert not {"mm", "mm2", "mm3", "1/mm"} & set(table.loc[table["used"], "unit"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"binWidth": 5},
        {"binCount": 16},
        {"normalize": True},
        {"resegmentRange": [-2, 2], "resegmentMode": "sigma"},
    ],
)
def test_settings_reach_pyradiomics_unchanged(settings):
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    tumour = ball()
    image, mask = volume(tumour), as_mask(tumour)
    theirs = RadiomicsFeatureExtractor(**settings)
    theirs.disableAllFeatures()
    theirs.enableFeatureClassByName("firstorder")
    expected = {
        name.removeprefix("original_firstorder_"): float(value)
        for name, value in theirs.execute(image, mask).items()
        if name.startswith("original_firstorder_")
    }
    ours = run_pyradiomics(image, mask, "firstorder", settings)
    assert set(ours) == set(expected) == set(_FIRST_ORDER)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_external_cohort_gets_the_same_features(cohort):
    cohort, measured = extract_features(cohort, jobs=1, description="")
    both = feature_samples(cohort, measured)
    first, second = cohort.subset(["sub-1", "sub-2"]), cohort.subset(["sub-3"])
    samples = feature_samples(first, measured)
    other = feature_samples(second, measured, like=samples)
    assert other.names == samples.names and len(other) == 1 and "site_B" in other.names
    assert np.isnan(other.inputs[0, other.names.index("age")]) and set(
        feature_groups(both.names)
    ) >= {"age", "site", "location"}
    measured_in_mm = measured.table.assign(
        quantity=measured.table["quantity"].replace(
            "shape2D_Sphericity", "shape_Sphericity"
        )
    )
    with pytest.raises(SchemaError, match="voxel size"):
        feature_samples(second, type(measured)(measured_in_mm), like=samples)


def test_pictures_of_patients(cohort):
    rows, masks = largest_slices(cohort, cohort.ids)
    assert (
        list(rows) == cohort.ids
        and rows["sub-3"]["FLAIR"] is None
        and masks["sub-1"].any()
    )


def test_values_done_by_hand():
    "A case done by hand: intensities 1, 2, 3, 4 in a mask of four voxels."
    image = sitk.GetImageFromArray(np.arange(1, 9, dtype=np.float64).reshape(2, 2, 2))
    mask = as_mask(np.arange(8).reshape(2, 2, 2) < 4)
    found = run_pyradiomics(image, mask, "firstorder", {"binWidth": 1})
    expected = dict(
        Mean=2.5, Range=3, Energy=30, Variance=1.25, Entropy=2, Uniformity=0.25
    )
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.skipif(
    real_data() is None,
    reason="no real data: set GLIOMA_DATA to the folder of public downloads",
)
def test_registered_real_tumour():
    """BRATS 2012, 1 mm: the volume in mm3 is the voxel count, and the features are
    those of pyradiomics called on the files.
    """
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    folder = real_data() / "brats2012_hg0015"
    if not folder.is_dir():
        pytest.skip("brats2012_hg0015 is not among the real data")
    flair = sitk.ReadImage(str(folder / "BRATS_HG0015_FLAIR.mha"))
    mask = sitk.Cast(
        sitk.ReadImage(str(folder / "BRATS_HG0015_truth.mha")) > 0, sitk.sitkUInt8
    )
    mask.CopyInformation(flair)
    values, made = features_of({"FLAIR": sitk.Cast(flair, sitk.sitkFloat32)}, mask)
    assert made["reference"] == "nonzero voxels"
    assert values["shape_VoxelVolume"] == pytest.approx(
        sitk.GetArrayViewFromImage(mask).sum() * np.prod(mask.GetSpacing())
    )
    theirs = RadiomicsFeatureExtractor()
    theirs.disableAllFeatures()
    theirs.enableFeatureClassByName("shape")
    for name, value in theirs.execute(flair, mask).items():
        if name.startswith("original_shape_"):
            assert values[name.removeprefix("original_")] == pytest.approx(
                float(value), rel=1e-9
            ), name


def test_features_are_read_back_from_the_folder(cohort):
    extract_features(cohort, jobs=1, description="")
    again = read_cohort(cohort.folder)
    _, measured = extract_features(again, jobs=1, description="")
    assert len(measured.wide()) == 3
