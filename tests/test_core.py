"""The loop over patients, atomic writing and the tables of the four nouns, from
outside.
"""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.patients.core import (
    PatientError,
    Predictions,
    ReproError,
    SchemaError,
    atomic_path,
    inside,
    map_patients,
    participant_label,
    predictions_of,
    read_cohort,
    read_predictions,
    read_samples,
    read_volume,
    validate_participants,
    write_json,
)

FOUR = [f"sub-{number}" for number in range(4)]


def answer(participant_id, bad, how):
    """Works for all patients but one, who fails in the given way."""
    if participant_id == bad and how == "raise":
        raise PatientError(participant_id, "the mask is empty")
    if participant_id == bad and how == "crash":
        raise ZeroDivisionError("a bug")
    if participant_id == bad and how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return participant_id, sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "how, words", [("raise", "mask is empty"), ("crash", "ZeroDivisionError: a bug")]
)
def test_one_patient_fails_and_the_others_go_on(jobs, how, words):
    results, problems = map_patients(answer, FOUR, jobs=jobs, bad="sub-2", how=how)
    assert list(results) == ["sub-0", "sub-1", "sub-3"]
    assert all(threads == 1 for _, threads in results.values())
    assert (
        problems["participant_id"].tolist() == ["sub-2"]
        and words in problems["problem"][0]
    )


def test_a_worker_that_dies_costs_its_own_patient_only():
    results, problems = map_patients(answer, FOUR, jobs=2, bad="sub-1", how="die")
    assert list(results) == ["sub-0", "sub-2", "sub-3"]
    assert (
        problems["participant_id"].tolist() == ["sub-1"]
        and "died" in problems["problem"][0]
    )


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two worker processes."""
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as made:
        yield made.scheduler_address


@pytest.mark.parametrize(
    "how, words",
    [
        ("raise", "mask is empty"),
        ("crash", "ZeroDivisionError: a bug"),
        ("die", "worker died"),
    ],
)
def test_patients_on_a_cluster(cluster, how, words):
    results, problems = map_patients(
        answer, FOUR, scheduler=cluster, bad="sub-3", how=how
    )
    assert list(results) == FOUR[:3]
    assert all(threads == 1 for _, threads in results.values())
    assert (
        problems["participant_id"].tolist() == ["sub-3"]
        and words in problems["problem"][0]
    )


def test_a_scheduler_that_does_not_answer_is_named():
    pytest.importorskip("dask.distributed")
    with pytest.raises(ReproError, match="no Dask scheduler answers at nowhere://x"):
        map_patients(answer, FOUR, scheduler="nowhere://x", bad=None, how="raise")


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_path(tmp_path / "table.csv") as temporary,
    ):
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "a/../b", "a\\b", "", "---", "/"]
)
def test_no_name_leads_out_of_its_folder(name):
    with pytest.raises(PatientError):
        participant_label(name)


def test_inside(tmp_path):
    assert inside(tmp_path, "a", "b") == tmp_path / "a" / "b"
    with pytest.raises(ReproError):
        inside(tmp_path, "..", "x")
    with pytest.raises(ReproError):
        inside(tmp_path, "/etc/passwd")


def volume(path, array, vector=False):
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def test_volumes_that_are_none(tmp_path):
    nan = np.zeros((3, 4, 5), np.float32)
    nan[1, 1, 1] = np.nan
    for path, words in [
        (tmp_path / "absent.nii.gz", "is missing"),
        (volume(tmp_path / "nan.nii.gz", nan), "NaN"),
        (
            volume(tmp_path / "4d.nii.gz", np.zeros((2, 3, 4, 5), np.float32)),
            "4D with 1 value",
        ),
        (
            volume(tmp_path / "rgb.nii.gz", np.zeros((3, 4, 5, 3), np.float32), True),
            "3 values a voxel",
        ),
    ]:
        with pytest.raises(PatientError, match=words):
            read_volume(path, "sub-1")
    whole = volume(
        tmp_path / "cut.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9))
    )
    whole.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(PatientError, match=r"sub-1: .*cut.nii.gz"):
        read_volume(whole, "sub-1")


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("idh", "IDHmut", "'IDHmut' is not one of wildtype, mutant"),
        ("age", "old", "not every value is a number"),
        ("who_grade", 2.5, "whole number"),
        ("participant_id", "sub-1", "twice"),
        ("participant_id", "sub-a/b", "letters and digits"),
        ("participant_id", None, "letters and digits"),
    ],
)
def test_a_table_with_an_unexpected_word(column, value, words):
    table = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-2"],
            "idh": ["mutant", None],
            "age": ["40", "n"],
            "who_grade": [2, 3],
        }
    )
    table["age"] = ["40", "50"]
    table = table.astype(object)
    table.loc[1, column] = value
    with pytest.raises(SchemaError, match=words):
        validate_participants(table, "participants.tsv")


def test_a_cohort_survives_the_disk(tiny):
    again = read_cohort(tiny.folder)
    pd.testing.assert_frame_equal(again.participants, tiny.participants)
    assert (again.name, again.title, again.voxel_size_known) == (
        tiny.name,
        tiny.title,
        True,
    )
    assert again.labels("idh").isna().sum() == 1
    first = (tiny.folder / "participants.tsv").read_bytes()
    again.write()
    assert (tiny.folder / "participants.tsv").read_bytes() == first


def test_an_unknown_label_is_never_a_number(tiny):
    text = (tiny.folder / "participants.tsv").read_text(encoding="utf-8")
    assert "\t-1" not in text and "n/a" in text


def test_a_query_that_cannot_be_read_names_the_columns(tiny):
    for query in ["sitte == 'A'", "age >", "@__import__('os').system('true')"]:
        with pytest.raises(ReproError, match="cannot be read"):
            tiny.subset(query)
    with pytest.raises(ReproError, match="nobody is left"):
        tiny.subset("age > 200")


def test_predictions_survive_the_disk_byte_for_byte(tmp_path):
    scores = np.random.default_rng(0).dirichlet([1, 1, 1], 7)
    table = pd.DataFrame({"participant_id": [f"sub-{number}" for number in range(7)]})
    made = predictions_of(
        scores,
        ("2", "3", "4"),
        table,
        ["2", "3", "4", None, "2", "3", "NA"][:6] + ["4"],
        study="s",
        model="m",
        cohort="c",
        protocol="patients",
        subset="external",
        target="grade",
        repeat=0,
        seed=1,
    )
    path = made.write(tmp_path / "predictions.csv")
    again = read_predictions(path)
    pd.testing.assert_frame_equal(again.table, made.table)
    assert again.write(tmp_path / "again.csv").read_bytes() == path.read_bytes()
    assert (made.wide()[["2", "3", "4"]].to_numpy() == scores).all()
    assert made.table["fold"].isna().all()


def test_a_table_that_is_no_predictions(tmp_path):
    (tmp_path / "a.csv").write_text("study,model\nx,y\n")
    with pytest.raises(SchemaError, match="column cohort is missing"):
        read_predictions(tmp_path / "a.csv")
    with pytest.raises(ReproError, match="is missing"):
        read_predictions(tmp_path / "b.csv")
    with pytest.raises(SchemaError, match="unknown column"):
        Predictions(pd.DataFrame({"wrong": [1]}))


def test_samples_are_never_unpickled(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    np.save(
        folder / "inputs.npy", np.array([object()], dtype=object), allow_pickle=True
    )
    for name in ("table.csv", "targets.csv"):
        (folder / name).write_text("participant_id\nsub-1\n")
    write_json(folder / "samples.json", {"names": ["a"]})
    for memory_map in (True, False):
        with pytest.raises(
            ValueError, match="Python objects|allow_pickle|Object arrays"
        ):
            read_samples(folder, memory_map)
