"""The loop over patients, atomic writing and the tables of the four nouns, from
outside.
"""

import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from glioma_repro.patients.core import (
    Cohort,
    PatientError,
    Predictions,
    ReproError,
    Samples,
    SchemaError,
    atomic_path,
    identity,
    inside,
    log_to,
    map_patients,
    participant_label,
    predictions_of,
    read_cohort,
    read_predictions,
    read_samples,
    read_volume,
    validate_participants,
    write_json,
    write_volume,
)
from glioma_repro.patients.cohort import flow_table, read_mapped
from glioma_repro.patients.files import read_json

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


# --- what was wrong before ---


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_unforeseen_failure_leaves_its_traceback_in_the_log_and_the_threads_alone(
    tmp_path, jobs
):
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(5)
    with log_to(tmp_path / "problems.log"):
        _, problems = map_patients(answer, FOUR, jobs=jobs, bad="sub-2", how="crash")
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 5
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert (
        problems["problem"].tolist() == ["ZeroDivisionError: a bug"]
        and type(problems["problem"][0]) is str
    )
    text = (tmp_path / "problems.log").read_text(encoding="utf-8")
    assert (
        "sub-2: Traceback" in text
        and 'raise ZeroDivisionError("a bug")' in text
        and text.count("Traceback (most recent") == 1
        and "ZeroDivisionError: a bug" not in text  # a message may quote a path
    )
    with log_to(tmp_path / "none.log"):
        map_patients(answer, FOUR, jobs=1, bad="sub-2", how="raise")
    assert not (tmp_path / "none.log").exists()  # what a PatientError says is enough


def some_samples(value):
    """One sample of one patient."""
    return Samples(
        np.full((1, 1, 2, 2), value),
        pd.DataFrame(dict(participant_id=["sub-1"], slice=[3])),
        pd.DataFrame(dict(idh=["mutant"]), dtype="string"),
        ("a",),
    )


def test_samples_replace_older_samples_and_nothing_else(tmp_path):
    for value in (1.0, 2.0):
        some_samples(value).write(tmp_path / "samples")
    again = read_samples(tmp_path / "samples")
    assert (
        again.inputs[0, 0, 0, 0] == 2.0
        and again.table["slice"].tolist() == [3]
        and [path.name for path in tmp_path.iterdir()] == ["samples"]
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(ReproError, match=f"{name} is there and holds no samples"):
            some_samples(3.0).write(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years" and (
        tmp_path / "file"
    ).read_text() == "x"


def test_an_unknown_patient_is_named(tiny):
    with pytest.raises(ReproError, match="cohort tiny has no patient sub-77, sub-78"):
        tiny.subset(["sub-1", "sub-77", "sub-78"])


@pytest.mark.parametrize(
    "name,who",
    [
        ("TCGA-CS-4941", "TCGA-CS-4941"),
        ("tcga.cs.4941", "TCGA-CS-4941"),
        ("sub-TCGACS4941", "TCGA-CS-4941"),
        ("TCGA-CS-4941-01A-11D", "TCGA-CS-4941"),
        ("TCGA_CS_4941_19960909", "TCGA-CS-4941"),
        ("TCGA-CS-A4941", "c:TCGA-CS-A4941"),
        ("TCGA-CS-49410", "c:TCGA-CS-49410"),
        ("TCGA-CS-494", "c:TCGA-CS-494"),
    ],
)
def test_whose_barcode(name, who):
    assert identity(name, "c") == who


def test_zero_days_of_survival_are_kept_and_unknown_stays_unknown():
    table = validate_participants(
        pd.DataFrame(
            dict(
                participant_id=["sub-1", "sub-2"],
                survival_days=["0", None],
                age=[0, 120],
                death=["1", None],
            )
        )
    )
    assert (
        table["survival_days"].tolist()[0] == 0
        and table["survival_days"].isna()[1]
        and table["age"].tolist() == [0, 120]
    )


# --- BIDS ---


def test_what_bids_allows_is_read(tmp_path):
    words = {
        "male": "m M male Male MALE".split(),
        "female": "f F female Female FEMALE".split(),
        "other": "o O other Other OTHER".split(),
    }
    rows = [(word, ours) for ours, spellings in words.items() for word in spellings] + [
        ("n/a", None),
        ("N/A", None),
    ]
    lines = [
        f"sub-{number:02d}\t{word}\t{'89+' if number else 'n/a'}\tn/a"
        for number, (word, _) in enumerate(rows)
    ]
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsex\tage\thandedness\n" + "\n".join(lines) + "\n"
    )
    table = read_cohort(tmp_path).participants
    assert [None if pd.isna(word) else word for word in table["sex"]] == [
        ours for _, ours in rows
    ]
    assert (
        table["age"].isna().tolist() == [True] + [False] * 16
        and table["age"].max() == 89
        and table["handedness"].isna().all()
    )


def bids_set(folder):
    """A cohort with what is awkward: quotes and line breaks, unknown words, somebody
    left out.
    """
    table = pd.DataFrame(
        dict(
            participant_id=["sub-01", "sub-02"],
            age=[40.5, None],
            sex=["other", None],
            idh=["mutant", None],
            survival_days=[0, 20.0],
            histology=['a "b"\tc', "two\nlines"],
            theirs=["x", None],
        )
    )
    cohort = Cohort(
        "awkward",
        table,
        folder,
        problems=pd.DataFrame(
            [("sub-03", 'line\nbreak "q"')], columns=["participant_id", "problem"]
        ),
    )
    cohort.write()
    for one in cohort.ids:
        noise = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
        write_volume(sitk.GetImageFromArray(noise), cohort.path(one, "T1w"))
    return cohort


def test_what_is_written_keeps_the_rules_of_bids(tmp_path):
    cohort = bids_set(tmp_path)
    lines = (tmp_path / "participants.tsv").read_bytes().decode("utf-8").split("\n")
    assert (
        lines[0].split("\t")[0] == "participant_id"
        and lines.pop() == ""
        and len({line.count("\t") for line in lines}) == 1
    )
    assert (
        "" not in [cell for line in lines for cell in line.split("\t")]
        and [line.split("\t")[0] for line in lines[1:]] == cohort.ids
    )
    described = read_json(tmp_path / "participants.json")
    assert sorted(described) == sorted(lines[0].split("\t")) and all(
        entry["Description"] for entry in described.values()
    )
    assert all(
        isinstance(entry.get("Levels", {}), dict)
        and isinstance(entry.get("Units", ""), str)
        for entry in described.values()
    )
    about = read_json(tmp_path / "dataset_description.json")
    assert (
        about["Name"]
        and re.fullmatch(r"\d+\.\d+\.\d+", about["BIDSVersion"])
        and about["DatasetType"] == "raw"
        and isinstance(about["License"], str)
    )
    ignored = (tmp_path / ".bidsignore").read_text().split()
    known = {
        "participants.tsv",
        "participants.json",
        "dataset_description.json",
        ".bidsignore",
        "sub-01",
        "sub-02",
        "derivatives",
        *ignored,
    }
    assert {path.name for path in tmp_path.iterdir()} <= known
    again = read_cohort(tmp_path)
    assert again.participants["histology"].tolist() == [
        'a "b" c',
        "two lines",
    ] and again.problems["problem"].tolist() == ['line break "q"']
    (tmp_path / ".bidsignore").write_text("mine\n")
    again.write()
    assert (tmp_path / ".bidsignore").read_text() == "mine\n"  # a person's file stays


@pytest.mark.parametrize("program", ["bids-validator", "bids-validator-deno"])
def test_the_validator_of_bids_finds_no_error(tmp_path, program):
    if shutil.which(program) is None:
        pytest.skip(
            f"{program} is not installed (npm install -g bids-validator; pip install "
            "bids-validator-deno)"
        )
    bids_set(tmp_path / "set")
    done = subprocess.run(
        [program, str(tmp_path / "set"), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    issues = json.loads(done.stdout[done.stdout.index("{") :])["issues"]
    errors = issues.get("errors") or [
        one for one in issues.get("issues", []) if one["severity"] == "error"
    ]
    assert not errors


def test_a_bids_folder_without_a_table_says_what_to_do(tmp_path):
    for one in ("sub-01", "sub-02"):
        (tmp_path / one / "ses-pre" / "anat").mkdir(parents=True)
    with pytest.raises(ReproError, match="no participants.tsv.*sub-01, sub-02"):
        read_cohort(tmp_path)


def test_one_session_a_patient_is_read_and_said(tmp_path):
    """The named session, else the first; masks and images of it, in BIDS' names."""
    volume = sitk.GetImageFromArray(np.arange(8.0).reshape(2, 2, 2))
    for number, session in enumerate(("ses-post", "ses-pre")):
        for root in (tmp_path, tmp_path / "derivatives" / "manual"):
            folder = root / "sub-01" / session / "anat"
            folder.mkdir(parents=True)
            mine = volume + float(number)
            for suffix in ("FLAIR", "label-tumor_mask"):
                name = f"sub-01_{session}_{suffix}.nii.gz"
                sitk.WriteImage(mine, str(folder / name))
    (tmp_path / "sub-02" / "anat").mkdir(parents=True)
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\nsub-01\nsub-02\n")
    first = read_cohort(tmp_path)
    assert first.ids == ["sub-01", "sub-02"] and first.sequences("sub-01") == ["FLAIR"]
    assert sitk.GetArrayFromImage(first.image("sub-01", "FLAIR")).max() == 7
    said = first.problems.set_index("participant_id")["problem"]
    assert "2 sessions (ses-post, ses-pre); ses-post is read" in said["sub-01"]
    assert "sub-02" not in said and len(flow_table(first)) == 0
    table.write_text("participant_id\tsession_id\nsub-01\tpre\nsub-02\tn/a\n")
    chosen = read_mapped(tmp_path)
    assert sitk.GetArrayFromImage(chosen.image("sub-01", "FLAIR")).max() == 8
    mask = chosen.path("sub-01", "label-tumor_mask", "manual")
    assert mask.exists() and "ses-pre" in mask.name and not len(chosen.problems)
    # what is computed stands by patient, as for everybody else
    made = chosen.path("sub-01", "T1w", "recipe")
    assert made == tmp_path / "derivatives/recipe/sub-01/anat/sub-01_T1w.nii.gz"
    table.write_text("participant_id\tsession_id\nsub-01\tses-9\nsub-02\tn/a\n")
    with pytest.raises(ReproError, match="sub-01 has no session 'ses-9'.*ses-post"):
        read_cohort(tmp_path)
