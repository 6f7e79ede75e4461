"The segmentation on whole patients: bad input, the widget's parts, real masks."

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.patients.core import (
    Cohort,
    PatientError,
    ReproError,
    real_data,
    write_volume,
)
from glioma_repro.images.contour import (
    Contouring,
    Region,
    agreement,
    dilate,
    region_path,
    segment_cohort,
    segment_patient,
    segment_slices,
    shrink,
    simulate_region,
    tissue_maps,
    write_region,
)


def _picture(tumour_slices, sequences=("T2w", "ce-gadolinium_T1w"), depth=6, size=64):
    """One made-up head: brain, fluid and a bright ball; (images by sequence, brain,
    tumour).
    """
    random = np.random.default_rng(3)
    z, y, x = np.indices((depth, size, size))
    brain = ((x - 32) / 0.85) ** 2 + (y - 32) ** 2 < 29**2
    fluid = (abs(x - 32) < 3) & (abs(y - 32) < 9)
    tumour = ((x - 44) ** 2 + (y - 27) ** 2 < 8**2) & np.isin(z, tumour_slices) & brain
    levels = {
        "T2w": (150, 210, 80),
        "FLAIR": (150, 20, 80),
        "ce-gadolinium_T1w": (60, 20, 100),
    }
    images = {}
    for name in sequences:
        inside, wet, tissue = levels[name]
        images[name] = (
            np.select([tumour, fluid, brain], [inside, wet, tissue], 0)
            + random.normal(0, 5, brain.shape) * brain
        ).astype(np.float32)
    return images, brain, tumour


def _cohort(folder, patients):
    "A BIDS cohort of made-up heads: {participant_id: (images, brain, tumour)}."
    cohort = Cohort(
        "made-up",
        pd.DataFrame({"participant_id": list(patients)}),
        folder,
        mask_method="truth",
    )
    for one, (images, brain, tumour) in patients.items():
        for name, array in images.items():
            write_volume(sitk.GetImageFromArray(array), cohort.path(one, name))
        for name, array in (("label-tumor_mask", tumour), ("label-brain_mask", brain)):
            write_volume(
                sitk.GetImageFromArray(array.astype(np.uint8)),
                cohort.path(one, name, "truth"),
            )
    return cohort


def test_cohort_and_who_fails(tmp_path):
    """A tumour on the last slice, one sequence only and no sequence: the first two are
    segmented and say so, the third is listed.
    """
    cohort = _cohort(
        tmp_path,
        {
            "sub-last": _picture([4, 5]),
            "sub-flair": _picture([2, 3, 4], ("FLAIR",)),
            "sub-none": _picture([2, 3], ()),
        },
    )
    left, measured, record = segment_cohort(cohort, jobs=1)
    assert left.ids == ["sub-last", "sub-flair"] and left.problems[
        "participant_id"
    ].tolist() == ["sub-none"]
    assert "nothing to segment on" in left.problems["problem"].iloc[0]
    notes = record.set_index("participant_id")["notes"]
    assert (
        "FLAIR only" in notes["sub-flair"]
        and record.set_index("participant_id").at["sub-flair", "slices"] == 2
    )
    # all slices are as large, so the first is the equator: nothing below it
    assert "ends at slice 2" in notes["sub-flair"]
    assert (measured.wide().loc[["sub-last", "sub-flair"], "Dice"] > 0.8).all()
    # written on the images' grid, dilated
    mask = (
        sitk.GetArrayFromImage(
            left.mask("sub-flair", cohort.image("sub-flair", "FLAIR"))
        )
        > 0
    )
    truth = sitk.GetArrayFromImage(cohort.mask("sub-flair")) > 0
    assert (
        (mask.sum((1, 2)) > 0).sum() == 2
        and mask[truth & mask.any((1, 2), keepdims=True)].all()
        and mask.sum() > 1.3 * truth[2:4].sum()
    )


def test_first_slice(tmp_path):
    """An equator on the first slice: what is there is segmented, and the notes say why
    there are fewer.
    """
    cohort = _cohort(tmp_path, {"sub-first": _picture([0, 1])})
    found = segment_patient("sub-first", cohort)
    assert sorted(found["slices"]) == [0, 1] and any(
        "first of the volume" in note for note in found["notes"]
    )


def test_same_seed_same_masks(tmp_path):
    cohort = _cohort(tmp_path, {"sub-a": _picture([2, 3, 4])})
    one, two = (
        segment_cohort(cohort, jobs=1)[0],
        segment_cohort(cohort, jobs=1, seed=1)[0],
    )
    assert one.mask_method != two.mask_method  # other settings, another folder
    before = one.path("sub-a", "label-tumor_mask", one.mask_method).read_bytes()
    segment_cohort(cohort, jobs=1)
    assert one.path("sub-a", "label-tumor_mask", one.mask_method).read_bytes() == before


@pytest.mark.parametrize(
    "polygon, word",
    [
        # the other side
        ([(8, 22), (20, 22), (20, 44), (8, 44)], "of the tumour of the known mask"),
        ([(36, 17), (90, 17), (90, 40)], "leaves the image"),
        ([(36, 17), (50, 40)], "at least 3"),
    ],
)
def test_bad_region_files(tmp_path, polygon, word):
    """A region that misses the tumour, leaves the image or has two corners: one error
    that names the patient.
    """
    cohort = _cohort(tmp_path, {"sub-a": _picture([2, 3, 4])})
    path = region_path(cohort, "sub-a")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"slice": 3, "polygon": polygon, "shape": [64, 64]}))
    with pytest.raises(PatientError, match=word) as error:
        segment_patient("sub-a", cohort)
    assert error.value.participant_id == "sub-a"


def test_region_without_tumour_and_without_mask(tmp_path):
    "Where no mask is known, the intensities tell that a region holds no tumour."
    cohort = _cohort(tmp_path, {"sub-a": _picture([2, 3, 4])})
    cohort.mask_method = None
    with pytest.raises(PatientError, match="no region was drawn"):
        segment_patient("sub-a", cohort)
    write_region(
        Region(3, ((10, 22), (24, 22), (24, 40), (10, 40)), (64, 64)), cohort, "sub-a"
    )
    with pytest.raises(
        PatientError,
        match="does not contain the tumour|shrank to nothing|a tumour has at least",
    ):
        segment_patient("sub-a", cohort)
    write_region(
        Region(3, ((33, 16), (56, 16), (56, 39), (33, 39)), (64, 64)), cohort, "sub-a"
    )
    found = segment_patient("sub-a", cohort)
    assert (
        found["region"].source == "drawn"
        and sorted(found["slices"]) == [2, 3, 4]
        and "Dice" not in found["values"]
    )


def test_empty_contour(tmp_path):
    """Where nothing in the region is abnormal the contour vanishes: an error, not an
    empty mask; in a cohort the patient is listed and the others go on.
    """
    start = np.zeros((64, 64), bool)
    start[20:40, 20:40] = True
    with pytest.raises(ReproError, match="shrank to nothing"):
        shrink(np.zeros((64, 64), np.float32), start)
    images, brain, tumour = _picture([2, 3, 4])
    # no tumour is dark on T2w
    dark = {
        name: np.where(tumour, 20, image).astype(np.float32)
        for name, image in images.items()
    }
    cohort = _cohort(
        tmp_path, {"sub-a": (images, brain, tumour), "sub-dark": (dark, brain, tumour)}
    )
    left, measured, _ = segment_cohort(cohort, jobs=1)
    assert left.ids == ["sub-a"] and left.problems["participant_id"].tolist() == [
        "sub-dark"
    ]
    assert "does not contain the tumour" in left.problems["problem"].iloc[0]
    assert not left.path("sub-dark", "label-tumor_mask", left.mask_method).exists()


def test_region_outside_the_brain():
    images, brain, tumour = _picture([2, 3])
    volumes = np.stack(list(images.values()))
    with pytest.raises(ReproError, match="outside the brain"):
        segment_slices(
            volumes, Region(2, ((0, 0), (4, 0), (4, 4), (0, 4)), (64, 64)), brain
        )
    with pytest.raises(ReproError, match="drawn on slice 9"):
        segment_slices(
            volumes, Region(9, ((30, 20), (50, 20), (50, 40)), (64, 64)), brain
        )
    with pytest.raises(ReproError, match="the true mask is empty"):
        simulate_region(0 * tumour)


def test_sloppier_regions_are_worse_than_the_contour():
    "From a rough region the contour is nearer to the truth than the region is."
    images, brain, tumour = _picture([1, 2, 3, 4])
    volumes = np.stack(list(images.values()))
    for sloppiness in (0, 4, 8):
        region = simulate_region(tumour, sloppiness, "rough")
        found, _ = segment_slices(volumes, region, brain, reach=0)
        assert (
            agreement(found[region.slice].mask, tumour[region.slice])["Dice"]
            > 0.9
            > agreement(region.mask(), tumour[region.slice])["Dice"]
        )


def test_settings_are_checked():
    for wrong in (dict(sure=0), dict(tissues=0), dict(dilation=-1), dict(iterations=0)):
        with pytest.raises(ReproError):
            Contouring(**wrong)
    assert dilate(np.eye(5, dtype=bool)[None], 0).sum() == 5


def test_atlas_maps_tell_fluid_from_tumour(tmp_path):
    """On T2w alone fluid is as bright as tumour; the atlas' tissue maps say where fluid
    is expected.
    """
    images, brain, tumour = _picture([2, 3, 4], ("T2w",))
    cohort = _cohort(tmp_path, {"sub-a": (images, brain, tumour)})
    fluid = images["T2w"] > 180
    for name, array in (
        *images.items(),
        ("label-tumor_mask", tumour.astype(np.uint8)),
        ("label-brain_mask", brain.astype(np.uint8)),
    ):
        write_volume(sitk.GetImageFromArray(array), cohort.path("sub-a", name, "atlas"))
    space = cohort.using("atlas")
    for name, where in (
        ("GM", brain & ~fluid & (np.indices(brain.shape)[2] < 32)),
        ("WM", brain & ~fluid & (np.indices(brain.shape)[2] >= 32)),
    ):
        write_volume(
            sitk.GetImageFromArray(where.astype(np.float32)),
            cohort.path("sub-a", f"label-{name}_probseg", "atlas"),
        )
    for one in (cohort, space):  # a region belongs to its space
        # holds half of the fluid too
        write_region(
            Region(3, ((31.5, 14), (56, 14), (56, 42), (31.5, 42)), (64, 64)),
            one,
            "sub-a",
        )
    assert region_path(cohort, "sub-a") != region_path(space, "sub-a")
    without, with_atlas = (
        segment_patient("sub-a", one, reach=0)["slices"][3].mask
        for one in (cohort, space)
    )
    assert agreement(with_atlas, tumour[3])["Dice"] > 0.9
    assert (with_atlas & fluid[3]).sum() <= (without & fluid[3]).sum()


def test_tissue_maps_are_read_by_name_and_may_be_missing(tmp_path):
    """Maps beside the registered images are found; without them, or with one only, the
    segmentation does without; empty ones are an error that names them.
    """
    images, brain, tumour = _picture([2, 3, 4], ("T2w",))
    cohort = _cohort(tmp_path, {"sub-a": (images, brain, tumour)})
    for name, array in (
        *images.items(),
        ("label-tumor_mask", tumour.astype(np.uint8)),
        ("label-brain_mask", brain.astype(np.uint8)),
    ):
        write_volume(sitk.GetImageFromArray(array), cohort.path("sub-a", name, "atlas"))
    grid, raw, cohort = cohort.image("sub-a", "T2w"), cohort, cohort.using("atlas")
    assert (
        segment_patient("sub-a", cohort)["maps"] is False
        and tissue_maps("sub-a", cohort, grid) is None
    )
    fluid = images["T2w"] > 180
    maps = {
        "GM": (brain & ~fluid) * 0.25,
        "WM": (brain & ~fluid) * 0.75,
        "CSF": (brain & fluid) * 1.0,
    }
    write_volume(
        sitk.GetImageFromArray(maps["GM"].astype(np.float32)),
        cohort.path("sub-a", "label-GM_probseg", "atlas"),
    )
    assert tissue_maps("sub-a", cohort, grid) is None  # one map says nothing
    # kept in bytes
    write_volume(
        sitk.GetImageFromArray(np.rint(255 * maps["WM"]).astype(np.uint8)),
        cohort.path("sub-a", "label-WM_probseg", "atlas"),
    )
    two = tissue_maps("sub-a", cohort, grid)
    np.testing.assert_allclose(two[2], 1 - two[0] - two[1], atol=1e-6)
    np.testing.assert_allclose(two[1], maps["WM"], atol=1 / 255)
    write_volume(
        sitk.GetImageFromArray(maps["CSF"].astype(np.float32)),
        cohort.path("sub-a", "label-CSF_probseg", "atlas"),
    )
    np.testing.assert_allclose(
        tissue_maps("sub-a", cohort, grid)[2], maps["CSF"], atol=1e-6
    )
    assert segment_patient("sub-a", cohort)["maps"] is True
    left, _, record = segment_cohort(cohort, jobs=1)
    assert record["tissue_maps"].tolist() == [True]
    # as scanned stays as scanned
    assert (
        left.space == "atlas"
        and left.mask_method == raw.mask_method
        and left.mask_source.startswith("semiautomatic")
    )
    assert left.using(None).mask_source == "truth"
    wide = sitk.GetImageFromArray(maps["CSF"].astype(np.float32))
    wide.SetSpacing((2, 2, 2))
    write_volume(wide, cohort.path("sub-a", "label-CSF_probseg"))
    with pytest.raises(PatientError, match="not on one grid"):
        tissue_maps("sub-a", cohort, grid)
    for name in maps:
        write_volume(
            sitk.GetImageFromArray(np.zeros(brain.shape, np.float32)),
            cohort.path("sub-a", f"label-{name}_probseg", "atlas"),
        )
    with pytest.raises(PatientError, match="tissue maps are empty"):
        segment_patient("sub-a", cohort)


def test_agreement_is_that_of_the_statistics():
    "Two implementations, one answer."
    from scipy import ndimage

    from glioma_repro.statistics.masks import mask_measures

    blob = ndimage.gaussian_filter(
        np.random.default_rng(2).normal(size=(12, 40, 44)), 3
    )
    for one, other in (
        (blob > 0.02, np.roll(blob, 2, 1) > 0.018),
        (blob > 0.03, blob > 0.01),
    ):
        ours, theirs = (
            agreement(one, other, (3.0, 1.0, 0.8)),
            mask_measures(other, one, (3.0, 1.0, 0.8)),
        )
        for mine, name in (
            ("Dice", "dice"),
            ("volumetric similarity", "volumetric_similarity"),
            ("Hausdorff distance", "hausdorff"),
            ("95 % Hausdorff distance", "hausdorff_95"),
        ):
            assert np.isclose(ours[mine], theirs[name], atol=1e-5), (
                mine,
                ours[mine],
                theirs[name],
            )


def test_real_slices():
    """On real slices the contour agrees better with the manual mask than the rough
    region that it came from.
    """
    folder = real_data()
    source = None if folder is None else folder / "kaggle_3m" / "TCGA_DU_5871_19941206"
    if source is None or not source.is_dir():
        pytest.skip("no real slices: set GLIOMA_DATA to the folder with kaggle_3m")
    from skimage.io import imread

    number = {
        path: int(path.stem.rsplit("_", 1)[1])
        for path in source.glob("*.tif")
        if not path.stem.endswith("_mask")
    }
    files = sorted(number, key=number.get)
    # T1, FLAIR, T1 post-contrast
    images = np.stack([imread(path) for path in files]).astype(np.float32)
    truth = (
        np.stack([imread(path.with_name(path.stem + "_mask.tif")) for path in files])
        > 0
    )
    volumes = images.transpose(3, 0, 1, 2)[[1, 2]]
    region = simulate_region(truth, 6, "real")
    found, _ = segment_slices(
        volumes, region, (volumes > 20).any(0), bright=False, reach=0
    )
    dice = agreement(found[region.slice].mask, truth[region.slice])["Dice"]
    assert (
        dice > 0.85
        and dice > agreement(region.mask(), truth[region.slice])["Dice"] + 0.1
    )


def test_editor_writes_what_the_step_reads(tmp_path):
    "What is drawn in the widget is what `segment_patient` starts from."
    pytest.importorskip("ipympl", reason="the region editor needs ipympl")
    from glioma_repro.images.region_editor import RegionEditor

    cohort = _cohort(
        tmp_path, {"sub-a": _picture([2, 3, 4]), "sub-b": _picture([1, 2, 3])}
    )
    editor = RegionEditor(cohort)
    editor.patient.value = "sub-b"
    editor.slice.value = 2
    editor.polygon = [(33, 16), (56, 16), (56, 39), (33, 39)]
    editor.buttons["Shrink"].click()
    assert (
        "pixels on slice 2" in editor.message.value
        and editor.frame.max == len(editor.frames) - 1
    )
    assert len(editor.polygon) == 4  # moving along the frames keeps the polygon
    editor.buttons["Save"].click()
    found = segment_patient("sub-b", cohort)
    assert found["region"].source == "drawn" and found["region"].slice == 2
    assert (found["slices"][2].mask == editor.results[2].mask).all()
    editor.patient.value = "sub-a"
    editor.buttons["Shrink"].click()
    assert "at least 3" in editor.message.value
    editor.patient.value = "sub-b"
    assert editor.polygon == found["region"].polygon  # drawn once, there again


def test_an_image_on_another_grid_is_not_resampled_in_silence(tmp_path):
    images, brain, tumour = _picture([2, 3, 4])
    cohort = _cohort(tmp_path, {"sub-a": (images, brain, tumour)})
    other = sitk.GetImageFromArray(images["T2w"])
    other.SetSpacing((1.5, 1.5, 1.5))
    write_volume(other, cohort.path("sub-a", "T2w"))
    with pytest.raises(PatientError, match="not on one grid.*run a recipe first"):
        segment_patient("sub-a", cohort)
