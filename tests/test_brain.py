"""Brain masks, bias field and normalisation: known answers, real masks, bad input."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk

from glioma_repro.images.brain import (
    N4_SETTINGS,
    NORMALISATION,
    bias_field,
    brain_mask,
    image_dice,
    normalise,
)
from glioma_repro.patients.core import PatientError, ReproError
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.images.registration import read_sequence


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """One phantom head: image and true brain."""
    cohort = make_phantom(
        tmp_path_factory.mktemp("head") / "p", patients=1, sites=1, voxel_size=4, jobs=1
    )
    return cohort.image(cohort.ids[0], "T1w"), cohort.image(
        cohort.ids[0], "label-brain_mask", "truth"
    )


def test_no_brain_is_an_error_that_names_the_patient():
    noise = sitk.GetImageFromArray(np.zeros((40, 40, 40), np.float32))
    with pytest.raises(PatientError, match="sub-9"):
        brain_mask(noise, "atlas", "sub-9")


def test_a_method_that_is_not_installed_says_what_to_do(head, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ReproError, match="pip install hd-bet"):
        brain_mask(head[0], "hd-bet", "sub-1")
    with pytest.raises(ReproError, match="FreeSurfer"):
        brain_mask(head[0], "synthstrip", "sub-1")


def stand_in(folder, name, script):
    """A small program on PATH in place of a network's."""
    program = folder / name
    program.write_text(
        f"#!{sys.executable}\nimport sys, shutil\nwords = sys.argv[1:]\n{script}\n"
    )
    program.chmod(0o755)


HD_BET = """
assert words[0::2][:3] == ["-i", "-o", "-device"] and words[5] == "cpu" and words[6:] == ["--disable_tta", "--save_bet_mask"], words
shutil.copy({mask!r}, words[3].removesuffix(".nii.gz") + "_bet.nii.gz")
"""
SYNTHSTRIP = """
assert words[0::2] == ["-i", "-m"], words
shutil.copy({mask!r}, words[3])
"""


@pytest.mark.parametrize(
    "method, program, script",
    [("hd-bet", "hd-bet", HD_BET), ("synthstrip", "mri_synthstrip", SYNTHSTRIP)],
)
def test_a_network_is_called_as_its_manual_says_and_its_mask_is_taken(
    head, tmp_path, monkeypatch, method, program, script
):
    """hd-bet 2 writes OUT_bet.nii.gz for -o OUT.nii.gz; mri_synthstrip writes what -m
    names.
    """
    sitk.WriteImage(head[1], str(tmp_path / "mask.nii.gz"))
    stand_in(tmp_path, program, script.format(mask=str(tmp_path / "mask.nii.gz")))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    mask, notes = brain_mask(head[0], method, "sub-1")
    assert image_dice(mask, head[1]) == 1
    assert notes["method"] == program and notes["flags"] == []


@pytest.mark.parametrize(
    "script, message",
    [
        ("sys.exit('no memory left')", "failed: no memory left"),
        ("pass", "wrote no mask"),
        (SYNTHSTRIP, "empty"),
    ],
)
@pytest.mark.parametrize(
    "method, program", [("hd-bet", "hd-bet"), ("synthstrip", "mri_synthstrip")]
)
def test_a_network_that_fails_names_the_patient(
    head, tmp_path, monkeypatch, method, program, script, message
):
    sitk.WriteImage(head[1] * 0, str(tmp_path / "mask.nii.gz"))
    script = HD_BET if script == SYNTHSTRIP and method == "hd-bet" else script
    stand_in(
        tmp_path,
        program,
        script.replace("{mask!r}", repr(str(tmp_path / "mask.nii.gz"))),
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(PatientError, match=f"sub-1.*{message}"):
        brain_mask(head[0], method, "sub-1")


def test_fsls_bet_is_preferred_where_it_is_installed(head, tmp_path, monkeypatch):
    """FSL's bet IN OUT -m -n -f FRACTION writes OUT_mask.nii.gz."""
    stand_in(
        tmp_path,
        "bet",
        "assert words[2:5] == ['-m', '-n', '-f'], words\nshutil.copy(words[0], "
        "words[1] + '_mask.nii.gz')",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    mask, notes = brain_mask(head[0], "bet", "sub-1")
    bright = sitk.GetArrayViewFromImage(head[0]) > 0
    assert notes["method"] == "bet" and notes["fraction"] == 0.5
    # the stand-in's mask: what is not zero
    assert notes["volume_ml"] == pytest.approx(bright.sum() * 0.064, rel=0.1)


def test_bet_takes_the_fraction_that_a_paper_names(head, tmp_path, monkeypatch):
    """choi2021's code calls bet with 0.4."""
    stand_in(
        tmp_path,
        "bet",
        "assert words[5] == '0.4', words\nshutil.copy(words[0], words[1] + "
        "'_mask.nii.gz')",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert brain_mask(head[0], "bet", "sub-1", fraction=0.4)[1]["fraction"] == 0.4


def test_n4_comes_as_simpleitk_has_it(head):
    """vandervoort2022's code sets nothing: the field is that of the filter with its own
    defaults, in the mask.
    """
    image, mask = (sitk.Shrink(part, [2, 2, 2]) for part in head)
    field = sitk.GetArrayFromImage(
        bias_field(image, mask, **N4_SETTINGS["simpleitk"], participant_id="sub-1")
    )
    theirs = sitk.N4BiasFieldCorrectionImageFilter()
    theirs.Execute(sitk.Cast(image, sitk.sitkFloat32), mask)
    log = sitk.GetArrayFromImage(
        theirs.GetLogBiasFieldAsImage(sitk.Cast(image, sitk.sitkFloat32))
    )
    inside = sitk.GetArrayFromImage(mask) > 0
    # ours lays its spline over the mask's box
    assert np.corrcoef(field[inside], log[inside])[0, 1] > 0.9


def test_bet_finds_the_phantoms_brain(head):
    pytest.importorskip(
        "brainextractor",
        reason="brainextractor is not installed: pip install brainextractor",
    )
    mask, notes = brain_mask(head[0], "bet", "sub-1", "T1w")
    assert image_dice(mask, head[1]) > 0.9


def test_own_masks_must_share_the_grid(head, tmp_path):
    sitk.WriteImage(head[1][:-1, :, :], str(tmp_path / "sub-1_mask.nii.gz"))
    with pytest.raises(PatientError, match="sub-1_mask.nii.gz"):
        brain_mask(head[0], str(tmp_path), "sub-1")
    sitk.WriteImage(head[1], str(tmp_path / "sub-1_mask.nii.gz"))
    assert image_dice(brain_mask(head[0], str(tmp_path), "sub-1")[0], head[1]) == 1
    with pytest.raises(PatientError, match="0 brain masks"):
        brain_mask(head[0], str(tmp_path), "sub-2")
    # another patient's, empty: it was taken for sub-1's
    sitk.WriteImage(head[1] * 0, str(tmp_path / "sub-10_mask.nii.gz"))
    assert image_dice(brain_mask(head[0], str(tmp_path), "sub-1")[0], head[1]) == 1
    (tmp_path / "sub-1_mask.nii.gz").unlink()
    with pytest.raises(PatientError, match="0 brain masks"):
        brain_mask(head[0], str(tmp_path), "sub-1")


@pytest.mark.parametrize("suffix", ["T1w", "T2w"])
def test_a_tumour_is_not_taken_for_bias(tmp_path, suffix):
    """A scan without any field, but with a tumour: what is found must be small, white
    matter apart from noise flat.
    """
    cohort = make_phantom(
        tmp_path / "p",
        patients=1,
        sites=1,
        voxel_size=3,
        bias=0,
        full_truth=True,
        jobs=1,
    )
    one = cohort.ids[0]
    brain = cohort.image(one, "label-brain_mask", "truth")
    white = sitk.GetArrayFromImage(cohort.image(one, "label-wm_probseg", "truth")) > 240
    found = sitk.GetArrayFromImage(
        bias_field(
            cohort.image(one, suffix), brain, **N4_SETTINGS["fast"], participant_id=one
        )
    )
    assert found[white].std() < 0.03


def test_the_field_does_not_depend_on_the_field_of_view(head):
    image, mask = head
    wide = [
        sitk.ConstantPad(sitk.Cast(part, sitk.sitkFloat32), [8, 0, 4], [0, 12, 4])
        for part in head
    ]
    found = bias_field(
        wide[0],
        sitk.Cast(wide[1], sitk.sitkUInt8),
        participant_id="sub-1",
        **N4_SETTINGS["fast"],
    )
    inside = sitk.GetArrayFromImage(mask) > 0
    again = sitk.GetArrayFromImage(
        sitk.Resample(found, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    )
    plain = sitk.GetArrayFromImage(
        bias_field(image, mask, participant_id="sub-1", **N4_SETTINGS["fast"])
    )
    np.testing.assert_allclose(again[inside], plain[inside], atol=0.01)


def test_n4_survives_a_mask_with_zeros(head):
    """Voxels of value zero in the mask stop N4 silently; here they are left out, and a
    field comes out.
    """
    image, mask = head
    generous = sitk.BinaryDilate(mask, [3, 3, 3])
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    array[
        (sitk.GetArrayFromImage(generous) > 0) & (sitk.GetArrayFromImage(mask) == 0)
    ] = 0
    holed = sitk.GetImageFromArray(array)
    holed.CopyInformation(image)
    field = sitk.GetArrayFromImage(bias_field(holed, generous, participant_id="sub-1"))
    plain = sitk.GetArrayFromImage(bias_field(image, mask, participant_id="sub-1"))
    inside = sitk.GetArrayFromImage(mask) > 0
    assert field[inside].std() > 0.01
    assert np.corrcoef(field[inside], plain[inside])[0, 1] > 0.9


@pytest.mark.parametrize("way", NORMALISATION)
def test_normalisation_ignores_gain(head, way):
    image, mask = sitk.Cast(head[0], sitk.sitkFloat32), head[1]
    tumour = sitk.Image(mask.GetSize(), sitk.sitkUInt8)
    tumour.CopyInformation(mask)
    first, second = (
        sitk.GetArrayFromImage(
            normalise(one, mask, tumour=tumour, **NORMALISATION[way])
        )
        for one in (image, image * 3.0)
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_an_empty_region_is_an_error(head):
    empty = sitk.Image(head[1].GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(head[1])
    with pytest.raises(PatientError, match="sub-1"):
        normalise(head[0], empty, participant_id="sub-1")


def test_the_brain_of_a_real_scan_agrees_with_hd_bet(downloads):
    folder = downloads / "tcga_fg_6692_raw"
    if not folder.is_dir():
        pytest.skip("tcga_fg_6692_raw is not among the downloads")
    image = read_sequence(next(folder.glob("T1_AX*.nii.gz")), "sub-FG6692")
    mask, _ = brain_mask(image, "atlas", "sub-FG6692")
    assert (
        image_dice(mask, sitk.ReadImage(str(folder / "hdbet_masks" / "mask_t1.nii.gz")))
        > 0.93
    )
