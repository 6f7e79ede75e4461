"""DICOM import: series told apart, half series and mixed folders noted, nothing that
names a person kept.
"""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.features.radiomics import extract_features
from glioma_repro.patients.core import ReproError, read_cohort, write_volume
from glioma_repro.patients.curation import curate
from glioma_repro.patients.dicom import (
    choose_series,
    chosen_series,
    convert_series,
    read_headers,
    series_table,
)
from glioma_repro.patients.scanner import write_dicom
from glioma_repro.patients.curation import import_dicom
from glioma_repro.runs.command import main

T1 = {"0008|103e": "AX T1", "0018|0080": "500", "0018|0081": "10"}
T2 = {"0008|103e": "AX T2", "0018|0080": "4000", "0018|0081": "100"}


@pytest.fixture
def ball():
    """A small volume that is not symmetric."""
    z, y, x = np.indices((10, 24, 20))
    image = sitk.GetImageFromArray((100.0 + 5 * x + 3 * y + 7 * z).astype(np.float32))
    image.SetSpacing((2, 2, 5))
    return image


def test_compressed_and_plain_files_give_the_same_volume(ball, tmp_path):
    made = []
    for compressed in (False, True):
        folder = write_dicom(
            ball, tmp_path / str(compressed), 1, T1, compressed=compressed
        )
        made.append(convert_series(read_headers(folder)["path"].tolist(), "sub-1")[0])
    assert (sitk.GetArrayFromImage(made[0]) == sitk.GetArrayFromImage(made[1])).all()
    for point in ((2.0, 2.0, 5.0), (30.0, 40.0, 40.0)):
        assert (
            abs(
                made[0][made[0].TransformPhysicalPointToIndex(point)]
                - ball[ball.TransformPhysicalPointToIndex(point)]
            )
            < 1.5
        )


def test_half_a_series_is_passed_over_and_said(ball, tmp_path):
    write_dicom(ball, tmp_path / "d", 1, T1)
    write_dicom(ball, tmp_path / "d", 2, T2)
    for number in (4, 5):
        (tmp_path / "d" / f"002_{number:04d}.dcm").unlink()
    cohort = import_dicom(tmp_path / "d", tmp_path / "bids", jobs=1)
    assert cohort.sequences(cohort.ids[0]) == ["T1w"]
    assert "half a series: 2 slices" in cohort.problems["problem"][0]


def test_two_series_with_one_number_stay_two(ball, tmp_path):
    write_dicom(ball, tmp_path / "a", 1, T1)
    write_dicom(ball, tmp_path / "b", 1, T2 | {"0020|000e": "1.2.3.4.5"})
    table = series_table(read_headers(tmp_path))
    assert (
        len(table) == 2
        and set(table["sequence"]) == {"T1w", "T2w"}
        and (table["problem"] == "").all()
    )


def test_two_patients_in_one_folder_are_told_apart(ball, tmp_path):
    write_dicom(ball, tmp_path / "d", 1, T1, patient="ONE^A")
    write_dicom(ball, tmp_path / "d", 2, T1, patient="TWO^B")
    cohort = import_dicom(tmp_path / "d", tmp_path / "bids", jobs=1)
    assert cohort.ids == ["sub-ONEA", "sub-TWOB"]
    assert "2 patients lie in this one folder" in cohort.problems["problem"][0]


def test_the_finest_axial_3d_series_is_chosen():
    row = dict(
        patient="1",
        study="1",
        description="",
        sequence="T1w",
        why="",
        files=20,
        thickness=5.0,
        axial=True,
        problem="",
        is_3d=False,
        in_plane=0.9,
        echo_time=10.0,
    )
    table = pd.DataFrame(
        [
            row | dict(series=name, number=name) | change
            for name, change in {
                "1": {},
                "2": dict(in_plane=0.5),
                "3": dict(is_3d=True),
                "4": dict(is_3d=True, in_plane=0.4, axial=False),
            }.items()
        ]
    )
    assert choose_series(table).set_index("number")["chosen"].tolist() == [
        False,
        False,
        True,
        False,
    ]
    flat = choose_series(table[~table["is_3d"]].reset_index(drop=True))
    assert flat.set_index("number")["chosen"].tolist() == [False, True]


def test_the_next_best_series_takes_the_place_of_one_that_cannot_be_converted(
    ball, tmp_path
):
    # slices of two sizes: no volume
    for part, image in {"a": ball[:, :, :5], "b": ball[:, :12, 5:]}.items():
        write_dicom(image, tmp_path / part, 1, T1 | {"0018|0023": "3D"})
    write_dicom(ball, tmp_path / "c", 2, T1)
    cohort = import_dicom(tmp_path, tmp_path / "bids", jobs=1)
    table = chosen_series(cohort).set_index("number")
    assert table["chosen"].to_dict() == {"1": False, "2": True}
    assert (
        "dcm2niix made 2 volumes" in table.loc["1", "choice"]
        and cohort.problems["problem"].str.startswith("series 1: passed over").any()
    )
    assert (
        sitk.GetArrayFromImage(cohort.image(cohort.ids[0], "T1w")).max()
        == sitk.GetArrayFromImage(ball).max()
    )


def test_files_that_are_cut_off_are_said(ball, tmp_path):
    write_dicom(ball, tmp_path / "d", 1, T1)
    write_dicom(ball, tmp_path / "e", 2, T2)
    for path in (tmp_path / "e").iterdir():
        path.write_bytes(path.read_bytes()[:-500])
    cohort = import_dicom(tmp_path, tmp_path / "bids", jobs=1)
    assert cohort.sequences(cohort.ids[0]) == ["T1w"]
    assert cohort.problems.values.tolist() == [
        [
            "e",
            "10 DICOM files of this folder cannot be read; are they cut off? "
            "download them again",
        ]
    ]


def test_of_two_echoes_in_one_series_the_second_is_the_t2w(ball, tmp_path):
    for echo, (te, scale) in {1: (20, 1), 2: (90, 2)}.items():
        write_dicom(
            ball * scale,
            tmp_path / "d" / str(echo),
            7,
            T2 | {"0018|0081": str(te), "0018|0086": str(echo), "0008|103e": "PD/T2"},
        )
    cohort = import_dicom(tmp_path / "d", tmp_path / "bids", jobs=1)
    assert (
        sitk.GetArrayFromImage(cohort.image(cohort.ids[0], "T2w")).max()
        == 2 * sitk.GetArrayFromImage(ball).max()
    )
    assert chosen_series(cohort)["chosen"].tolist() == [False, True]


def test_only_a_changed_patient_is_imported_again(ball, tmp_path):
    for name in ("ONE^A", "TWO^B"):
        write_dicom(ball, tmp_path / "d" / name[:3], 1, T1, patient=name)
    first = import_dicom(tmp_path / "d", tmp_path / "bids", jobs=1)
    before = {one: first.path(one, "T1w").stat().st_mtime_ns for one in first.ids}
    write_dicom(ball * 2, tmp_path / "d" / "TWO", 1, T1, patient="TWO^B")
    second = import_dicom(tmp_path / "d", tmp_path / "bids", jobs=1)
    assert [
        second.path(one, "T1w").stat().st_mtime_ns == before[one] for one in second.ids
    ] == [True, False]
    assert (
        sitk.GetArrayFromImage(second.image("sub-TWOB", "T1w")).max()
        > 1.9 * sitk.GetArrayFromImage(second.image("sub-ONEA", "T1w")).max()
    )


def test_nothing_that_names_a_person_is_kept(ball, tmp_path):
    write_dicom(ball, tmp_path / "d", 1, T1, patient="SECRET^NAME")
    cohort = import_dicom(tmp_path / "d", tmp_path / "bids", jobs=1)
    sidecar = json.loads(
        cohort.path(cohort.ids[0], "T1w", ending=".json").read_text(encoding="utf-8")
    )
    text = json.dumps(sidecar)
    assert not any(
        word in text
        for word in ("SECRET", "hospital", "SCANNER7", "12345", "1960", "2020")
    )
    header = sitk.ImageFileReader()
    header.SetFileName(str(cohort.path(cohort.ids[0], "T1w")))
    header.ReadImageInformation()
    values = " ".join(header.GetMetaData(key) for key in header.GetMetaDataKeys())
    assert not any(
        word in values for word in ("SECRET", "hospital", "SCANNER7", "1960", "2020")
    )


def test_one_command_from_own_scans_and_labels_to_a_cohort(ball, tmp_path, capsys):
    """Before, no command took a person's own DICOM files, and a second import wrote
    over what he had added to the table.
    """
    for name in ("ONE^A", "TWO^B"):
        write_dicom(ball, tmp_path / "d" / name[:3], 1, T1, patient=name)
    labels = tmp_path / "labels.csv"
    labels.write_text("participant_id,idh,age\nONEA,mutant,44\nTHREE,wildtype,60\n")
    call = ["curate", "mine", "--dicom", str(tmp_path / "d"), "--labels", str(labels)]
    call += ["--out", str(tmp_path / "cohorts"), "--jobs", "1"]
    assert main(call) == 0
    cohort = read_cohort(tmp_path / "cohorts" / "mine")
    people = cohort.participants.set_index("participant_id")
    assert people["idh"].fillna("?").to_dict() == {
        "sub-ONEA": "mutant",
        "sub-TWOB": "?",
    }
    said = dict(cohort.problems.to_numpy().tolist())
    assert "no row" in said["sub-TWOB"] and "no images" in said["sub-THREE"]
    table = cohort.folder / "participants.tsv"
    before = table.stat().st_mtime_ns
    assert main(call) == 0 and table.stat().st_mtime_ns == before
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("mutant", "wildtype"), encoding="utf-8")
    assert main(call) == 0
    assert read_cohort(cohort.folder).labels("idh").tolist()[0] == "wildtype"
    # nobody has a mask: what needs one says so
    assert cohort.mask_source is None
    assert not (cohort.folder / "derivatives" / "manual").exists()
    with pytest.raises(ReproError, match="mine has no tumour masks"):
        extract_features(cohort, jobs=1)
    # a mask that a person draws is found where the guide says
    image = cohort.image("sub-ONEA", "T1w")
    mask = sitk.Cast(image > image[5, 5, 5], sitk.sitkUInt8)
    place = cohort.folder / "derivatives/manual/sub-ONEA/anat"
    place.mkdir(parents=True)
    write_volume(mask, place / "sub-ONEA_label-tumor_mask.nii.gz")
    assert read_cohort(cohort.folder).mask("sub-ONEA").GetSize() == image.GetSize()
    imported = import_dicom(tmp_path / "d", cohort.folder, "mine", 1, labels)
    assert imported.mask("sub-ONEA").GetSize() == image.GetSize()
    # the folder is his: nothing is written there
    assert [path.name for path in place.parents[1].iterdir()] == ["sub-ONEA"]


@pytest.mark.parametrize(
    "name, table, said",
    [
        ("../evil", None, "cannot be a folder's"),
        ("brats", None, "a public download's name"),
        ("mine", "participant_id,idh\nONEA,maybe\n", "labels.csv"),
        ("mine", "patient,idh\nONEA,mutant\n", "participant_id"),
        ("mine", "participant_id\nONEA\nONE^A\n", "keep one row a patient"),
    ],
)
def test_own_scans_with_a_wrong_word_are_one_line(
    ball, tmp_path, capsys, name, table, said
):
    write_dicom(ball, tmp_path / "d", 1, T1, patient="ONE^A")
    call = ["curate", name, "--dicom", str(tmp_path / "d"), "--jobs", "1"]
    call += ["--out", str(tmp_path / "cohorts")]
    if table is not None:
        (tmp_path / "labels.csv").write_text(table)
        call += ["--labels", str(tmp_path / "labels.csv")]
    assert main(call) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("glioma-repro: ") and said in told


def test_a_folder_without_dicom_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(ReproError, match="no DICOM file"):
        import_dicom(tmp_path, tmp_path / "bids", jobs=1)


def test_brainix_is_curated(downloads, tmp_path):
    if not (downloads / "brainix_dicom").is_dir():
        pytest.skip("brainix_dicom is not among the downloads")
    cohort = curate("brainix", downloads / "brainix_dicom", tmp_path, jobs=1)
    assert cohort.sequences(cohort.ids[0]) == ["T1w", "T2w", "FLAIR"]
    image = cohort.image(cohort.ids[0], "FLAIR")
    assert image.GetSize() == (288, 288, 22)
    assert sitk.GetArrayFromImage(image).max() > 0
