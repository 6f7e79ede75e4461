"""Brain masks, bias field and normalisation: known answers, real masks, bad input."""

import numpy as np
import pytest
import SimpleITK as sitk

from glioma_repro.brain import NORMALISATION, bias_field, brain_mask, dice, normalise, volume_ml
from glioma_repro.core import PatientError, ReproError
from glioma_repro.phantom import make_phantom
from glioma_repro.registration import read_sequence


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """One phantom head: image and true brain."""
    cohort = make_phantom(tmp_path_factory.mktemp("head") / "p", patients=1, sites=1, voxel_size=4, jobs=1)
    return cohort.image(cohort.ids[0], "T1w"), cohort.image(cohort.ids[0], "label-brain_mask", "truth")


def test_the_atlas_finds_the_phantoms_brain(head):
    mask, notes = brain_mask(head[0], "atlas", "sub-1")
    assert dice(mask, head[1]) > 0.92
    assert notes["volume_ml"] == pytest.approx(volume_ml(mask))


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


def test_own_masks_must_share_the_grid(head, tmp_path):
    sitk.WriteImage(head[1][:-1, :, :], str(tmp_path / "sub-1_mask.nii.gz"))
    with pytest.raises(PatientError, match="sub-1_mask.nii.gz"):
        brain_mask(head[0], str(tmp_path), "sub-1")
    sitk.WriteImage(head[1], str(tmp_path / "sub-1_mask.nii.gz"))
    assert dice(brain_mask(head[0], str(tmp_path), "sub-1")[0], head[1]) == 1
    with pytest.raises(PatientError, match="0 brain masks"):
        brain_mask(head[0], str(tmp_path), "sub-2")


def test_n4_survives_a_mask_with_zeros(head):
    """Voxels of value zero in the mask stop N4 silently; here they are left out, and a field comes out."""
    image, mask = head
    generous = sitk.BinaryDilate(mask, [3, 3, 3])
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    array[(sitk.GetArrayFromImage(generous) > 0) & (sitk.GetArrayFromImage(mask) == 0)] = 0
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
    first, second = (sitk.GetArrayFromImage(normalise(one, mask, tumour=tumour, **NORMALISATION[way])) for one in (image, image * 3.0))
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
    assert dice(mask, sitk.ReadImage(str(folder / "hdbet_masks" / "mask_t1.nii.gz"))) > 0.9
