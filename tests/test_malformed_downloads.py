"""Malformed downloads, one of each kind, all made here: each ends in one clear error or
an exclusion by name.
"""

import gzip
import io
import json
import locale
import os
import shutil
import tarfile
import time
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from glioma_repro.patients import curation
from glioma_repro.patients import store as store_module
from glioma_repro.patients.core import ReproError, generator, write_volume
from glioma_repro.patients.curation import (
    Case,
    curate,
    find_brats,
    find_yes_no,
    import_brats,
    import_yes_no,
)
from glioma_repro.patients.curation import read_labels, read_table, stack_slices, unpack
from glioma_repro.patients.curation import import_dicom
from glioma_repro.patients.scanner import write_dicom

SECONDS = 20  # on a busy machine


@pytest.fixture(autouse=True)
def in_seconds():
    start = time.time()
    yield
    assert time.time() - start < SECONDS


def refused(function, *words):
    """The one line that a user reads; nothing but a ReproError may come."""
    with pytest.raises(ReproError) as caught:
        function()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1500 and "Traceback" not in text
    assert all(word in text for word in words), text


# --- archives ---


def zipped(path, members, change=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in members:
            whole.writestr(name, content)
    return altered(path, change)


def tarred(path, members, change=None):
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as whole:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                whole.addfile(info, io.BytesIO(content))
            else:
                (info.type,) = content
                whole.addfile(info)
    return altered(path, change)


def altered(path, change):
    if change:
        path.write_bytes(change(path.read_bytes()))
    return path


def flipped(place):
    def change(content):
        content = bytearray(content)
        content[place] ^= 0xFF
        return bytes(content)

    return change


NOISE = bytes(generator("noise").integers(0, 256, 5000).astype(np.uint8))
ARCHIVES = {
    "no archive": ("a.zip", [], lambda content: b"<html>404</html>"),
    "empty file": ("a.tgz", [], lambda content: b""),
    "zip cut off": ("a.zip", [("a", NOISE)], lambda content: content[:900]),
    "zip changed inside": ("a.zip", [("a", NOISE)], flipped(500)),
    "tgz changed inside": ("a.tgz", [("a", NOISE)], flipped(3000)),
    "tgz checksum": ("a.tgz", [("a", NOISE)], flipped(-7)),
    "tgz length": ("a.tgz", [("a", NOISE)], flipped(-2)),
    "tgz cut off": ("a.tgz", [("a", NOISE)], lambda content: content[:2000]),
    "tar cut off": ("a.tar", [("a", NOISE)], lambda content: content[:2000]),
    "tar of noise": ("a.tar", [], lambda content: NOISE),
    "gzip of noise": ("a.tgz", [], lambda content: gzip.compress(NOISE)),
    "long name in a zip": ("a.zip", [("n" * 300, b"")], None),
    "long name in a tgz": ("a.tgz", [("n" * 300, b"")], None),
    "long folder": ("a.tgz", [("d" * 300 + "/n", b"")], None),
    "deep folders": ("a.tgz", [("/".join(["d" * 200] * 25) + "/n", b"")], None),
    "file, then folder": ("a.zip", [("a", b"x"), ("a/b", b"x")], None),
    "folder, then file": ("a.tgz", [("a/b", b"x"), ("a", b"x")], None),
    "one name twice": ("a.tgz", [("a", b"x"), ("a", b"y")], None),
    "above": ("a.tgz", [("../a", b"x")], None),
    "absolute": ("a.zip", [("/tmp/a", b"x")], None),
    "another drive": ("a.zip", [("C:/a", b"x")], None),
    "symbolic link": ("a.tgz", [("a", [tarfile.SYMTYPE])], None),
    "hard link": ("a.tgz", [("a", [tarfile.LNKTYPE])], None),
    "device": ("a.tgz", [("a", [tarfile.CHRTYPE])], None),
    "pipe": ("a.tar", [("a", [tarfile.FIFOTYPE])], None),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive(tmp_path, kind):
    name, members, change = ARCHIVES[kind]
    make = zipped if name.endswith("zip") else tarred
    path = make(tmp_path / name, members, change)
    refused(lambda: unpack(path, tmp_path / "folder"), name)
    # nothing is left, nothing was written outside
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tgz"])
def test_a_bomb(tmp_path, monkeypatch, name):
    monkeypatch.setattr(curation, "SMALL_BYTES", 1 << 20)
    make = zipped if name.endswith("zip") else tarred
    path = make(tmp_path / name, [("zeros", bytes(3 << 20))])
    refused(lambda: unpack(path, tmp_path / "folder"), name, "times its size")


def test_an_archive_that_is_a_folder(tmp_path):
    (tmp_path / "in" / "a.zip").mkdir(parents=True)
    refused(
        lambda: unpack(tmp_path / "in" / "a.zip", tmp_path / "folder"),
        "a.zip is no file",
    )
    refused(
        lambda: curate("brats", tmp_path / "in", tmp_path / "out", jobs=1),
        "no BraTS patient",
    )


# --- label tables ---

TABLES = {
    "empty": (b"", "is empty"),
    "one row short": (
        b"key,x,y\nA,1,2\nB,1\n",
        "line 3: 2 cells where the header has 3",
    ),
    "one row long": (b"key,x\nA,1,2\n", "line 2: 3 cells"),
    "stray quote": (b'key,x\nA,"1\nB,2\n', "line 2"),
    "two stray quotes": (b'key,x\nA,"1\nB,2"\nC,3\n', "line 2: a quote is opened"),
    "quote and more": (b'key,x\nA,"1"2\n', "line 2"),
    "column twice": (b"key,x,x\nA,1,2\n", "'x' stands twice"),
    "no key": (b"name,x\nA,1\n", "no column 'key'"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00" + NOISE, "no UTF-8 text"),
    "another separator": (b"key;x\nA;1\n", "no column 'key'"),
    "one endless field": (b'key,x\nA,"' + b"z" * 200_000 + b'"\n', "line 2"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_label_table(tmp_path, kind):
    content, said = TABLES[kind]
    (tmp_path / "labels.csv").write_bytes(content)
    refused(lambda: read_table(tmp_path / "labels.csv", "key"), "labels.csv", said)


def test_a_table_as_excel_saves_it(tmp_path):
    (tmp_path / "labels.csv").write_bytes("key,x\r\nA,1\r\n".encode("utf-16"))
    assert read_table(tmp_path / "labels.csv", "key")["x"].to_dict() == {"A": "1"}


def test_a_table_that_is_a_folder_or_not_there(tmp_path):
    (tmp_path / "labels.csv").mkdir()
    for name, said in (("labels.csv", "is a folder"), ("none.csv", "is missing")):
        refused(lambda name=name: read_table(tmp_path / name, "key"), name, said)


MAPPINGS = {
    "no names": b"a,b\n1,2\n",
    "empty": b"",
    "ragged": b"BraTS_2019_subject_ID,TCGA_TCIA_subject_ID\nA,B,C\n",
    "quote": b'BraTS_2019_subject_ID,TCGA_TCIA_subject_ID\n"A,B\nC,D\n',
    "Latin-1": "BraTS,TCGA,Straße\n".encode("latin-1"),
}


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_mapping_of_names(tmp_path, kind):
    (tmp_path / "name_mapping.csv").write_bytes(MAPPINGS[kind])
    refused(lambda: find_brats([tmp_path]), "name_mapping.csv")


# --- volumes ---


def brats(folder, **change):
    """A patient in BraTS' notation; a change is an array, or a function of the usual
    one.
    """
    name = folder.name
    usual = {
        kind: generator("brats", kind).integers(0, 900, (4, 8, 8)).astype(np.float32)
        for kind in ("t1", "t1ce", "t2", "flair")
    }
    usual["seg"] = np.zeros((4, 8, 8), np.float32)
    usual["seg"][1:3, 2:5, 2:5] = 2
    for kind, array in usual.items():
        array = change[kind](usual) if kind in change else array
        write_volume(sitk.GetImageFromArray(array), folder / f"{name}_{kind}.nii.gz")
    return folder


def inverted(usual):
    return (usual["seg"] == 0).astype(np.uint8)


VOLUMES = {
    "huge values": (dict(t2=lambda usual: usual["t2"] * 1e30), "T2w holds the value"),
    "64 bits": (
        dict(t2=lambda usual: (usual["t2"] * 1e15).astype(np.int64)),
        "T2w holds the value",
    ),
    "NaN": (dict(t1=lambda usual: np.where(usual["t1"] > 450, np.nan, 1)), "NaN"),
    "two the same": (dict(t2=lambda usual: usual["flair"]), "the same voxels"),
    "four the same": (
        dict.fromkeys(("t1", "t1ce", "t2"), lambda usual: usual["flair"]),
        "the same voxels",
    ),
    "full mask": (
        dict(seg=lambda usual: np.ones((4, 8, 8), np.uint8)),
        "inverted or full",
    ),
    "inverted mask": (dict(seg=inverted), "inverted or full"),
    "half labels": (dict(seg=lambda usual: usual["seg"] / 4), "holds the label 0.5"),
    "label 257": (dict(seg=lambda usual: usual["seg"] * 128.5), "holds the label 257"),
    "label -1": (dict(seg=lambda usual: -usual["seg"] / 2), "holds the label -1"),
    "another size": (dict(t2=lambda usual: usual["t2"][:3]), "the image has"),
    "all constant": (
        dict.fromkeys(("t1", "t1ce", "t2", "flair"), lambda usual: np.ones((4, 8, 8))),
        "no usable image",
    ),
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_volume(tmp_path, kind):
    change, said = VOLUMES[kind]
    brats(tmp_path / "in" / "P1", **change)
    case = find_brats([tmp_path / "in"])[0][0]
    refused(lambda: import_brats(case, tmp_path / "out"), "sub-P1", said)
    assert not (tmp_path / "out").exists()


def test_whole_numbers_of_64_bits_that_fit_are_kept_as_32(tmp_path):
    brats(tmp_path / "in" / "P1", t2=lambda usual: usual["t2"].astype(np.int64))
    import_brats(find_brats([tmp_path / "in"])[0][0], tmp_path / "out")
    image = sitk.ReadImage(
        str(tmp_path / "out" / "sub-P1" / "anat" / "sub-P1_T2w.nii.gz")
    )
    assert image.GetPixelID() == sitk.sitkInt32


def test_two_files_for_one_sequence(tmp_path):
    folder = brats(tmp_path / "in" / "P1")
    shutil.copy(folder / "P1_t1.nii.gz", folder / "P1_t1n.nii.gz")
    case = find_brats([tmp_path / "in"])[0][0]
    refused(lambda: import_brats(case, tmp_path / "out"), "sub-P1", "two files for T1w")


@pytest.mark.parametrize("content", [b"", b"no image", NOISE])
def test_a_volume_that_is_none(tmp_path, content):
    folder = brats(tmp_path / "in" / "P1")
    (folder / "P1_t1.nii.gz").write_bytes(content)
    case = find_brats([tmp_path / "in"])[0][0]
    refused(lambda: import_brats(case, tmp_path / "out"), "sub-P1", "P1_t1.nii.gz")


# --- slices and pictures ---


def slices(folder, mask):
    for number in range(1, 4):
        picture = (
            generator("slice", number).integers(0, 255, (9, 9, 3)).astype(np.uint8)
        )
        Image.fromarray(picture).save(folder / f"a_{number}.tif")
        Image.fromarray(mask).save(folder / f"a_{number}_mask.tif")
    return sorted(folder.glob("*.tif"))


def test_a_mask_of_slices_that_is_inverted(tmp_path):
    mask = np.full((9, 9), 255, np.uint8)
    mask[3:5, 3:5] = 0
    _, stacked = stack_slices(slices(tmp_path, mask), "sub-a")
    refused(
        lambda: store_module.check_mask(sitk.GetImageFromArray(stacked), "sub-a"),
        "slice 1",
        "inverted",
    )


@pytest.mark.parametrize(
    "what", ["text", "cut off", "empty", "link to nothing", "a name of signs"]
)
def test_a_picture(tmp_path, what):
    for word in ("yes", "no"):
        (tmp_path / word).mkdir()
        picture = generator(word).integers(0, 255, (20, 20)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / word / "fine.png")
    bad = tmp_path / "yes" / ("?.png" if what.startswith("a name") else "bad.png")
    if what.startswith("link"):
        os.symlink(tmp_path / "nothing", bad)
    else:
        whole = (tmp_path / "yes" / "fine.png").read_bytes()
        bad.write_bytes(
            {"text": b"text", "cut off": whole[:200], "empty": b""}.get(what, whole)
        )
    cases, problems, _ = find_yes_no([tmp_path])
    said = len(problems) == 1 and "bad" in problems[0][0]
    # a link to nothing is no file, and ?.png is a picture whose name has signs alone
    assert said == (what in ("text", "cut off", "empty"))
    assert len(cases) == (3 if what == "a name of signs" else 2)
    assert {one.participant_id for one in cases} >= {"sub-yesfine", "sub-nofine"}


def two_classes(tmp_path):
    "One good picture in each class."
    for word in ("yes", "no"):
        (tmp_path / word).mkdir()
        picture = generator(word).integers(0, 255, (20, 30)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / word / "fine.png")
    return np.asarray(Image.open(tmp_path / "yes" / "fine.png"))


def curated_as(tmp_path, name):
    "What became of one more picture with a tumour: pixels, or the problem."
    cases, problems, _ = find_yes_no([tmp_path])
    said = {one: problem for one, problem in problems}
    one = f"sub-yes{name}"
    if one in said:
        return said[one]
    case = next(case for case in cases if case.participant_id == one)
    import_yes_no(case, tmp_path / "out")
    made = next((tmp_path / "out").rglob(f"{one}_slice.nii.gz"))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(made)))[0]


def test_pictures_of_every_mode(tmp_path):
    """Before, 16 bits were cut off at 255, transparent pixels showed what lay below
    them, and a picture that EXIF calls turned was taken lying on its side.
    """
    grey = two_classes(tmp_path)
    place = tmp_path / "yes"
    deep = (grey.astype(np.uint16) * 200).astype(np.uint16)
    Image.fromarray(deep).save(place / "deep.png")
    clear = np.stack([grey] * 3 + [np.full_like(grey, 255)], -1)
    clear[:5, :, 3] = 0
    Image.fromarray(clear, "RGBA").save(place / "clear.png")
    # one grey value is said to be transparent; there is no alpha
    marked = np.minimum(grey, 254)
    marked[:5] = 255
    Image.fromarray(marked).save(place / "marked.png", transparency=255)
    Image.fromarray(grey).convert("CMYK").save(place / "inks.tif")
    turned = Image.fromarray(grey)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(place / "turned.png", exif=exif)
    found = curated_as(tmp_path, "deep").astype(float)
    np.testing.assert_allclose(found, grey * 255.0 / grey.max(), atol=1)
    found = curated_as(tmp_path, "clear")
    assert not found[:5].any() and np.abs(found[5:].astype(int) - grey[5:]).max() <= 1
    found = curated_as(tmp_path, "marked")
    assert not found[:5].any() and np.array_equal(found[5:], marked[5:])
    inks = curated_as(tmp_path, "inks").astype(int)
    assert np.abs(inks - grey).max() <= 2
    assert np.array_equal(curated_as(tmp_path, "turned"), np.rot90(grey, -1))


def test_a_picture_that_moves_or_is_a_dot(tmp_path):
    grey = two_classes(tmp_path)
    frames = [Image.fromarray(np.roll(grey, n)) for n in range(3)]
    frames[0].save(
        tmp_path / "yes" / "moves.tif", save_all=True, append_images=frames[1:]
    )
    Image.fromarray(grey[:1, :1]).save(tmp_path / "yes" / "dot.png")
    assert "holds 3 pictures" in curated_as(tmp_path, "moves")
    assert "1 x 1 pixels small" in curated_as(tmp_path, "dot")


def test_an_empty_class_and_an_unknown_folder(tmp_path):
    grey = two_classes(tmp_path)
    (tmp_path / "maybe").mkdir()
    Image.fromarray(grey).save(tmp_path / "maybe" / "a.png")
    cases, problems, _ = find_yes_no([tmp_path])
    assert len(cases) == 2 and "neither yes nor no" in problems[0][1]
    (tmp_path / "no" / "fine.png").unlink()
    with pytest.raises(ReproError, match="no holds no picture"):
        find_yes_no([tmp_path])


# --- DICOM ---

T1 = {"0008|103e": "AX T1", "0018|0080": "500", "0018|0081": "10"}


@pytest.fixture
def series(tmp_path):
    z, y, x = np.indices((8, 16, 16))
    image = sitk.GetImageFromArray((100.0 + 5 * x + 3 * y + 7 * z).astype(np.float32))
    image.SetSpacing((2, 2, 5))

    def write(tags=None, **more):
        return write_dicom(image, tmp_path / "dicom", 1, T1 | (tags or {}), **more)

    return write


def element(content, tag):
    """Where an element of a DICOM file begins, its value begins, and it ends (implicit
    or explicit VR).
    """
    place = content.index(tag)
    explicit = content[place + 4 : place + 6].isalpha()
    length = (
        content[place + 6 : place + 8] if explicit else content[place + 4 : place + 8]
    )
    return place, place + 8, place + 8 + int.from_bytes(length, "little")


def without_tag(folder, tag):
    """Takes an element out of every file of a folder."""
    for path in folder.iterdir():
        content = path.read_bytes()
        start, _, end = element(content, tag)
        path.write_bytes(content[:start] + content[end:])


SPACING, POSITION, ORIENTATION = (
    b"\x28\x00\x30\x00",
    b"\x20\x00\x32\x00",
    b"\x20\x00\x37\x00",
)
DICOMS = {
    "no PixelSpacing": lambda folder: without_tag(folder, SPACING),
    "no position": lambda folder: without_tag(folder, POSITION),
    "no orientation": lambda folder: without_tag(folder, ORIENTATION),
    "cut off": lambda folder: [
        one.write_bytes(one.read_bytes()[:300]) for one in folder.iterdir()
    ],
    "a head only": lambda folder: [
        one.write_bytes(bytes(128) + b"DICM") for one in folder.iterdir()
    ],
    "noise behind the head": lambda folder: [
        one.write_bytes(bytes(128) + b"DICM" + NOISE) for one in folder.iterdir()
    ],
    "three slices": lambda folder: [
        one.unlink() for one in sorted(folder.iterdir())[3:]
    ],
    "a hole": lambda folder: [one.unlink() for one in sorted(folder.iterdir())[3:5]],
    "no DICOM": lambda folder: [one.write_bytes(b"text") for one in folder.iterdir()],
}


@pytest.mark.parametrize("kind", DICOMS)
def test_a_dicom_series(series, tmp_path, kind):
    before = locale.setlocale(locale.LC_ALL)
    DICOMS[kind](series())
    said = {"no PixelSpacing": "no voxel size", "a hole": "half a series"}.get(kind, "")
    refused(lambda: import_dicom(tmp_path / "dicom", tmp_path / "bids", jobs=1), said)
    assert locale.setlocale(locale.LC_ALL) == before, "files would be written as ASCII"


@pytest.mark.parametrize("spacing", ["0\\0", "-2\\2", "2", "wide", "nan\\nan"])
def test_a_voxel_size_that_is_none(series, tmp_path, spacing):
    folder = series()
    for path in folder.iterdir():
        content = path.read_bytes()
        _, start, end = element(content, SPACING)
        path.write_bytes(
            content[:start]
            + spacing.encode().ljust(end - start)[: end - start]
            + content[end:]
        )
    refused(
        lambda: import_dicom(tmp_path / "dicom", tmp_path / "bids", jobs=1),
        "no voxel size",
    )


def test_files_without_a_patient_are_not_made_one_patient(series, tmp_path):
    series({"0010|0020": ""}, patient="")
    shutil.move(tmp_path / "dicom", tmp_path / "one")
    series({"0010|0020": "", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4"}, patient="")
    shutil.move(tmp_path / "dicom", tmp_path / "one" / "two")
    refused(
        lambda: import_dicom(tmp_path / "one", tmp_path / "bids", jobs=1),
        "no Patient ID",
    )


# --- a record that somebody edited ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        '{"recipe": 2, "outputs": 5}',
        '{"recipe": 2, "outputs": {"../../x": 1}, "files": {}}',
    ],
)
def test_a_damaged_record_is_made_again(tmp_path, text):
    brats(tmp_path / "in" / "P1")
    case = find_brats([tmp_path / "in"])[0][0]
    import_brats(case, tmp_path / "out")
    record = tmp_path / "out" / "derivatives" / "curation" / "sub-P1.json"
    whole = json.loads(record.read_text())
    record.write_text(text)
    assert store_module.is_current(record, case, tmp_path / "out") is None
    import_brats(case, tmp_path / "out")
    assert json.loads(record.read_text()) == whole


def test_labels_of_nobody(tmp_path):
    (tmp_path / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n00000,1\n")
    manifest = curation.manifest_of("brats")
    labels, _, differing = read_labels(manifest, [tmp_path], {"sub-x": ("x",)})
    assert labels.loc["sub-x"].isna().all() and len(differing) == 0
    (tmp_path / "train_labels.csv").write_text("BraTS21ID,MGMT_value\nx,maybe\n")
    refused(lambda: read_labels(manifest, [tmp_path], {"sub-x": ("x",)}), "maybe")


def test_a_case_without_files(tmp_path):
    (tmp_path / "in").mkdir()
    refused(
        lambda: curation.store(
            tmp_path, Case("sub-x", str(tmp_path / "in")), {}, {}, "manual", []
        ),
        "sub-x",
        "no usable image",
    )
