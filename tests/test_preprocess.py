"""Recipes: same bytes on one or two workers, resumed after a kill, bad patients left
out and named.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import SimpleITK as sitk

from glioma_repro.patients.core import (
    Cohort,
    ReproError,
    read_cohort,
    read_volume,
    sha256_of,
)
from glioma_repro.patients.phantom import make_phantom
from glioma_repro.images.preprocess import (
    load_recipe,
    prepared,
    preprocess,
    recipes,
    sidecar_of,
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two patients as scanned; copied by each test that writes."""
    return make_phantom(
        tmp_path_factory.mktemp("raw") / "p",
        patients=2,
        sites=1,
        voxel_size=5,
        slice_thickness=5,
        misaligned=True,
        jobs=1,
    )


@pytest.fixture
def cohort(raw, tmp_path):
    """A copy to write in."""
    shutil.copytree(raw.folder, tmp_path / "p")
    return read_cohort(tmp_path / "p")


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    """The first patient through akkus2017; copied by each test that writes."""
    folder = tmp_path_factory.mktemp("whole") / "p"
    shutil.copytree(raw.folder, folder)
    one = read_cohort(folder).subset(raw.ids[:1])
    preprocess(one, "akkus2017", jobs=1)
    return one


def outputs(cohort, recipe):
    """SHA-256 of every image, mask and transform of a recipe."""
    folder = cohort.folder / "derivatives" / recipe
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.name.endswith((".nii.gz", ".tfm"))
    }


def test_every_recipe_reads():
    assert {"akkus2017", "chang2018", "choi2021", "vandervoort2022"} <= set(recipes())
    for name in recipes():
        assert load_recipe(name).steps


def test_a_misspelt_recipe_names_the_nearest():
    with pytest.raises(ReproError, match="akkus2017"):
        load_recipe("akkus2071")


def test_two_workers_give_the_bytes_of_one_with_brain_and_tissue_maps(cohort, whole):
    preprocess(cohort, "akkus2017", jobs=2)
    both = outputs(cohort, "akkus2017")
    assert len(both) == 2 * 9  # two images, two masks, two transforms, three tissues
    first = {name: one for name, one in both.items() if whole.ids[0] in name}
    assert first == outputs(whole, "akkus2017") and len(first) == 9


def test_two_workers_and_a_cluster_give_the_same_bytes_as_one(
    cohort, quick, monkeypatch
):
    distributed = pytest.importorskip("dask.distributed")
    preprocess(cohort, quick, jobs=1)
    one = outputs(cohort, "quick")
    assert len(one) == 2 * 5  # two images, two masks, a transform
    shutil.rmtree(cohort.folder / "derivatives" / "quick")
    preprocess(cohort, quick, jobs=2)
    assert outputs(cohort, "quick") == one
    shutil.rmtree(cohort.folder / "derivatives" / "quick")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        monkeypatch.chdir(cohort.folder.parent)  # the workers stay where they started
        preprocess(
            read_cohort(cohort.folder.name),
            quick,
            scheduler=cluster.scheduler_address,
        )
    assert outputs(cohort, "quick") == one
    assert preprocess(cohort, quick, jobs=1).summary["files_made"].tolist() == [
        0,
        0,
    ]


def test_a_killed_run_goes_on_and_ends_the_same(cohort, quick):
    one = cohort.subset(cohort.ids[:1])
    code = (
        "import sys; from glioma_repro.images import preprocess as p; from "
        "glioma_repro.patients.core import read_cohort\n"
        "import os, glioma_repro.images.preprocess as m\n"
        "write = m._write_image\n"
        "def die(image, path):\n"
        "    if 'T2w' in path.name: os._exit(9)\n"
        "    write(image, path)\n"
        "m._write_image = die\n"
        "c = read_cohort(sys.argv[1]); m.preprocess_patient(sys.argv[2], c, "
        "m.load_recipe(sys.argv[3]), 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(cohort.folder), one.ids[0], quick],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 9
    assert not one.path(one.ids[0], "T2w", "quick").exists()
    result = preprocess(one, quick, jobs=1)
    row = result.summary.iloc[0]
    # the transform and the mask were kept
    assert row["files_kept"] >= 2 and row["files_made"] >= 1
    assert read_volume(one.path(one.ids[0], "T2w", "quick"))


def test_bad_patients_are_named_and_the_others_go_on(cohort, quick):
    first, second = cohort.ids
    path = cohort.path(first, "T2w")
    path.write_bytes(path.read_bytes()[:2000])
    result = preprocess(cohort, quick, jobs=1)
    assert result.cohort.ids == [second]
    assert (
        result.problems["participant_id"].tolist() == [first]
        and path.name in result.problems["problem"][0]
    )


def test_a_missing_sequence_leaves_the_patient_out(cohort, quick):
    one = cohort.subset(cohort.ids[:1])
    one.path(one.ids[0], "ce-gadolinium_T1w").unlink()
    with pytest.raises(ReproError, match="ce-gadolinium_T1w missing"):
        preprocess(one, quick, jobs=1)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
def test_a_full_disk_leaves_no_half_file(cohort):
    """A limit on the size of files stands for the full disk: ITK's writer says nothing,
    the check after it does.
    """
    code = (
        "import resource, signal, sys\n"
        "from glioma_repro.patients.core import DiskError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import SimpleITK as sitk, numpy as np\nfrom pathlib import Path\nfrom "
        "glioma_repro.images.preprocess import _write_image\n"
        "image = "
        "sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(60, 60, "
        "60)).astype(np.float32))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try:\n    _write_image(image, Path(sys.argv[1]))\n"
        "except DiskError:\n    sys.exit(7)\n"
    )
    target = cohort.folder / "full.nii.gz"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
    assert not target.exists()


def test_a_worker_that_dies_takes_only_its_patient(cohort):
    from glioma_repro.patients.core import map_patients

    done, problems = map_patients(
        _die_for_the_first, cohort.ids, jobs=2, first=cohort.ids[0]
    )
    assert list(done) == cohort.ids[1:] and "worker died" in problems["problem"][0]


def _die_for_the_first(participant_id, first):
    if participant_id == first:
        os._exit(1)
    return participant_id


def test_a_changed_setting_makes_only_what_depends_on_it(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "p")
    one = read_cohort(tmp_path / "p").subset(whole.ids)
    before = outputs(one, "akkus2017")
    own = tmp_path / "own.yaml"
    text = next(
        path for name, path in recipes().items() if name == "akkus2017"
    ).read_text(encoding="utf-8")
    own.write_text(text.replace("region: brain}", "region: brain, limits: [-3, 3]}"))
    row = preprocess(one, str(own), jobs=1).summary.iloc[0]
    # the two images; transforms, masks and tissue maps stay
    assert (row["files_made"], row["files_kept"]) == (2, 7)
    after = outputs(one, "akkus2017")
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if name.endswith(("T1w.nii.gz", "T2w.nii.gz"))
    }


def test_the_sidecar_names_its_sources_by_hash(whole):
    one = whole
    sidecar = json.loads(
        sidecar_of(one.path(one.ids[0], "T2w", "akkus2017")).read_text(encoding="utf-8")
    )
    assert sidecar["inputs"]["T2w"] == sha256_of(one.path(one.ids[0], "T2w"))
    assert sidecar["sha256"] == sha256_of(one.path(one.ids[0], "T2w", "akkus2017"))


def test_the_atlas_recipe_lands_on_the_atlas(cohort):
    one = cohort.subset(cohort.ids[:1])
    assert isinstance(one, Cohort)
    result = preprocess(one, "vandervoort2022", jobs=1)
    image, brain = (
        sitk.GetArrayFromImage(result.cohort.image(one.ids[0], name))
        for name in ("T2w", "label-brain_mask")
    )
    # the background is the least value, not the mean grey
    assert (image[brain == 0] == image[brain > 0].min()).all()
    # nothing is clipped
    assert result.recipe.settings("normalise") == {
        "region": "brain",
        "background": "min",
    }
    sizes = {
        result.cohort.image(one.ids[0], suffix, "vandervoort2022").GetSize()
        for suffix in ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")
    }
    # 1 mm, cropped to the brain
    assert len(sizes) == 1 and all(100 < n < 200 for n in next(iter(sizes)))
    masks = [
        result.cohort.image(one.ids[0], name, "vandervoort2022")
        for name in ("label-brain_mask", "label-tumor_mask")
    ]
    # masks are cropped with the images
    assert {mask.GetSize() for mask in masks} == sizes
    assert (
        len(
            {mask.GetOrigin() for mask in masks}
            | {result.cohort.image(one.ids[0], "T2w", "vandervoort2022").GetOrigin()}
        )
        == 1
    )


def test_tissue_maps_lie_on_the_patient(whole):
    one = whole
    maps = {
        name: sitk.GetArrayFromImage(
            one.image(one.ids[0], f"label-{name}_probseg", "akkus2017")
        )
        for name in ("GM", "WM", "CSF")
    }
    brain = (
        sitk.GetArrayFromImage(one.image(one.ids[0], "label-brain_mask", "akkus2017"))
        > 0
    )
    assert all(0 <= values.min() and values.max() <= 1 for values in maps.values())
    total = sum(maps.values())
    assert total[brain].mean() > 0.9 and total[~brain].mean() < 0.1
    image = sitk.GetArrayFromImage(one.image(one.ids[0], "T2w", "akkus2017"))
    # fluid is bright on T2w
    assert (
        image[brain & (maps["CSF"] > 0.8)].mean()
        > image[brain & (maps["WM"] > 0.8)].mean() + 0.3
    )


def test_another_version_of_the_recipes_code_makes_the_images_again(monkeypatch):
    "code_version left preprocess out: a change there kept the old images."
    from glioma_repro.images import preprocess as module

    hashed = []
    monkeypatch.setattr(
        module, "sha256_of", lambda path: hashed.append(path.name) or "0"
    )
    module.code_version()
    assert sorted(hashed) == ["brain.py", "preprocess.py", "registration.py"]


def test_a_patient_without_a_mask_does_not_take_the_others_masks_away(cohort, quick):
    """Before, everybody was given the masks of the images as scanned, on images of
    another space.
    """
    from glioma_repro.images.slices import slice_cohort

    first, second = cohort.ids
    cohort.path(second, "label-tumor_mask", "truth").unlink()
    ready = prepared(cohort, quick, jobs=1)
    assert (
        ready.cohort.ids == cohort.ids
        and ready.cohort.space == ready.cohort.mask_source == "quick"
    )
    assert ready.cohort.mask(first, like=ready.cohort.image(first, "T2w"))
    samples, problems = slice_cohort(ready.cohort, jobs=1)
    assert set(samples.table["participant_id"]) == {first} and problems[
        "participant_id"
    ].tolist() == [second]
    assert "no tumour mask" in problems["problem"][0]


def test_choi2021_stops_before_what_depends_on_a_predicted_mask():
    recipe = load_recipe("choi2021")
    assert [step["step"] for step in recipe.steps] == ["register", "brain", "bias"]
    assert recipe.settings("brain")["fraction"] == 0.4
    assert recipe.done["stripped"] and "normalised" not in recipe.done
    with pytest.raises(ReproError, match="choi2021"):
        load_recipe("choi2021-model2")


def test_which_sequence_a_mask_was_drawn_on(raw):
    """The cohort's word, else the only sequence of its grid; a doubt is noted, and what
    cannot be known is an error.
    """
    from dataclasses import replace

    from glioma_repro.patients.core import PatientError
    from glioma_repro.images.preprocess import Job, _drawn_on

    one = raw.ids[0]
    images = {suffix: raw.image(one, suffix) for suffix in ("ce-gadolinium_T1w", "T2w")}
    mask, path = raw.mask(one), raw.path(one, "label-tumor_mask", "truth")
    still, moved = sitk.Transform(), sitk.TranslationTransform(3, (9.0, 0.0, 0.0))
    transforms = {"ce-gadolinium_T1w": moved, "T2w": still}

    def ask(job, mask):
        return _drawn_on(job, mask, path, transforms, images["T2w"])

    said = Job(one, raw, load_recipe("akkus2017"), 0, images)
    assert ask(said, mask) == "ce-gadolinium_T1w" and said.flags == []
    # one grid, and 9 mm apart
    alike = dict.fromkeys(images, images["ce-gadolinium_T1w"])
    unsaid = Job(one, replace(raw, provenance={}), load_recipe("akkus2017"), 0, alike)
    assert (
        ask(unsaid, mask) == "ce-gadolinium_T1w"
        and "taken as drawn on ce-gadolinium_T1w" in unsaid.flags[0]
    )
    lacking = Job(one, replace(raw, provenance={}), load_recipe("akkus2017"), 0, {})
    with pytest.raises(PatientError, match="does not take"):
        ask(lacking, mask)
    mask.SetOrigin((500.0, 0.0, 0.0))
    with pytest.raises(PatientError, match="none of the sequences"):
        ask(unsaid, mask)
