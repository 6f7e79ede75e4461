"""Curation: every kind of broken input on a made-up archive, interruption, and the real
slices where they are.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from glioma_repro.images.pictures import review_pictures
from glioma_repro.patients import curation
from glioma_repro.patients import store as store_module
from glioma_repro.patients.cohort import (
    check_no_leak,
    flow_table,
    manifest_of,
    patient_splits,
    split_external,
)
from glioma_repro.patients.core import (
    LeakError,
    ReproError,
    SchemaError,
    generator,
    read_cohort,
    real_data,
    sha256_of,
    write_volume,
)
from glioma_repro.patients.curation import curate, show_patients, summary, unpack

NAME = "tcga-lgg-slices"


# --- a made-up archive in the layout of the real one ---


def fake_patient(folder, barcode, slices=4, size=16, repeat=(), date="19990101"):
    name = f"{barcode.replace('-', '_')}_{date}"
    (folder / name).mkdir(parents=True)
    draw = generator("fake", barcode)
    for number in range(1, slices + 1):
        picture = draw.integers(1, 200, (size, size, 3)).astype(np.uint8)
        for channel in repeat:
            picture[..., channel] = picture[..., 1]
        mask = np.zeros((size, size), np.uint8)
        mask[4:9, 5:11] = 255 * (number == 2)
        Image.fromarray(picture).save(folder / name / f"{name}_{number}.tif")
        Image.fromarray(mask).save(folder / name / f"{name}_{number}_mask.tif")
    return folder / name


def table_row(barcode, **other):
    return {
        "Patient ID": barcode,
        "Diagnosis Age": "40.0",
        "Sex": "Female",
        "IDH status": "Mutant",
        "IDH-1P10Q Subtype": "Codel",
        "MGMT promoter status": "NA",
        "Neoplasm Histologic Grade": "G3",
        "Neoplasm Histologic Type Name": "oligodendroglioma",
        "Overall Survival (Months)": "11.8",
        "Overall Survival Status": "1:DECEASED",
        "ATRX status": "WT",
        "TERT promoter status": "NA",
        "Chr 7 gain/Chr 10 loss": "No combined CNA",
    } | other


def write_clinical(folder, rows):
    pd.DataFrame(rows).to_csv(
        folder / "lgggbm_tcga_pub_clinical_data.tsv", sep="\t", index=False
    )


BARCODES = ["TCGA-CS-0001", "TCGA-DU-0002", "TCGA-HT-A003"]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "download"
    for barcode in BARCODES:
        fake_patient(folder / "kaggle_3m", barcode)
    write_clinical(folder, [table_row(one) for one in [*BARCODES, "TCGA-ZZ-9999"]])
    return folder


def first_of(source):
    return source / "kaggle_3m" / "TCGA_CS_0001_19990101"


def curated(source, **more):
    return curate(NAME, source, source.parent / "out", jobs=1, **more)


# --- what a whole archive becomes ---


def test_the_stack_is_the_source(source):
    # 10 comes after 9, not after 1
    fake_patient(source / "kaggle_3m", "TCGA-DU-0012", slices=12)
    cohort = curated(source)
    folder = source / "kaggle_3m" / "TCGA_DU_0012_19990101"
    for channel, suffix in enumerate(["T1w", "FLAIR", "ce-gadolinium_T1w"]):
        volume = sitk.GetArrayFromImage(cohort.image("sub-TCGADU0012", suffix))
        assert volume.dtype == np.uint8 and volume.shape == (12, 16, 16)
        for number in range(1, 13):
            assert (
                volume[number - 1]
                == np.asarray(Image.open(folder / f"{folder.name}_{number}.tif"))[
                    ..., channel
                ]
            ).all()
    image = cohort.image("sub-TCGADU0012", "FLAIR")
    mask = sitk.GetArrayFromImage(cohort.mask("sub-TCGADU0012", like=image))
    assert mask.sum() == 30 and set(np.unique(mask)) == {0, 1} and mask[1].sum() == 30
    assert image.GetSpacing() == (1, 1, 1) and image.GetDirection() == (
        1,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        1,
    )
    sidecar = json.loads(
        (
            cohort.folder / "sub-TCGADU0012" / "anat" / "sub-TCGADU0012_FLAIR.json"
        ).read_text(encoding="utf-8")
    )
    assert (
        sidecar["VoxelSizeKnown"] is False
        and sidecar["SourceChannel"] == 1
        and "left" in sidecar["OrientationComment"]
    )


def test_the_table_and_its_dictionary_are_complete(source):
    cohort = curated(source)
    row = cohort.participants.set_index("participant_id").loc["sub-TCGACS0001"]
    assert row[
        [
            "tcga_barcode",
            "site",
            "age",
            "sex",
            "idh",
            "codel_1p19q",
            "who_grade",
            "death",
            "atrx",
            "chr7_gain_chr10_loss",
        ]
    ].tolist() == [
        "TCGA-CS-0001",
        "CS",
        40,
        "female",
        "mutant",
        "codeleted",
        3,
        1,
        "wildtype",
        "absent",
    ]
    assert (
        row["survival_days"] == round(11.8 * 365.25 / 12)
        and pd.isna(row["mgmt"])
        and len(cohort) == 3
    )
    dictionary = json.loads(
        (cohort.folder / "participants.json").read_text(encoding="utf-8")
    )
    assert set(dictionary) == set(
        cohort.participants
    ) and "kept from the source" not in str(dictionary)
    again = read_cohort(cohort.folder)
    assert (
        not again.voxel_size_known
        and again.mask_method == "manual"
        and again.provenance == cohort.provenance
    )
    pd.testing.assert_frame_equal(again.participants, cohort.participants)
    assert (
        again.provenance["survival"]
        and again.provenance["tables"]["lgggbm_tcga_pub_clinical_data.tsv"][
            "as_in_manifest"
        ]
        is False
    )


@pytest.mark.parametrize(
    "repeat,sequences",
    [
        ((0,), ["ce-gadolinium_T1w", "FLAIR"]),
        ((2,), ["T1w", "FLAIR"]),
        ((0, 2), ["FLAIR"]),
    ],
)
def test_a_repeated_flair_is_a_missing_sequence(source, repeat, sequences):
    fake_patient(source / "kaggle_3m", "TCGA-EZ-0009", repeat=repeat)
    assert curated(source).sequences("sub-TCGAEZ0009") == sequences


def test_who2021_and_markers_come_from_the_second_table(source):
    columns = {
        "case_id": "TCGA-CS-0001",
        "ATRX status": "Mutant",
        "TERT promoter status": "Mutant",
        "Chr 7 gain/Chr 10 loss": "unknown",
        "CDKN2A_CNV": "-1",
        "CDKN2B_CNV": "-2",
        "WHO_CNS5_diagnosis": "Astrocytoma, IDH-mutant. Grade 4.",
    }
    # one row a slide
    pd.DataFrame([columns, columns]).to_csv(
        source / "tcga_2021_who_labels.csv", index=False
    )
    cohort = curated(source)
    row = cohort.participants.set_index("participant_id").loc["sub-TCGACS0001"]
    assert row[["who2021", "cdkn2ab", "tert_promoter", "atrx"]].tolist() == [
        "Astrocytoma, IDH-mutant, CNS WHO grade 4",
        "deleted",
        "mutant",
        "wildtype",
    ]
    assert cohort.provenance["tables"]["tcga_2021_who_labels.csv"]["disagreements"] == {
        "atrx": 1
    }
    pd.DataFrame([columns, columns | {"ATRX status": "WT"}]).to_csv(
        source / "tcga_2021_who_labels.csv", index=False
    )
    with pytest.raises(
        SchemaError, match="sub-TCGACS0001 stands in it with different atrx"
    ):
        curated(source)


def test_clusters_of_data_csv_are_never_carried(source):
    pd.DataFrame(
        dict(Patient=["TCGA_CS_0001", "TCGA_FG_0077"], COCCluster=[3, 1], gender=[2, 1])
    ).to_csv(source / "kaggle_3m" / "data.csv", index=False)
    cohort = curated(source)
    assert not [
        name for name in cohort.participants if "luster" in name or name == "gender"
    ]
    flow = [
        ["images present (listed in data.csv)", 4, ["sub-TCGAFG0077"]],
        ["FLAIR present", 3, []],
        ["tumour mask present", 3, []],
    ]
    assert (
        [list(step) for step in cohort.flow]
        == flow
        == [list(step) for step in read_cohort(cohort.folder).flow]
    )


def test_jobs_do_not_change_a_byte(source):
    one = curated(source)
    two = curate(NAME, source, source.parent / "parallel", jobs=2)

    def hashes(cohort):
        return {
            path.relative_to(cohort.folder): sha256_of(path)
            for path in cohort.folder.rglob("*")
            if path.is_file()
        }

    assert hashes(one) == hashes(two) and len(hashes(one)) > 20


# --- broken input: one patient at most, who is named ---


def truncate(first):
    path = first / f"{first.name}_2.tif"
    path.write_bytes(path.read_bytes()[:100])


def no_picture(first):
    (first / f"{first.name}_2.tif").write_text("<html>not found</html>")


def save(first, name, array):
    Image.fromarray(array).save(first / name.format(first.name))


BROKEN = {
    "truncated": (truncate, "_2.tif cannot be read"),
    "a web page": (no_picture, "_2.tif cannot be read"),
    "gap": (
        lambda first: [one.unlink() for one in first.glob("*_3*")],
        "slices 3 are missing",
    ),
    "starts at 2": (
        lambda first: [
            one.unlink()
            for one in [*first.glob("*_1.tif"), *first.glob("*_1_mask.tif")]
        ],
        "slices 1 are missing",
    ),
    "twice": (
        lambda first: shutil.copy(
            first / f"{first.name}_2.tif", first / f"{first.name}_002.tif"
        ),
        "slice 2 stands twice",
    ),
    "no mask": (
        lambda first: (first / f"{first.name}_2_mask.tif").unlink(),
        "slice 2 has no mask",
    ),
    "mask alone": (
        lambda first: shutil.copy(
            first / f"{first.name}_2_mask.tif", first / f"{first.name}_9_mask.tif"
        ),
        "slice 9 has a mask but no picture",
    ),
    "mask of another shape": (
        lambda first: save(first, "{}_2_mask.tif", np.zeros((8, 9), np.uint8)),
        r"mask of slice 2 is \(8, 9\), the picture \(16, 16\)",
    ),
    "slice of another shape": (
        lambda first: save(first, "{}_2.tif", np.zeros((8, 9, 3), np.uint8)),
        r"slice 2 is \(8, 9, 3\)",
    ),
    "grey slice": (
        lambda first: save(first, "{}_1.tif", np.zeros((16, 16), np.uint8)),
        "expected in all",
    ),
    "mask of many values": (
        lambda first: save(
            first, "{}_2_mask.tif", np.arange(256, dtype=np.uint8).reshape(16, 16)
        ),
        "mask holds 256 values",
    ),
    "another name": (
        lambda first: save(first, "thumb.tif", np.zeros((16, 16, 3), np.uint8)),
        "thumb.tif is no slice",
    ),
    "empty folder": (
        lambda first: [one.unlink() for one in first.iterdir()],
        "no slices numbered from 1",
    ),
    "constant volume": (
        lambda first: [
            save(first, "{}" + f"_{number}.tif", np.full((16, 16, 3), 7, np.uint8))
            for number in range(1, 5)
        ],
        "FLAIR has the same value in every voxel",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_patient_is_named_and_the_others_go_on(source, what):
    change, said = BROKEN[what]
    change(first_of(source))
    cohort = curated(source)
    assert cohort.ids == ["sub-TCGADU0002", "sub-TCGAHTA003"]
    assert (
        cohort.problems["participant_id"].tolist() == ["sub-TCGACS0001"]
        and cohort.problems["problem"].str.contains(said).all()
    )
    assert not (cohort.folder / "sub-TCGACS0001").exists()
    assert read_cohort(cohort.folder).problems.equals(cohort.problems.astype("string"))


def test_a_constant_sequence_is_left_out_and_said(source):
    for path in [one for one in first_of(source).iterdir() if "mask" not in one.name]:
        picture = np.asarray(Image.open(path)).copy()
        picture[..., 0] = 0
        Image.fromarray(picture).save(path)
    cohort = curated(source)
    assert (
        cohort.sequences("sub-TCGACS0001") == ["ce-gadolinium_T1w", "FLAIR"]
        and "T1w has the same value" in cohort.problems["problem"][0]
    )


def test_an_empty_mask_keeps_the_patient(source):
    for path in first_of(source).glob("*_mask.tif"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    cohort = curated(source)
    assert len(cohort) == 3 and "mask is empty" in cohort.problems["problem"][0]
    with pytest.raises(ReproError, match="sub-TCGACS0001.*empty"):
        cohort.mask("sub-TCGACS0001")
    # said again though nothing is imported again
    assert curated(source).problems.equals(cohort.problems)


def test_two_exams_of_one_patient(source):
    fake_patient(source / "kaggle_3m", "TCGA-CS-0001", slices=3, date="20010101")
    cohort = curated(source)
    assert (
        len(cohort) == 3 and cohort.image("sub-TCGACS0001", "FLAIR").GetSize()[2] == 4
    )
    assert (
        "two exams (TCGA_CS_0001_19990101, TCGA_CS_0001_20010101)"
        in cohort.problems["problem"][0]
    )


def test_images_without_row_and_rows_without_image(source):
    write_clinical(source, [table_row(one) for one in ["TCGA-CS-0001", "TCGA-ZZ-9999"]])
    cohort = curated(source)
    assert len(cohort) == 3 and cohort.labels("idh").isna().tolist() == [
        False,
        True,
        True,
    ]
    assert (
        cohort.problems["participant_id"].tolist()
        == ["sub-TCGADU0002", "sub-TCGAHTA003"]
        and "no label table" in cohort.problems["problem"][0]
    )


@pytest.mark.parametrize(
    "other,match",
    [
        (
            {"IDH status": "Mutated"},
            "'IDH status': the word 'Mutated' .*sub-TCGACS0001.* mapped are 'WT', "
            "'Mutant'",
        ),
        (
            {"MGMT promoter status": "<script>alert(1)</script>"},
            "the word '<script>alert",
        ),
        ({"Diagnosis Age": "forty"}, "'forty' is no number .for sub-TCGACS0001"),
    ],
)
def test_an_unexpected_word_stops_with_column_and_patient(source, other, match):
    write_clinical(source, [table_row("TCGA-CS-0001", **other)])
    with pytest.raises(SchemaError, match=match):
        curated(source)


def test_html_in_free_text_is_shown_as_text(source):
    write_clinical(
        source,
        [table_row("TCGA-CS-0001", **{"Neoplasm Histologic Type Name": "<img src=x>"})],
    )
    cohort = curated(source)
    assert (
        cohort.participants["histology"][0] == "<img src=x>"
        and "<img" not in cohort._repr_html_()
    )


def test_dangerous_names_lead_nowhere(source):
    write_clinical(
        source,
        [table_row(one) for one in ["TCGA-CS-0001", "../../../etc/passwd", "<b>"]],
    )
    (source / "kaggle_3m" / "..TCGA_CS_0001_19990101").mkdir()
    (source / "kaggle_3m" / "<b>notes").mkdir()
    before = set(source.parent.iterdir())
    cohort = curated(source)
    assert (
        len(cohort) == 3 and cohort.problems["participant_id"].tolist()[0] == "<b>notes"
    )
    assert set(source.parent.iterdir()) - before == {source.parent / "out"}


def test_what_is_missing_is_said(source, tmp_path):
    (source / "lgggbm_tcga_pub_clinical_data.tsv").rename(tmp_path / "table.tsv")
    with pytest.raises(
        ReproError, match="no lgggbm_tcga_pub_clinical_data.tsv below .*cbioportal"
    ):
        curated(source)
    with pytest.raises(ReproError, match="does not exist"):
        curate(NAME, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReproError, match="no folder kaggle_3m"):
        curate(NAME, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReproError, match="file cannot be written .*--out"):
        curate(NAME, source, tmp_path / "file")
    with pytest.raises(ReproError, match="made on the spot"):
        curate("phantom", source, tmp_path / "out")
    with pytest.raises(ReproError, match="no DICOM file below"):
        curate("tcga-gbm", source, tmp_path / "out")


def test_two_different_tables_of_one_name(source):
    (source / "old").mkdir()
    write_clinical(source / "old", [table_row("TCGA-CS-0001", Sex="Male")])
    with pytest.raises(ReproError, match="two different files"):
        curated(source)


def test_nobody_usable(source):
    for one in (source / "kaggle_3m").iterdir():
        truncate(one)
    with pytest.raises(
        ReproError, match="no patient .* could be used; the first: sub-TCGACS0001"
    ):
        curated(source)


# --- again, changed, interrupted ---


def times(folder):
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def test_a_second_call_does_nothing(source, monkeypatch):
    cohort = curated(source)
    before = times(cohort.folder)
    monkeypatch.setattr(curation, "map_patients", None)  # not even called
    again = curated(source)
    assert times(cohort.folder) == before and again.participants.equals(
        cohort.participants
    )
    for path in first_of(source).iterdir():
        os.utime(path)  # touched, not changed
    assert curated(source) and times(cohort.folder) == before


def test_only_what_changed_is_made_again(source):
    cohort = curated(source)
    before = times(cohort.folder)
    save(
        first_of(source),
        "{}_1.tif",
        np.full((16, 16, 3), 9, np.uint8) + np.arange(3, dtype=np.uint8),
    )
    cohort.path("sub-TCGADU0002", "T1w").unlink()  # and one that somebody lost
    curated(source)
    changed = {
        path.name.split("_")[0].removesuffix(".json")
        for path, when in times(cohort.folder).items()
        if before.get(path) != when
    }
    assert {one for one in changed if one.startswith("sub")} == {
        "sub-TCGACS0001",
        "sub-TCGADU0002",
    }
    assert (
        sitk.GetArrayFromImage(cohort.image("sub-TCGACS0001", "FLAIR"))[0, 0, 0] == 10
        and cohort.path("sub-TCGADU0002", "T1w").exists()
    )


def test_a_changed_label_needs_no_import(source, monkeypatch):
    curated(source)
    write_clinical(source, [table_row(one, **{"IDH status": "WT"}) for one in BARCODES])
    monkeypatch.setattr(curation, "map_patients", None)
    assert set(curated(source).labels("idh")) == {"wildtype"} and set(
        read_cohort(source.parent / "out" / NAME).labels("idh")
    ) == {"wildtype"}


# --- archives ---


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:/out.txt", "..\\out.txt"]
)
def test_an_archive_stays_in_its_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("fine.txt", "fine")
        archive.writestr(name, "bad")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    for kind in ("zip", "tar"):
        with pytest.raises(ReproError, match="leads out of the folder"):
            unpack(tmp_path / f"a.{kind}", tmp_path / "folder")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.tar", "a.zip"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_an_archive_holds_no_links(tmp_path, kind):
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(member)
    with pytest.raises(ReproError, match="is a link"):
        unpack(tmp_path / "a.tgz", tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ReproError, match="is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "folder")


def test_curating_from_the_archive_itself(source):
    shutil.make_archive(str(source.parent / "archive"), "zip", source)
    whole = curate(
        NAME, source.parent / "archive.zip", source.parent / "fromzip", jobs=1
    )
    assert whole.participants.equals(curated(source).participants)
    broken = source.parent / "broken.zip"
    broken.write_bytes((source.parent / "archive.zip").read_bytes()[:500])
    with pytest.raises(ReproError, match="broken.zip cannot be unpacked"):
        curate(NAME, broken, source.parent / "other", jobs=1)


# --- archives that lie ---


def packed(path, members):
    """A .tgz, .tar or .zip with these members: (name, content)."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
            for name, content in members:
                whole.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as whole:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            whole.addfile(info, io.BytesIO(content))
    return path


def test_a_broken_checksum_is_refused(tmp_path):
    path = packed(tmp_path / "a.tgz", [("a.txt", b"text" * 999)])
    whole = path.read_bytes()
    for place in (-7, -3):  # the checksum, the length
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place:][1:])
        with pytest.raises(ReproError, match="a.tgz cannot be unpacked"):
            unpack(path, tmp_path / "folder")
    plain = packed(tmp_path / "b.tar", [("a.txt", b"text" * 999), ("b.txt", b"more")])
    plain.write_bytes(plain.read_bytes()[:4608])  # between two members
    with pytest.raises(ReproError, match="cut off"):
        unpack(plain, tmp_path / "folder")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.tgz", "b.tar"]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_unpacking_is_bounded(tmp_path, monkeypatch, kind):
    path = packed(
        tmp_path / f"bomb.{kind}",
        [(f"{number}.bin", bytes(1 << 20)) for number in range(4)],
    )
    assert len(list(unpack(path, tmp_path / "fine").iterdir())) == 4
    monkeypatch.setattr(curation, "SMALL_BYTES", 1 << 20)
    with pytest.raises(ReproError, match="100 times its size"):
        unpack(path, tmp_path / "folder")
    monkeypatch.undo()
    monkeypatch.setattr(curation, "MOST_MEMBERS", 3)
    with pytest.raises(ReproError, match="more than 3 members"):
        unpack(path, tmp_path / "folder")
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, "fine"]


# --- another patient's files, a second archive ---


def test_a_foreign_patients_files_are_not_stacked(source):
    other = fake_patient(source / "elsewhere", "TCGA-ZZ-0099", slices=6)
    for number in (5, 6):
        for kind in ("", "_mask"):
            shutil.copy(other / f"{other.name}_{number}{kind}.tif", first_of(source))
    renamed = source / "kaggle_3m" / "TCGA_HT_0042_19990101"
    shutil.copytree(other, renamed)
    cohort = curated(source)
    said = cohort.problems.set_index("participant_id")["problem"]
    assert cohort.ids == ["sub-TCGADU0002", "sub-TCGAHTA003"]
    assert (
        "files of two names" in said["sub-TCGACS0001"]
        and "another patient's" in said["sub-TCGAHT0042"]
    )


def test_a_second_archive_must_be_a_copy(source):
    again = source / "lgg-mri-segmentation" / "kaggle_3m"  # as in Kaggle's own archive
    shutil.copytree(source / "kaggle_3m", again)
    assert len(curated(source)) == 3
    fake_patient(again, "TCGA-EZ-0005")
    with pytest.raises(ReproError) as caught:
        curated(source)
    assert str(source / "kaggle_3m") in str(caught.value) and str(again) in str(
        caught.value
    )


# --- what a person corrected ---


def test_a_corrected_mask_is_kept_until_told(source, capsys):
    cohort = curated(source)
    path = cohort.path("sub-TCGACS0001", "label-tumor_mask", "manual")
    mask = cohort.mask("sub-TCGACS0001")
    mask[0, 0, 0] = 1
    write_volume(mask, path)
    corrected = sha256_of(path)
    again = curated(source)
    assert (
        sha256_of(path) == corrected and "1 changes by hand" in capsys.readouterr().err
    )
    assert (
        "changed by hand" in again.problems["problem"][0]
        and again.problems["participant_id"][0] == "sub-TCGACS0001"
    )
    # its pictures change too
    save(
        first_of(source),
        "{}_1.tif",
        np.full((16, 16, 3), 9, np.uint8) + np.arange(3, dtype=np.uint8),
    )
    again = curated(source)
    assert (
        sha256_of(path) == corrected
        and "changed by hand" in again.problems["problem"][0]
    )
    assert sitk.GetArrayFromImage(again.image("sub-TCGACS0001", "FLAIR"))[0, 0, 0] == 10
    assert (
        len(curated(source, overwrite=True).problems) == 0
        and sha256_of(path) != corrected
    )
    assert len(curated(source).problems) == 0


def test_a_corrected_table_is_kept_until_told(source):
    path = curated(source).folder / "participants.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table.loc[0, "idh"], table.loc[0, "age"], table["handedness"] = (
        "wildtype",
        "n/a",
        "left",
    )
    table[table["participant_id"] != "sub-TCGAHTA003"].to_csv(
        path, sep="\t", index=False
    )
    write_clinical(
        source,
        [
            table_row(
                one, **{"Diagnosis Age": "44", "MGMT promoter status": "Methylated"}
            )
            for one in BARCODES
        ],
    )
    for _ in range(2):
        again = curated(source)
        row = again.participants.set_index("participant_id").loc["sub-TCGACS0001"]
        assert (
            row["idh"] == "wildtype"
            and pd.isna(row["age"])
            and row["mgmt"] == "methylated"
            and row["handedness"] == "left"
        )
        assert (
            again.ids == ["sub-TCGACS0001", "sub-TCGADU0002"]
            and again.participants["age"][1] == 44
        )
        assert (
            again.problems["problem"]
            .str.contains("idh was changed by hand from mutant to wildtype")
            .any()
        )
        assert read_cohort(again.folder).participants.equals(again.participants)
    path.write_text(path.read_text().replace("female", "f3male", 1))
    with pytest.raises(
        SchemaError, match="participants.tsv was changed by hand.*f3male.*--overwrite"
    ):
        curated(source)
    path.write_text(path.read_text() + "sub-X\n")
    with pytest.raises(SchemaError, match="participants.tsv, line 4: 1 cells"):
        curated(source)
    path.write_text("")
    with pytest.raises(SchemaError, match="participants.tsv is empty"):
        curated(source)
    whole = curated(source, overwrite=True) if path.unlink() is None else None
    assert (
        len(whole) == 3
        and whole.labels("idh")["sub-TCGACS0001"] == "mutant"
        and len(whole.problems) == 0
    )


# --- killed, stopped, a full disk ---


def command(source, out, jobs=2):
    code = "import sys; from glioma_repro.runs.command import main; sys.exit(main(sys.argv[1:]))"
    words = [
        "curate",
        NAME,
        "--source",
        str(source),
        "--out",
        str(out),
        "--jobs",
        str(jobs),
    ]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def group_is_gone(group, seconds=30):
    """Whether no process of the group is left."""
    end = time.time() + seconds
    while time.time() < end:
        alive = subprocess.run(
            ["pgrep", "-g", str(group)], capture_output=True, text=True
        ).stdout.split()
        if not alive:
            return True
        time.sleep(0.3)
    return False


def content(folder):
    """The bytes of everything that a study reads."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in folder.rglob("*")
        if path.suffix in (".gz", ".tsv", ".json")
    }


@pytest.fixture
def larger(source):
    for number in range(10, 40):
        fake_patient(source / "kaggle_3m", f"TCGA-DU-10{number}", slices=12, size=64)
    return source


def until_records(out, number, process):
    while (
        process.poll() is None
        and len(list((out / NAME / "derivatives" / "curation").glob("sub-*.json")))
        < number
    ):
        time.sleep(0.01)


@pytest.mark.parametrize("word", ["KILL", "TERM"])
def test_a_killed_curate_leaves_nothing_and_goes_on(larger, tmp_path, word):
    out = tmp_path / "killed"
    for records in (1, 8, 20):
        process = command(larger, out)
        until_records(out, records, process)
        assert process.poll() is None, "killed too late to test anything"
        process.send_signal(getattr(signal, f"SIG{word}"))
        said = process.communicate()[1].decode()
        assert group_is_gone(process.pid) and process.returncode != 0
        assert (
            word == "KILL"
            or "interrupted; start it again and it goes on" in said
            and "Traceback" not in said
        )
    (out / NAME / ".writing-old" / "sub-x").mkdir(parents=True)
    curate(NAME, larger, out, jobs=1)
    whole = curate(NAME, larger, tmp_path / "whole", jobs=1)
    assert content(out / NAME) == content(whole.folder) and not list(
        out.rglob(".writing-*")
    )


def test_where_a_patient_failed_stands_in_a_log_without_names(source, monkeypatch):
    real, folder = store_module.check_images, source / "kaggle_3m"
    secret = next(one.name for one in sorted(folder.iterdir()) if one.is_dir())

    def broken(images, participant_id):
        if participant_id == "sub-TCGACS0001":
            raise RuntimeError(f"nobody foresaw this in {folder / secret}")
        return real(images, participant_id)

    monkeypatch.setattr(store_module, "check_images", broken)
    log = curated(source).folder / "derivatives" / "curation" / "problems.log"
    said = log.read_text(encoding="utf-8")
    assert "sub-TCGACS0001: Traceback" in said and "raise RuntimeError" in said
    assert secret not in said and "TCGA_CS" not in said
    monkeypatch.setattr(store_module, "check_images", real)
    curated(source)
    assert not log.exists()  # it is the last call's


def test_a_full_disk_is_said_and_nobody_is_left_out(source, monkeypatch, capsys):
    import errno

    from glioma_repro.runs.command import main

    real, words = (
        store_module.write_volume,
        [
            "curate",
            NAME,
            "--source",
            str(source),
            "--out",
            str(source.parent / "out"),
            "--jobs",
            "1",
        ],
    )

    def full(image, path):
        if "TCGADU0002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(image, path)

    monkeypatch.setattr(store_module, "write_volume", full)
    assert main(words) == 1
    assert (
        "No space left on device" in capsys.readouterr().err
        and not (source.parent / "out" / NAME / "participants.tsv").exists()
    )
    monkeypatch.setattr(store_module, "write_volume", real)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0)
    )
    assert main(words) == 1 and "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(words) == 0 and "3 patients, 0 left out" in capsys.readouterr().out
    assert not list((source.parent / "out").rglob(".writing-*"))


def test_two_at_a_time_is_refused(source):
    import filelock

    (source.parent / "out").mkdir()
    with (
        filelock.FileLock(source.parent / "out" / f".{NAME}.lock"),
        pytest.raises(ReproError, match="another curate"),
    ):
        curated(source)
    assert len(curated(source)) == 3


# --- stray quotes ---


def test_a_stray_quote_exchanges_nobody(source):
    path = source / "lgggbm_tcga_pub_clinical_data.tsv"
    rows = [
        table_row(one, **{"MGMT promoter status": "Methylated", "IDH status": word})
        for one, word in zip(BARCODES, ("WT", "Mutant", "WT"))
    ]
    rows[0]["Neoplasm Histologic Type Name"] = '"astro'
    rows[2]["Neoplasm Histologic Type Name"] = 'cytoma"'
    path.write_text(
        "\n".join(
            "\t".join(row)
            for row in [list(rows[0]), *[list(one.values()) for one in rows]]
        )
        + "\n"
    )
    cohort = curated(source)
    assert (
        cohort.labels("idh").tolist() == ["wildtype", "mutant", "wildtype"]
        and cohort.participants["histology"][0] == '"astro'
    )
    path.write_text(path.read_text().replace("\tFemale", "", 1))
    with pytest.raises(SchemaError, match="line 2: 12 cells where the header has 13"):
        curated(source)


def test_the_real_table_with_stray_quotes(tmp_path, downloads):
    text = (downloads / "clinical" / "lgggbm_tcga_pub_clinical_data.tsv").read_text()
    for before in ("TCGA-CS-4938", "TCGA-CS-4942"):
        line = next(one for one in text.splitlines() if f"\t{before}\t" in one)
        text = text.replace(line, line.replace("\tGlioma\t", '\t"Glioma\t', 1))
    assert text.count('"') == 2
    (tmp_path / "lgggbm_tcga_pub_clinical_data.tsv").write_text(text)
    labels, _, _ = curation.read_labels(
        manifest_of(NAME), [tmp_path], {"sub-TCGACS4941": ["TCGA-CS-4941"]}
    )
    assert labels.loc["sub-TCGACS4941", ["idh", "mgmt"]].tolist() == [
        "wildtype",
        "methylated",
    ]


# --- labels of BraTS patients ---


def test_brats_patients_get_their_molecular_labels(downloads):
    cases, _, _ = curation.find_brats(
        [
            downloads / name
            for name in (
                "brats2018",
                "brats2021",
                "brats2023",
                "brats2012_hg0015",
                "clinical",
            )
        ]
    )
    names = {one.participant_id: one.names for one in cases}
    labels, used, differing = curation.read_labels(
        manifest_of("brats"), [downloads / "clinical"], names
    )
    assert (
        len(cases) == 8
        and set(used)
        == {"lgggbm_tcga_pub_clinical_data.tsv", "UCSF-PDGM-metadata_v2.csv"}
        and len(differing) == 0
    )
    who = {one.participant_id: one.row for one in cases}
    assert (
        who["sub-Brats18TCIA024711"]["tcga_barcode"] == "TCGA-06-0182"
        and who["sub-Brats18TCIA081051"]["tcga_barcode"] == "TCGA-76-4934"
    )
    columns = ["idh", "codel_1p19q", "mgmt", "who_grade"]
    assert labels.loc["sub-Brats18TCIA081051", columns].astype(str).tolist() == [
        "wildtype",
        "intact",
        "methylated",
        "4",
    ]
    assert labels.loc["sub-BraTSGLI00000000", ["idh", "mgmt", "who_grade"]].astype(
        str
    ).tolist() == ["wildtype", "methylated", "4"]
    assert labels.loc["sub-BRATSHG0015"].isna().all()


def test_where_tables_disagree_both_stand_in_a_table(tmp_path):
    brats_patient(tmp_path / "in", "BraTS2021_00001")
    brats_patient(tmp_path / "in", "BraTS-GLI-00001-000")
    (tmp_path / "in" / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n00001,1\n")
    header = "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,1p/19q,IDH,1-dead 0-alive,OS,BraTS21 ID"
    (tmp_path / "in" / "UCSF-PDGM-metadata_v2.csv").write_text(
        header
        + '\nU-1,M,66,4,"Glioblastoma, IDH-wildtype",negative,,wildtype,1,1303,BraTS2021_00001\n'
    )
    cohort = curate("brats", tmp_path / "in", tmp_path / "out", jobs=1)
    assert (
        cohort.labels("mgmt").tolist() == ["unmethylated"] * 2
        and cohort.identities().nunique() == 1
    )
    table = pd.read_csv(
        cohort.folder / "derivatives" / "curation" / "label_disagreements.tsv", sep="\t"
    )
    of_one = table[table["participant_id"] == "sub-BraTS202100001"]
    assert of_one["value"].tolist() == ["unmethylated", "methylated"] and of_one[
        "used"
    ].tolist() == [True, False]
    assert "first" in cohort.provenance["labels"]


def test_a_stray_file_goes_to_its_own_patient(tmp_path):
    for number in (0, 1):
        brats_patient(tmp_path / "in", f"BraTS2021_0000{number}")
    ours, theirs = (tmp_path / "in" / f"BraTS2021_0000{number}" for number in (0, 1))
    shutil.copy(theirs / f"{theirs.name}_t2.nii.gz", ours)
    cohort = curate("brats", tmp_path / "in", tmp_path / "out", jobs=1)
    assert (
        cohort.ids == ["sub-BraTS202100000", "sub-BraTS202100001"]
        and "left out" in cohort.problems["problem"][0]
    )
    for one, folder in zip(cohort.ids, (ours, theirs)):
        assert (
            sitk.GetArrayFromImage(cohort.image(one, "T2w"))
            == sitk.GetArrayFromImage(
                sitk.ReadImage(str(folder / f"{folder.name}_t2.nii.gz"))
            )
        ).all()


# --- the other layouts ---


def brats_patient(
    folder,
    name,
    kinds=("t1", "t1ce", "t2", "flair", "seg"),
    ending="nii.gz",
    change=None,
):
    for kind in kinds:
        array = (
            generator(name, kind)
            .integers(0, 5 if kind in ("seg", "truth") else 900, (4, 8, 8))
            .astype(np.int16 if kind == "seg" else np.float32)
        )
        if kind in ("seg", "truth"):
            array[:, [0, -1]] = 0
        image = sitk.GetImageFromArray(array)
        if change and kind == change[0]:
            image = change[1](image)
        write_volume(image, folder / name / f"{name}_{kind}.{ending}")


def with_nan(image):
    array = sitk.GetArrayFromImage(image)
    array[0, 0, 0] = np.nan
    return sitk.GetImageFromArray(array)


def test_brats(tmp_path):
    brats_patient(tmp_path / "in", "BraTS2021_00000")
    brats_patient(tmp_path / "in", "BraTS2021_00001", kinds=("t1", "flair"))
    brats_patient(
        tmp_path / "in",
        "BRATS_HG0015",
        kinds=("T1", "T1C", "T2", "FLAIR", "truth"),
        ending="mha",
    )
    (tmp_path / "in" / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n00000,1\n")
    (tmp_path / "in" / "name_mapping.csv").write_text(
        "Grade,BraTS_2020_subject_ID,TCGA_TCIA_subject_ID\nHGG,BraTS2021_00001,TCGA-CS-0001\nHGG,BRATS_HG0015,NA\n"
    )
    write_clinical(tmp_path / "in", [table_row("TCGA-CS-0001")])
    cohort = curate("brats", tmp_path / "in", tmp_path / "out", jobs=1)
    assert cohort.ids == ["sub-BRATSHG0015", "sub-BraTS202100000", "sub-BraTS202100001"]
    assert (
        cohort.sequences("sub-BRATSHG0015")
        == ["T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"]
        and cohort.voxel_size_known
    )
    assert (
        cohort.labels("mgmt")["sub-BraTS202100000"] == "methylated"
        and cohort.labels("idh")["sub-BraTS202100001"] == "mutant"
    )
    parts = sitk.GetArrayFromImage(cohort_image(cohort, "sub-BraTS202100000", "dseg"))
    whole = sitk.GetArrayFromImage(
        cohort.mask(
            "sub-BraTS202100000", like=cohort.image("sub-BraTS202100000", "FLAIR")
        )
    )
    assert flow_table(cohort)["rule"].tolist() == ["T1w and FLAIR present"]
    assert (
        set(np.unique(parts)) == {0, 1, 2, 3, 4} and ((parts > 0) == (whole > 0)).all()
    )
    assert (
        "no tumour mask"
        in cohort.problems.set_index("participant_id").loc[
            "sub-BraTS202100001", "problem"
        ]
    )
    slices = fake_patient(
        tmp_path / "slices" / "kaggle_3m", "TCGA-CS-0001"
    ).parent.parent
    write_clinical(slices, [table_row("TCGA-CS-0001")])
    with pytest.raises(LeakError, match="TCGA-CS-0001"):
        split_external(curate(NAME, slices, tmp_path / "out", jobs=1), cohort)


def cohort_image(cohort, one, suffix):
    return cohort.image(one, suffix, cohort.mask_method)


@pytest.mark.parametrize(
    "kind,change,said",
    [
        ("t2", with_nan, "_t2.nii.gz holds NaN"),
        ("t2", lambda image: image[:-1], "the image has"),
        ("seg", lambda image: image[:-1], "the image has"),
        ("seg", lambda image: image + 4, "holds the label 5; BraTS has 0 to 4"),
        ("flair", lambda image: sitk.JoinSeries([image, image]), "4D"),
    ],
)
def test_a_broken_brats_patient(tmp_path, kind, change, said):
    brats_patient(tmp_path / "in", "BraTS2021_00000", change=(kind, change))
    brats_patient(tmp_path / "in", "BraTS2021_00001")
    cohort = curate("brats", tmp_path / "in", tmp_path / "out", jobs=1)
    assert (
        cohort.ids == ["sub-BraTS202100001"] and said in cohort.problems["problem"][0]
    )


def test_a_truncated_nifti(tmp_path):
    for number in (0, 1):
        brats_patient(tmp_path / "in", f"BraTS2021_0000{number}")
    path = tmp_path / "in" / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz"
    path.write_bytes(path.read_bytes()[:400])
    cohort = curate("brats", tmp_path / "in", tmp_path / "out", jobs=1)
    assert (
        cohort.ids == ["sub-BraTS202100001"]
        and "_t1.nii.gz" in cohort.problems["problem"][0]
    )


def made_pictures(folder):
    """Twelve pictures with and without a tumour; copies, transparent and broken ones
    among them.
    """
    for word, number in (("yes", 6), ("no", 6)):
        (folder / word).mkdir(parents=True)
        for one in range(number):
            grey = (
                generator(word, one).integers(0, 255, (10 + one, 14)).astype(np.uint8)
            )
            Image.fromarray(grey).save(folder / word / f"{word[0].upper()}{one}.png")
    yes = folder / "yes"
    # the same pixels, another format
    Image.open(yes / "Y0.png").convert("RGB").save(yes / "Y0.bmp")
    Image.open(yes / "Y1.png").save(yes / "copy (1).tif")
    Image.fromarray(
        np.full((9, 9, 4), 255, np.uint8) - np.arange(9, dtype=np.uint8)[:, None, None]
    ).save(yes / "alpha.png")
    # nearly clear: over black nothing of it can be seen
    Image.fromarray(
        np.zeros((9, 9, 4), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None]
    ).save(yes / "clear.png")
    (yes / "broken.jpg").write_text("no picture")


def test_pictures_with_and_without_a_tumour(tmp_path):
    made_pictures(tmp_path / "in")
    cohort = curate("brain-mri-yes-no", tmp_path / "in", tmp_path / "out", jobs=1)
    assert (
        len(cohort) == 15
        and cohort.classes("tumor") == ("absent", "present")
        and cohort.mask_method is None
    )
    who = cohort.identities()
    assert (
        who["sub-yesY0"] == who["sub-yesY0png"]
        and who["sub-yesY1"] == who["sub-yescopy1"]
        and who.nunique() == 13
    )
    for split in patient_splits(cohort, "tumor", 3):
        check_no_leak(split.train, split.test, cohort)
    left_out = cohort.problems.set_index("participant_id")["problem"]
    assert left_out.index.tolist() == ["sub-yesbroken", "sub-yesclear"]
    assert "clear.png" in left_out["sub-yesclear"]
    assert cohort.image("sub-noN2", "slice").GetSize() == (14, 12, 1)
    assert (
        show_patients(cohort, cohort.ids[:2]).axes
        and summary(cohort)
        .set_index("what")
        .loc["persons (or different pictures)", "value"]
        == 13
    )


# --- real data ---


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    data = real_data()
    if data is None or not (data / "kaggle_3m").is_dir():
        pytest.skip(
            "no real slices: set GLIOMA_DATA to a folder with kaggle_3m and the "
            "clinical table"
        )
    source = tmp_path_factory.mktemp("real")
    (source / "kaggle_3m").mkdir()
    for name in (
        "TCGA_CS_4942_19970222",
        "TCGA_DU_7013_19860523",
        "TCGA_DU_7301_19911112",
        "TCGA_EZ_7264_20010816",
    ):
        (source / "kaggle_3m" / name).symlink_to(data / "kaggle_3m" / name)
    for name in ("lgggbm_tcga_pub_clinical_data.tsv", "tcga_2021_who_labels.csv"):
        (source / name).symlink_to(data / "clinical" / name)
    return source, curate(NAME, source, source / "out", jobs=2)


def test_real_slices(real):
    source, cohort = real
    assert (
        cohort.ids
        == ["sub-TCGACS4942", "sub-TCGADU7013", "sub-TCGADU7301", "sub-TCGAEZ7264"]
        and len(cohort.problems) == 0
    )
    assert cohort.sequences("sub-TCGADU7013") == ["FLAIR"] and cohort.sequences(
        "sub-TCGADU7301"
    ) == ["T1w", "FLAIR"]
    assert cohort.participants["site"].tolist() == ["CS", "DU", "DU", "EZ"]
    sizes = {one: cohort.image(one, "FLAIR").GetSize() for one in cohort.ids}
    assert sizes == {
        "sub-TCGACS4942": (256, 256, 20),
        "sub-TCGADU7013": (256, 256, 49),
        "sub-TCGADU7301": (256, 256, 35),
        "sub-TCGAEZ7264": (256, 256, 24),
    }
    for one, voxels in [("sub-TCGACS4942", 7112), ("sub-TCGADU7013", 12623)]:
        assert (
            sitk.GetArrayViewFromImage(
                cohort.mask(one, like=cohort.image(one, "FLAIR"))
            ).sum()
            == voxels
        )


def test_real_labels_are_those_of_the_table(real):
    source, cohort = real
    table = pd.read_csv(
        source / "lgggbm_tcga_pub_clinical_data.tsv",
        sep="\t",
        keep_default_na=False,
        dtype=str,
    ).set_index("Patient ID")
    for row in cohort.participants.itertuples():
        theirs = table.loc[row.tcga_barcode]
        assert {"Mutant": "mutant", "WT": "wildtype"}.get(theirs["IDH status"]) == (
            None if row.idh is pd.NA else row.idh
        )
        assert (
            int(theirs["Neoplasm Histologic Grade"][1]) == row.who_grade
            and float(theirs["Diagnosis Age"]) == row.age
        )
        assert (
            abs(
                float(theirs["Overall Survival (Months)"]) * 30.4375 - row.survival_days
            )
            <= 0.5
        )
    used = cohort.provenance["tables"]
    assert (
        all(one["as_in_manifest"] and not one["disagreements"] for one in used.values())
        and len(used) == 2
    )


def test_the_front_of_the_head_is_at_the_top_and_the_neck_comes_first(real):
    _, cohort = real
    volume = sitk.GetArrayFromImage(cohort.image("sub-TCGAEZ7264", "FLAIR")).astype(
        float
    )
    head = volume > 15
    # the crown is smaller than the middle
    assert head[2].sum() > 0 and head[-1].sum() < head[len(head) // 2].sum()
    low = head[: len(head) // 3].any(0)  # the skull base is wider behind the face
    rows = np.flatnonzero(low.any(1))
    width = low.sum(1)[rows]
    assert width[: len(width) // 6].mean() < width[-len(width) // 3 :].mean()


def test_real_pictures(tmp_path):
    data = real_data()
    if data is None or not (data / "brain_mri_yes_no").is_dir():
        pytest.skip(
            "no real pictures: set GLIOMA_DATA to a folder with brain_mri_yes_no"
        )
    cases, problems, _ = curation.find_yes_no([data / "brain_mri_yes_no"])
    table = pd.DataFrame([one.row for one in cases])
    assert (
        len(cases) == 253
        and not problems
        and table["tumor"].value_counts().to_dict() == dict(present=155, absent=98)
    )
    copies = table["identity"].value_counts()
    # of equal pixels: 29 pairs, 25 redundant
    assert (copies * (copies - 1) // 2).sum() == 29 and len(table) - len(copies) == 25
    assert (table.groupby("identity")["tumor"].nunique() == 1).all()
    # what images/pictures and methods/picture_study say of them
    source = data / "brain_mri_yes_no"
    cohort = curate("brain-mri-yes-no", source, tmp_path / "out", jobs=1)
    review = review_pictures(cohort, jobs=1)
    pairs, joined = review.pairs, review.cohort
    assert pairs["kind"].value_counts().to_dict() == {"near": 45, "equal": 29}
    assert len({*pairs["first"], *pairs["second"]}) == 86
    assert len(joined) == 253 and joined.identities().nunique() == 203
    assert joined.identities().str.startswith("sha256:").all()
