"Slices from volumes that a careless scanner, annotator or downloader left behind."

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.patients.core import (
    Cohort,
    PatientError,
    ReproError,
    real_data,
    write_json,
    write_volume,
)
from glioma_repro.images.slices import (
    Slicing,
    common_sequences,
    patient_volumes,
    slice_arrays,
    slice_cohort,
    tumour_box,
    tumour_slices,
)

SEQUENCES = ("T1w", "ce-gadolinium_T1w", "FLAIR")


def patient(folder, one, mask, sequences=SEQUENCES, change=None, spacing=(1, 1, 5)):
    "Writes one patient's images and mask."
    rng = np.random.default_rng(int(one[-1]))
    cohort = Cohort(
        "made", pd.DataFrame({"participant_id": [one]}), folder, mask_method="manual"
    )
    brain = np.zeros(mask.shape, np.float32)
    brain[:, :-4, 4:] = 1  # up to the edge, where one tumour lies
    for number, name in enumerate(sequences):
        volume = (
            brain
            * (100 + 20 * number + rng.normal(0, 5, mask.shape)).astype(np.float32)
            + 30 * mask
        )
        if change is not None:
            volume = change(name, volume)
        image = sitk.GetImageFromArray(volume.astype(np.float32))
        image.SetSpacing(spacing)
        write_volume(image, cohort.path(one, name))
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing)
    write_volume(image, cohort.path(one, "label-tumor_mask", "manual"))


@pytest.fixture
def made(tmp_path):
    """Five patients: a whole one, a tumour of one pixel, one at the edge, one without
    FLAIR, one on the first slice.
    """
    mask = np.zeros((7, 40, 36), np.float32)
    ball = mask.copy()
    ball[2:5, 12:20, 14:24] = 1
    pixel, edge, first = mask.copy(), mask.copy(), mask.copy()
    pixel[3, 20, 20] = 1
    edge[2:4, 0:5, 30:36] = 1
    first[0:2, 10:16, 10:14] = 1
    for one, shape, sequences in (
        ("sub-1", ball, SEQUENCES),
        ("sub-2", pixel, SEQUENCES),
        ("sub-3", edge, SEQUENCES),
        ("sub-4", ball, SEQUENCES[:2]),
        ("sub-5", first, SEQUENCES),
    ):
        patient(tmp_path, one, shape, sequences)
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{n}" for n in range(1, 6)],
            "idh": ["mutant", "wildtype", None, "mutant", "wildtype"],
        }
    )
    return Cohort("made", table, tmp_path, mask_method="manual")


def test_tumour_of_one_pixel(made):
    samples, _ = slice_cohort(made.subset(["sub-2"]), sequences=SEQUENCES, jobs=1)
    assert samples.inputs.shape == (1, 3, 32, 32) and np.isfinite(samples.inputs).all()
    # the box is the pixel
    assert samples.table["area"].tolist() == [1] and samples.masks.all()
    wide, _ = slice_cohort(
        made.subset(["sub-2"]), Slicing(margin=3.0), SEQUENCES, jobs=1
    )
    # with a margin the pixel is a seventh of the side
    assert 0 < wide.masks.mean() < 0.1


def test_box_at_the_edge_of_the_image(made):
    samples, _ = slice_cohort(
        made.subset(["sub-3"]), Slicing(margin=0.5), SEQUENCES, jobs=1
    )
    assert (
        samples.table["top"].min() < 0
        and (samples.table["left"] + samples.table["width"]).max() > 36
    )
    assert samples.inputs.shape == (2, 3, 32, 32) and np.isfinite(samples.inputs).all()
    assert samples.masks.any((1, 2)).all()


def test_left_out_or_imputed_by_name(made):
    samples, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    assert (
        problems["participant_id"].tolist() == ["sub-4"]
        and "FLAIR" in problems["problem"][0]
    )
    assert "sub-4" not in set(samples.table["participant_id"])
    samples, problems = slice_cohort(
        made, sequences=SEQUENCES, missing="impute", jobs=1
    )
    assert (
        problems["problem"].tolist() == ["imputed: FLAIR"]
        and np.isfinite(samples.inputs).all()
    )
    guessed = samples.of(["sub-4"]).inputs[:, 2]
    assert guessed.std() > 0.1 and not np.allclose(guessed, 0)  # no channel of zeros
    with pytest.raises(ReproError, match="leave out"):
        slice_cohort(made, missing="zeros")


def test_common_sequences_need_half_of_the_patients(made):
    assert common_sequences(made) == SEQUENCES
    assert common_sequences(made.subset(["sub-4"])) == SEQUENCES[:2]
    with pytest.raises(ReproError, match="run the recipe first"):
        made.using("nothing")


def test_nan_image_names_the_patient_and_the_others_go_on(made, tmp_path):
    mask = np.zeros((7, 40, 36), np.float32)
    mask[3, 5:9, 5:9] = 1
    patient(
        tmp_path,
        "sub-1",
        mask,
        change=lambda name, volume: (
            np.where(mask > 0, np.nan, volume) if name == "FLAIR" else volume
        ),
    )
    samples, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    assert (
        set(problems["participant_id"]) == {"sub-1", "sub-4"}
        and samples.table["participant_id"].nunique() == 3
    )
    assert "NaN" in problems.set_index("participant_id").loc["sub-1", "problem"]


def test_a_constant_volume_and_an_empty_mask_are_named(made, tmp_path):
    mask = np.zeros((7, 40, 36), np.float32)
    patient(tmp_path, "sub-1", mask)
    mask[3, 5:9, 5:9] = 1
    patient(
        tmp_path,
        "sub-2",
        mask,
        change=lambda name, volume: (
            np.full_like(volume, 7) if name == "T1w" else volume
        ),
    )
    _, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    said = problems.set_index("participant_id")["problem"]
    assert (
        "mask is empty" in said["sub-1"]
        and "T1w" in said["sub-2"]
        and "one value" in said["sub-2"]
    )


def test_an_image_on_another_grid_is_an_error_with_both_geometries(made):
    "It was resampled by the identity before, whatever had moved."
    image = made.image("sub-1", "FLAIR")
    moved = sitk.Resample(
        image,
        [50, 60, 9],
        sitk.Transform(),
        sitk.sitkLinear,
        (-6.0, -8.0, -5.0),
        image.GetSpacing(),
        image.GetDirection(),
        0.0,
    )
    write_volume(moved, made.path("sub-1", "FLAIR"))
    with pytest.raises(
        PatientError, match="50 x 60 x 9 voxels.*36 x 40 x 7 voxels.*run a recipe first"
    ) as error:
        patient_volumes("sub-1", made, SEQUENCES)
    assert (
        error.value.participant_id == "sub-1"
        and "origin -6 -8 -5" in error.value.problem
    )
    _, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    assert "sub-1" in set(problems["participant_id"])


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda mask: np.ones_like(mask), "full, or inverted"),
        (lambda mask: 1 - mask, "full, or inverted"),
        (
            lambda mask: (
                np.roll(np.pad(mask[:, 4:-4], ((0, 0), (0, 8), (0, 0))), 17, 2) * 0
                + np.pad(np.ones((7, 3, 36)), ((0, 0), (0, 37), (0, 0)))
            ),
            "lies in the brain",
        ),
    ],
)
def test_a_mask_that_cannot_be_is_left_out_by_name(made, harm, words):
    image = made.mask("sub-1")
    wrong = sitk.GetImageFromArray(harm(sitk.GetArrayFromImage(image)).astype(np.uint8))
    wrong.CopyInformation(image)
    brain = np.zeros((7, 40, 36), np.uint8)
    brain[:, 4:-4, 4:-4] = 1
    known = sitk.GetImageFromArray(brain)
    known.CopyInformation(image)
    write_volume(wrong, made.path("sub-1", "label-tumor_mask", "manual"))
    write_volume(known, made.path("sub-1", "label-brain_mask", "manual"))
    _, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    assert words in problems.set_index("participant_id").loc["sub-1", "problem"]


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda image: image * 1e30, "no scanner"),
        (lambda image: sitk.Cast(image, sitk.sitkInt64) * 2**55, "no scanner"),
    ],
)
def test_impossible_numbers_are_left_out_by_name(made, harm, words):
    write_volume(harm(made.image("sub-1", "FLAIR")), made.path("sub-1", "FLAIR"))
    samples, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    assert (
        words in problems.set_index("participant_id").loc["sub-1", "problem"]
        and np.isfinite(samples.inputs).all()
    )


def test_a_voxel_size_of_zero_is_left_out_by_name(made):
    import gzip
    import struct

    path = made.path("sub-1", "FLAIR")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[88:92] = struct.pack("<f", 0.0)  # pixdim[3] of NIfTI-1
    path.write_bytes(gzip.compress(bytes(content)))
    _, problems = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    assert (
        "voxel size is unknown"
        in problems.set_index("participant_id").loc["sub-1", "problem"]
    )


def test_what_a_recipe_normalised_is_not_normalised_again(made):
    """chang2018 takes mean and standard deviation over the image; a second z-score over
    the brain cancelled that.
    """
    folder = made.folder / "derivatives" / "recipe"
    for name in SEQUENCES:
        write_volume(
            made.image("sub-1", name) * 0.01 - 3, made.path("sub-1", name, "recipe")
        )
    write_volume(made.mask("sub-1"), made.path("sub-1", "label-tumor_mask", "recipe"))
    write_volume(
        sitk.Cast(made.image("sub-1", "T1w") > 0, sitk.sitkUInt8),
        made.path("sub-1", "label-brain_mask", "recipe"),
    )
    space = made.using("recipe")
    again, _, _ = patient_volumes("sub-1", space, SEQUENCES)
    kept = sitk.GetArrayFromImage(space.image("sub-1", "T1w"))
    # nothing is said to be done: it is done here
    assert not np.allclose(again[0], kept)
    write_json(
        folder / "dataset_description.json",
        {"GliomaRepro": {"done": {"stripped": True, "normalised": "z-score"}}},
    )
    volumes, _, _ = patient_volumes("sub-1", space, SEQUENCES)
    np.testing.assert_array_equal(volumes[0], kept)
    (folder / "dataset_description.json").write_text("[1, 2")
    with pytest.raises(ReproError, match="no description"):
        space.done


def test_a_volume_stored_upside_down_gives_the_same_slices(made):
    before, _, _ = patient_volumes("sub-1", made, SEQUENCES)
    for name in SEQUENCES:
        write_volume(
            sitk.DICOMOrient(made.image("sub-1", name), "RAI"), made.path("sub-1", name)
        )
    mask = made.mask("sub-1")
    write_volume(
        sitk.DICOMOrient(mask, "RAI"), made.path("sub-1", "label-tumor_mask", "manual")
    )
    after, _, _ = patient_volumes("sub-1", made, SEQUENCES)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_akkus_recipe(made):
    recipe = Slicing(size=24, which="equator", fit="embed", masked=True)
    samples, _ = slice_cohort(made.subset(["sub-1"]), recipe, SEQUENCES, jobs=1)
    assert (
        samples.inputs.shape == (3, 3, 24, 24)
        and (samples.inputs[samples.masks[:, None].repeat(3, 1) == 0] == 0).all()
    )
    samples, _ = slice_cohort(made.subset(["sub-5"]), recipe, SEQUENCES, jobs=1)
    # the tumour ends at the first slice
    assert samples.table["slice"].tolist() == [0, 1]
    _, problems = slice_cohort(
        made.subset(["sub-1", "sub-5"]),
        Slicing(size=8, which="equator", fit="embed"),
        SEQUENCES,
        jobs=1,
    )
    assert (
        problems["participant_id"].tolist() == ["sub-1"]
        and "size=10 would do" in problems["problem"][0]
    )


def test_parallel_gives_the_same_bytes(made):
    one, _ = slice_cohort(made, sequences=SEQUENCES, jobs=1)
    two, _ = slice_cohort(made, sequences=SEQUENCES, jobs=2)
    assert one.inputs.tobytes() == two.inputs.tobytes() and one.table.equals(two.table)


def test_words_are_checked():
    with pytest.raises(ReproError, match="which"):
        Slicing(which="largest")
    with pytest.raises(ReproError):
        Slicing(size=0)
    with pytest.raises(ReproError, match="no slice"):
        tumour_slices(np.zeros((3, 4, 4)))
    assert tumour_box(np.eye(5, dtype=bool)) == (0, 0, 5, 5)


def test_real_slices():
    "One real patient, if the public download is there."
    if real_data() is None or not (real_data() / "kaggle_3m").is_dir():
        pytest.skip("no real data: set GLIOMA_DATA to the folder that holds kaggle_3m")
    from PIL import Image

    folder = sorted(
        path for path in (real_data() / "kaggle_3m").iterdir() if path.is_dir()
    )[0]

    def number(path):
        return int(path.stem.removesuffix("_mask").split("_")[-1])

    pictures = sorted(
        (path for path in folder.glob("*.tif") if not path.stem.endswith("_mask")),
        key=number,
    )
    volumes = (
        np.stack([np.asarray(Image.open(path)) for path in pictures])
        .transpose(3, 0, 1, 2)
        .astype(np.float32)
    )
    mask = (
        np.stack(
            [
                np.asarray(Image.open(path.with_name(path.stem + "_mask.tif")))
                for path in pictures
            ]
        )
        > 0
    )
    made, masks, table = slice_arrays(volumes, mask, Slicing())
    assert (
        len(table) == mask.any((1, 2)).sum()
        and made.shape[1:] == (3, 32, 32)
        and masks.any((1, 2)).all()
    )


def test_patient_error_survives_a_worker(made):
    with pytest.raises(PatientError, match="sub-9"):
        made.mask("sub-9")
