"""The run: strict parameters, run folders, interruption, reports that open offline."""

import base64
import errno
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import setuptools

from glioma_repro.patients.cohort import manifests
from glioma_repro.patients.core import (
    Cohort,
    DiskError,
    ReproError,
    map_patients,
    read_cohort,
    write_json,
    write_text,
)
from glioma_repro.runs.command import answer_line, known_cohorts, main
from glioma_repro.runs.execution import (
    _fingerprint_of,
    _prepare,
    cohort_folder,
    label_of,
    read_notebook,
    run,
    run_grid,
    run_view,
)
from glioma_repro.runs.parameters import (
    describe_parameters,
    find_notebook,
    notebooks,
    parameters_of,
    runnable,
    parse_value,
)
from glioma_repro.runs.report import _SCRIPT, report_index, table_html
from glioma_repro.runs.study import derivative_hashes

OPEN = "from glioma_repro.runs.study import open_study\nstudy = open_study('toy', dict(cohort=cohort, external=external, targets=targets, seed=seed, out=out))"
PARAMETERS = (
    "cohort = 'phantom'\nexternal = None\ntargets = 'all'\nseed = 0\nout = None"
)


def notebook(path, *cells):
    """A study of our own: parameters, opening, the given cells, finish."""
    made = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Toy\n\n$x^2$ <b>of</b> `$5`"),
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *[
                nbformat.v4.new_code_cell(cell)
                for cell in (OPEN, *cells, "results = study.finish()")
            ],
        ]
    )
    nbformat.write(made, path)
    return str(path)


@pytest.fixture
def toy(tmp_path):
    """A study that shows the ages, and says how often it was begun."""
    return notebook(
        tmp_path / "toy.ipynb",
        "study.table('ages', study.cohort.participants[['participant_id', 'age']], "
        "'Ages <script>')",
    )


def test_a_run_leaves_a_whole_folder(tiny, toy, tmp_path):
    folder = run(toy, tiny.folder, tmp_path / "runs")
    assert folder == tmp_path / "runs" / "tiny" / "toy" / "default"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["tables"]["ages"]["rows"][1] == ["sub-1", 62.5]
    assert (
        results["record"]["parameters"]["seed"] == 0
        and results["record"]["data"]["files"] == 1
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "Ages &lt;script&gt;" in page
    # a formula and a tag within a line are whole
    assert "<msup><mi>x</mi><mn>2</mn></msup></mrow></math> <b>of</b>" in page
    assert not re.search(r"(src|href)=.https?:", page), "the report must open offline"
    assert not [
        path
        for path in folder.parent.iterdir()
        if path.name.endswith((".work", ".old"))
    ]


def test_parameters_make_the_label_and_a_second_run_replaces_the_first(
    tiny, toy, tmp_path
):
    first = run(toy, tiny.folder, tmp_path / "runs", seed=3)
    assert first.name == "seed-3"
    (first / "figures").mkdir(exist_ok=True)
    (first / "figures" / "notes.txt").write_text("mine")
    (first / "report.html").write_text("old")
    assert run(toy, tiny.folder, tmp_path / "runs", seed=3) == first
    assert (first / "report.html").read_text() != "old", "what a run made is made again"
    assert (first / "figures" / "notes.txt").read_text() == "mine", (
        "what a person put there stays"
    )


def test_two_runs_that_differ_have_two_folders():
    """Before, -p seed -1 and -p seed 1 shared one."""
    defaults = {"seed": 0, "rate": 1.0, "words": "a"}
    tried = [{"seed": -1}, {"seed": 1}, {"rate": -0.5}, {"rate": 0.5}]
    tried += [{"words": "a b"}, {"words": "a-b"}, {"words": "a/b"}, {}]
    names = [label_of(defaults | one, defaults) for one in tried]
    assert len(set(names)) == len(tried), names
    assert not any("/" in one for one in names)


@pytest.mark.parametrize(
    "label", ["notes", ".", "..", "../..", "/tmp", "a/b", "", ".git"]
)
def test_a_label_never_takes_the_place_of_what_no_run_made(tiny, toy, tmp_path, label):
    place = tmp_path / "runs" / "tiny" / "toy" / "notes"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(ReproError, match="no run made it|plain name"):
        run(toy, tiny.folder, tmp_path / "runs", label=label)
    assert (place / "thesis.txt").read_text() == "years of work"
    assert sorted(one.name for one in place.parent.iterdir()) == ["notes"]


def test_a_cohort_stays_in_the_folder_of_runs_whatever_its_name(tiny, tmp_path):
    out = tmp_path / "runs"
    for name in ("../../evil", "/abs", "..", ".hidden", "a/b", "x" * 300, ""):
        place = cohort_folder(
            out, tiny.folder, Cohort(name, tiny.participants, tiny.folder)
        )
        assert (
            place.parent == out
            and not place.name.startswith(".")
            and len(place.name) < 120
        ), name


def test_two_cohorts_of_one_name_have_two_folders(tiny, tmp_path):
    out, other = (
        tmp_path / "runs",
        Cohort("tiny", tiny.participants, tmp_path / "elsewhere" / "tiny"),
    )
    write_json(out / "tiny" / ".cohort.json", {"folder": str(tiny.folder.resolve())})
    places = [cohort_folder(out, one.folder, one) for one in (tiny, other)]
    assert (
        places[0] == out / "tiny" and places[1] != places[0] and places[1].parent == out
    )


def test_the_fingerprint_knows_all_data_that_a_run_reads(tiny, toy, tmp_path):
    other = Cohort(
        "other",
        tiny.participants.assign(
            participant_id=[f"sub-x{number}" for number in range(4)]
        ),
        tmp_path / "other",
    )
    other.write()
    parameters = dict(
        cohort=str(tiny.folder), external=str(other.folder), device="cpu", images="mine"
    )
    lesson = nbformat.read(toy, as_version=4)
    before = _fingerprint_of(parameters, tiny, lesson)
    assert before == _fingerprint_of(parameters | {"jobs": 3}, tiny, lesson)
    assert before != _fingerprint_of(parameters | {"device": "cuda"}, tiny, lesson)
    other.participants.loc[0, "age"] = 77
    other.write()
    assert before != _fingerprint_of(parameters, tiny, lesson)
    made = tiny.folder / "derivatives" / "mine" / "sub-1" / "mask.txt"
    made.parent.mkdir(parents=True)
    made.write_text("1")
    assert [*derivative_hashes(tiny, parameters)] == ["derivatives/mine/sub-1/mask.txt"]


def test_a_run_begins_anew_where_a_derivative_was_changed_but_not_where_it_made_one(
    tmp_path,
):
    work = tmp_path / ".x.work"
    work.mkdir()
    _prepare(work, "mark", {})
    write_text(work / "checkpoints" / "one", "1")
    _prepare(work, "mark", {"derivatives/a": "h1"})
    assert (work / "checkpoints" / "one").exists()
    _prepare(work, "mark", {"derivatives/a": "h2"})
    assert not (work / "checkpoints" / "one").exists()


def test_a_full_disk_ends_the_run_and_leaves_nobody_out(
    tiny, toy, tmp_path, monkeypatch, capsys
):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="disk is full"):
        map_patients(
            lambda one: write_text(tmp_path / one, "x"), ["sub-1", "sub-2"], jobs=1
        )
    assert (
        main(
            ["run", toy, "--cohort", str(tiny.folder), "--out", str(tmp_path / "runs")]
        )
        == 1
    )
    assert "disk is full" in capsys.readouterr().err


def test_signs_in_paths_and_no_git(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no git there
    odd = Cohort("odd", tiny.participants, tmp_path / "back\\slash \\1")
    odd.write()
    toy = notebook(
        tmp_path / "toy.ipynb", "study.headline('idh', 0.8, 0.6, 0.9, chance=0.5)"
    )
    folder = run(toy, odd.folder, tmp_path / "{runs}", label="mine")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (
        results["record"]["commit"].startswith("version ")
        and results["headline"][0]["value"] == 0.8
    )
    assert answer_line(folder).startswith(
        "IDH mutation: AUROC 0.80 [0.60 to 0.90]; better than chance"
    )
    assert answer_line(folder).endswith("report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (
        page.index("real patients")
        < page.index("IDH mutation: AUROC 0.80")
        < page.index("<math")
    )
    assert "AUROC 0.80 [0.60 to 0.90]" in report_index(tmp_path / "{runs}").read_text(
        encoding="utf-8"
    )


WRONG_CALLS = [
    ["run", "TOY", "--cohort", "x" * 5000],
    ["run", "TOY", "--cohort", "/" + "x" * 5000],
    ["run", "TOY", "--cohort", "a\0b"],
    ["run", "TOY", "--cohort", "COHORT", "--external", "x" * 5000],
    ["run", "TOY", "--cohort", "x" * 5000 + ".csv"],
    ["run", "TOY", "--cohort", "phantom:" + "x" * 5000],
    ["run", "TOY", "--cohort", "~nobody-of-this-name/x"],
    ["run", "x" * 5000],
    ["run", "x" * 5000 + ".ipynb"],
    ["run", "TOY", "-p", "x" * 5000, "1"],
    ["run", "TOY", "-p", "seed", "none"],
    ["run", "TOY", "-p", "seed", "9" * 30],
    ["run", "TOY", "-p", "seed", "9" * 5000],
    ["run", "TOY", "-p", "seed", "(" * 5000],
    ["run", "TOY", "-p", "seed", "1e5"],
    ["run", "TOY", "-p", "seed"],
    ["run", "preprocess", "-p", "bias", "slow"],
    ["run", "core"],
    ["run", "BROKEN"],
    ["run", "EMPTY"],
    ["run", "LIST"],
    ["run", "LATIN"],
    ["run", "TOY", "--cohort", "COHORT", "--label", "a/b"],
    ["run", "TOY", "--cohort", "UNREADABLE"],
    ["report", "COHORT"],
    ["report", "x" * 5000],
    ["fetch", "x" * 5000],
    ["cohorts", "--folder", "x" * 5000],
]


@pytest.mark.parametrize(
    "call", WRONG_CALLS, ids=lambda call: " ".join(call)[:40].replace("\0", "NUL")
)
def test_a_wrong_call_is_one_line_and_a_status(
    tiny, toy, tmp_path, capsys, monkeypatch, call
):
    monkeypatch.chdir(tmp_path)
    files = {"BROKEN": '{"cells": [', "EMPTY": "", "LIST": "[1, 2]"}
    for name, text in files.items():
        (tmp_path / f"{name}.ipynb").write_text(text)
    (tmp_path / "LATIN.ipynb").write_bytes(b"\xff\xfe\x00")
    bad = tmp_path / "unreadable"
    (bad / "participants.tsv").mkdir(parents=True)
    names = {"TOY": toy, "COHORT": str(tiny.folder), "UNREADABLE": str(bad)} | {
        name: f"{name}.ipynb" for name in [*files, "LATIN"]
    }
    status = main([names.get(word, word) for word in call])
    said = capsys.readouterr().err.strip()
    assert status == 1 and said.startswith("glioma-repro: ") and "Traceback" not in said
    assert len(said.splitlines()) == 1 and len(said) < 2500, said[:300]


def test_the_word_that_a_parameter_knows_wins_over_none():
    described = describe_parameters(read_notebook(find_notebook("preprocess")))
    for name in ("bias", "brain"):
        assert (
            parse_value("none", described[name].default, name, described[name].choices)
            == "none"
        )
    assert (
        parse_value("folder/of/masks", None, "brain", described["brain"].choices)
        == "folder/of/masks"
    )


def test_one_damaged_record_does_not_stop_the_page_of_all(tiny, toy, tmp_path, capsys):
    folder = run(toy, tiny.folder, tmp_path / "runs")
    for number, text in enumerate(
        [
            '{"cohort"',
            "[]",
            "{}",
            '{"cohort": 1, "study": 2, "patients": 3, "record": 4}',
            "\xff",
        ]
    ):
        (tmp_path / "runs" / "tiny" / "toy" / f"broken{number}").mkdir()
        (
            tmp_path / "runs" / "tiny" / "toy" / f"broken{number}" / "results.json"
        ).write_text(text)
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert len(capsys.readouterr().err.strip().splitlines()) == 5
    page = (tmp_path / "runs" / "index.html").read_text(encoding="utf-8")
    assert "tiny/toy/default/report.html" in page and "broken4" in page
    results = folder / "results.json"
    results.write_text(
        results.read_text(encoding="utf-8").replace("62.5", "99.5"), encoding="utf-8"
    )
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert "was changed after the run" in capsys.readouterr().err


def test_output_that_nobody_reads_and_terminals_that_know_ascii_alone():
    code = "import sys; from glioma_repro.runs.command import main; sys.exit(main(sys.argv[1:]))"
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for words in (
        ["--help"],
        ["run", "--help"],
        ["run", "baselines", "--help"],
        ["cohorts"],
    ):
        told = subprocess.run(
            [sys.executable, "-c", code, *words], env=ascii_only, capture_output=True
        )
        assert told.returncode == 0 and told.stdout.isascii() and not told.stderr, words
    for redirection in (">&-", "| true"):
        line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} cohorts {redirection}"
        told = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert (
            "Traceback" not in told.stderr and "Exception ignored" not in told.stderr
        ), told.stderr


HEAVY = {"numpy", "pandas", "scipy", "SimpleITK", "nbformat", "torch", "matplotlib"}


@pytest.mark.parametrize(
    "words", [["run", "--list"], ["run", "baselines", "--help"], ["run", "baselinez"]]
)
def test_what_is_asked_before_a_run_loads_no_library_of_numbers(words):
    """Before, `run baselines --help` took seconds: pandas, SimpleITK and nbformat."""
    code = "import sys; from glioma_repro.runs.command import main; "
    code += f"main({words}); print('loaded:', *sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said, _, loaded = told.stdout.rpartition("loaded:")
    assert not HEAVY & set(loaded.split())
    assert said or "did you mean baselines?" in told.stderr


def test_tab_offers_every_cohort_without_reading_one():
    assert known_cohorts() == sorted(manifests())


def test_help_of_a_study_says_what_its_parameters_mean(tmp_path, capsys):
    assert main(["run", "report", "--help"]) == 0
    assert "seed 0" in (said := capsys.readouterr().out) and "of every draw" in said
    assert main(["run", "--list"]) == 0
    said = capsys.readouterr().out
    assert "baselines " in said and "What age, hospital" in said


def test_every_parameter_has_a_meaning():
    silent = {
        name
        for name, path in notebooks().items()
        if any(
            not one.meaning
            for one in describe_parameters(read_notebook(path), name).values()
        )
    }
    assert not silent, f"say behind each parameter what it means: {sorted(silent)}"


# parameters of which a study knows all words
CLOSED = {"precision", "protocol", "heads", "missing", "activation", "grid", "masks"}


def test_a_closed_parameter_has_its_words_as_choices(capsys):
    """Before, the words stood in the comment alone, and any other went into a run."""
    open_ones = {
        (name, one.name)
        for name, path in notebooks().items()
        for one in describe_parameters(read_notebook(path), name).values()
        if one.name in CLOSED
        if isinstance(one.default, str) and one.default not in one.choices
    }
    assert not open_ones, "write [one | another] at the comment's end"
    assert main(["run", "chang2018", "-p", "precision", "bf61"]) == 1
    assert "did you mean bf16? Known are float32, bf16" in capsys.readouterr().err
    assert main(["run", "chang2018", "--help"]) == 0
    assert "[float32 | bf16]" in capsys.readouterr().out


def test_the_wheel_carries_every_notebook_manifest_and_module(monkeypatch):
    root, given = Path(__file__).parent.parent, {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: given.update(words))
    runpy.run_path(str(root / "setup.py"))
    folders = {
        given["package_dir"].get(name, name.replace(".", "/"))
        for name in given["packages"]
    }
    carried = [
        path
        for kind, ends in (
            ("nbs", "ipynb"),
            ("data_manifests", "yaml"),
            ("data_manifests", "csv"),
            ("glioma_repro", "py"),
        )
        for path in (root / kind).rglob(f"*.{ends}")
        if ".ipynb_checkpoints" not in path.parts
    ]
    assert len(carried) > 60
    assert not [
        path
        for path in carried
        if path.parent.relative_to(root).as_posix() not in folders
    ]
    assert {f"*{path.suffix}" for path in carried if path.suffix != ".py"} <= set(
        given["package_data"][""]
    )


def test_an_unknown_parameter_is_an_error_that_names_the_nearest(tiny, toy, capsys):
    assert main(["run", toy, "--cohort", str(tiny.folder), "-p", "sede", "1"]) == 1
    assert "did you mean seed?" in capsys.readouterr().err
    assert main(["run", toy, "--cohort", str(tiny.folder), "-p", "seed", "many"]) == 1
    assert "seed" in capsys.readouterr().err


def test_unknown_cohort_study_and_target(tiny, toy, tmp_path, capsys):
    assert main(["run", toy, "--cohort", "tcga-lgg-slice"]) == 1
    assert "did you mean tcga-lgg-slices?" in capsys.readouterr().err
    assert main(["run", "baselinez"]) == 1
    assert "did you mean baselines?" in capsys.readouterr().err
    with pytest.raises(ReproError, match="did you mean idh"):
        run(toy, tiny.folder, tmp_path / "runs", targets="idx")


def test_a_folder_that_is_no_cohort(toy, tmp_path):
    with pytest.raises(ReproError, match="not a BIDS folder"):
        run(toy, tmp_path, tmp_path / "runs")


def test_external_patients_are_taken_away(tiny, tmp_path):
    toy = notebook(
        tmp_path / "toy.ipynb",
        "study.table('who', study.cohort.participants[['site']].drop_duplicates())",
        "study.table('external', "
        "study.external.participants[['site']].drop_duplicates())",
    )
    folder = run(toy, tiny.folder, tmp_path / "runs", external='site == "B"')
    tables = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tables"]
    assert tables["who"]["rows"] == [["A"]] and tables["external"]["rows"] == [["B"]]
    assert folder.name.startswith("external-site-B")


def test_a_failing_notebook_says_so_in_one_line_and_leaves_the_last_result(
    tiny, tmp_path, capsys
):
    toy = notebook(
        tmp_path / "toy.ipynb", "assert seed == 0 or not (study.folder / 'x').exists()"
    )
    folder = run(toy, tiny.folder, tmp_path / "runs", label="mine")
    before = (folder / "results.json").read_bytes()
    notebook(
        tmp_path / "toy.ipynb",
        "from glioma_repro.patients.core import PatientError\nraise "
        "PatientError('sub-1', 'the mask is empty')",
    )
    assert (
        main(
            [
                "run",
                toy,
                "--cohort",
                str(tiny.folder),
                "--out",
                str(tmp_path / "runs"),
                "--label",
                "mine",
            ]
        )
        == 1
    )
    assert capsys.readouterr().err.strip() == "glioma-repro: sub-1: the mask is empty"
    assert (folder / "results.json").read_bytes() == before


def started(*arguments):
    """The command in a process of its own."""
    command = [
        sys.executable,
        "-c",
        "import sys; from glioma_repro.runs.command import main; sys.exit(main())",
        *map(str, arguments),
    ]
    return subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=120):
    """Waits until something is so."""
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        time.sleep(0.2)
    assert condition()


WAITING = """import os, time
import joblib
from glioma_repro.patients.core import processes, write_text
resumed = [(study.checkpoints / name).exists() for name in ("step1", "step2")]
for name in ("step1", "step2"):
    write_text(study.checkpoints / name, "done")
def work(number):
    write_text(PLACE / f"worker{number}", str(os.getpid()))
    time.sleep(0 if any(resumed) else 600)
write_text(PLACE / "kernel", str(os.getpid()))
processes(2)(joblib.delayed(work)(number) for number in range(2))"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_leaves_no_process_and_goes_on_from_whole_checkpoints(
    tiny, tmp_path, how
):
    place = tmp_path / "pids"
    place.mkdir()
    toy = notebook(
        tmp_path / "toy.ipynb",
        f"from pathlib import Path\nPLACE = Path({str(place)!r})",
        WAITING,
        "study.say('resumed', str(resumed))",
    )
    process = started("run", toy, "--cohort", tiny.folder, "--out", tmp_path / "runs")
    wait_for(lambda: len(list(place.glob("[kw]*"))) == 3)
    children = [int(path.read_text()) for path in place.glob("[kw]*")]
    os.kill(process.pid, how)  # the command alone; its children must notice
    _, said = process.communicate(timeout=60)
    if how == signal.SIGTERM:
        assert (
            process.returncode == 143
            and "glioma-repro: stopped by TERM; start it again and it goes on" in said
        )
    assert "Traceback" not in said
    wait_for(
        lambda: (
            not any(
                psutil.pid_exists(one)
                and psutil.Process(one).status() != psutil.STATUS_ZOMBIE
                for one in children
            )
        ),
        30,
    )
    work = tmp_path / "runs" / "tiny" / "toy" / ".default.work"
    assert (
        work.exists() and not (tmp_path / "runs" / "tiny" / "toy" / "default").exists()
    )
    (work / "checkpoints" / "step2").write_text("somebody edited this")
    folder = run(toy, tiny.folder, tmp_path / "runs")
    assert (
        json.loads((folder / "results.json").read_text(encoding="utf-8"))["statements"][
            "resumed"
        ]
        == "[True, False]"
    )


def test_who_fell_out_is_a_table_and_nobody_is_a_sentence(tiny, tmp_path):
    toy = notebook(
        tmp_path / "toy.ipynb",
        "from dataclasses import replace\n"
        "fell = replace(study.cohort, flow=[('age known', 5, ['sub-x'])])\n"
        "kept = replace(study.cohort, flow=[('age known', 4, [])])\n"
        "assert study.inclusion(fell) and not study.inclusion(kept)",
    )
    folder = run(toy, tiny.folder, tmp_path / "runs")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["tables"]["flow"]["rows"] == [["age known", 5, 1, 4, "sub-x"]]
    assert results["statements"]["flow"] == "No rule leaves anybody out: 4 patients."


def test_a_checkpoint_of_other_data_is_not_used(tiny, toy, tmp_path):
    work = tmp_path / "runs" / "tiny" / "toy" / ".default.work" / "checkpoints"
    work.mkdir(parents=True)
    (work.parent / "fingerprint").write_text("another")
    (work / "step1").write_text("stale")
    toy = notebook(
        tmp_path / "toy.ipynb",
        "study.say('stale', str((study.checkpoints / 'step1').exists()))",
    )
    folder = run(toy, tiny.folder, tmp_path / "runs")
    assert (
        json.loads((folder / "results.json").read_text(encoding="utf-8"))["statements"][
            "stale"
        ]
        == "False"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
def test_an_output_folder_that_cannot_be_written(tiny, toy, tmp_path):
    blocked = tmp_path / "runs"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(ReproError, match="cannot be written"):
        run(toy, tiny.folder, blocked)


def test_a_read_only_cohort_can_be_run(tiny, toy, tmp_path):
    tiny.folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert (run(toy, tiny.folder, tmp_path / "runs") / "report.html").exists()
    finally:
        tiny.folder.chmod(stat.S_IRWXU)


def test_several_seeds_are_several_runs_and_one_page_lists_them(tiny, toy, tmp_path):
    folders, failed = run_grid(
        toy, [str(tiny.folder)], {"seed": [0, 1]}, tmp_path / "runs"
    )
    assert [folder.name for folder in folders] == ["default", "seed-1"] and not failed
    page = report_index(tmp_path / "runs").read_text(encoding="utf-8")
    # each stands in the matrix of cohorts and studies, and in the list of runs
    assert page.count("report.html") == 4


def test_html_in_a_label_is_text_in_the_report(tiny, tmp_path):
    table = read_cohort(tiny.folder).participants.assign(
        histology="<img src=x onerror=alert(1)>"
    )
    tiny.participants = table
    tiny.write()
    toy = notebook(
        tmp_path / "toy.ipynb",
        "study.table('all', study.cohort.participants)",
        "study.cohort",
    )
    page = (run(toy, tiny.folder, tmp_path / "runs") / "report.html").read_text(
        encoding="utf-8"
    )
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_every_notebook_can_be_run_by_its_name():
    for name, path in notebooks().items():
        assert find_notebook(name) == path
    for name, path in runnable().items():
        given = parameters_of(nbformat.read(path, as_version=4), name)
        assert {"cohort", "out", "seed"} <= set(given), name


def test_a_run_view_defines_nothing_that_the_library_has():
    for path in notebooks().values():
        lesson = nbformat.read(path, as_version=4)
        exported = [
            cell
            for cell in lesson.cells
            if cell.cell_type == "code"
            and re.search(r"^#\s*\|\s*export", cell.source, re.M)
        ]
        view = run_view(lesson)
        kept = {cell.source for cell in view.cells}
        assert not kept & {cell.source for cell in exported}, path.name
        for cell in view.cells:
            if cell.cell_type == "code":
                compile(cell.source, path.name, "exec")


def test_the_index_of_nothing_says_what_to_do(tmp_path):
    with pytest.raises(ReproError, match="no run in"):
        report_index(tmp_path)


ANSWERED = """import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display

found = pd.DataFrame({"auroc": [0.812345], "low": [0.79], "high": [0.83]})
study.table("found", found, "What was found.")
figure, axis = plt.subplots()
axis.plot([0, 1], label="a line")
axis.legend()
study.figure("late", figure, "A picture without numbers.")
assert axis.get_legend() is None and figure.legends, "a legend on the curves"
figure, axis = plt.subplots()
study.figure("answer", figure, "The method and its rival.", data=found)
study.headline("idh", 0.812345, 0.79, 0.83, chance=0.5)
display(HTML("<h2>How the images were prepared</h2>"))
study.say("images", "By a recipe.")"""


def test_the_first_screen_and_the_numbers_behind_a_figure(tiny, tmp_path):
    """Question, whose data, answer and its figure come before the contents; a heading
    that a study shows opens a section like any other.
    """
    folder = run(notebook(tmp_path / "toy.ipynb", ANSWERED), tiny.folder, tmp_path)
    page = (folder / "report.html").read_text(encoding="utf-8")
    words = ["<h1", 'class="banner"', "IDH mutation: AUROC 0.812 [0.790 to 0.830]"]
    words += ['class="answer"', "The method and its rival", "aria-label='Sections'"]
    words += ["What was found", "<summary><h2>How the images were prepared</h2>"]
    places = [page.index(one) for one in words]
    assert places == sorted(places), words
    assert "href='#part-1'>How the images were prepared" in page
    # the table: digits as the interval allows; the CSV: all of them
    assert "<td>0.812 [0.790 to 0.830]</td>" in page and "<td>0.812345" not in page
    saved = (folder / "figures" / "answer.csv").read_text(encoding="utf-8")
    assert saved == "auroc,low,high\n0.812345,0.79,0.83\n"
    inside = base64.b64encode(saved.encode()).decode()
    assert page.count(inside) == 2  # below the table, and below the figure
    # no place of this machine, on the page or in a file that it holds
    held = re.findall(r"data:text/csv;base64,([A-Za-z0-9+/=]+)", page)
    files = [base64.b64decode(one).decode() for one in held]
    assert any("parameter cohort,tiny" in one for one in files)
    assert str(tmp_path) not in "".join([page, *files])
    figures = json.loads((folder / "results.json").read_text())["figures"]
    assert figures["answer"]["data"] == "figures/answer.csv"
    assert "data" not in figures["late"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_table_sorts_by_the_values_before_their_intervals(tmp_path):
    """As text, 10.5 would come before 9.5 and -0.20 after -0.10; gaps come last."""
    values = [9.5, None, -0.2, 10.5, -0.1]
    table = pd.DataFrame({"who": list("abcde"), "value": values})
    table = table.assign(low=table["value"] - 0.05, high=table["value"] + 0.05)
    page = table_html(table, "table") + _SCRIPT
    page += "<script>document.querySelectorAll('th button')[1].click()</script>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    words = "--headless --no-sandbox --disable-gpu --dump-dom".split()
    shown = subprocess.run(
        ["chromium", *words, (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "[9.45 to 9.55]" in shown
    assert re.findall(r"<td>([a-e])</td>", shown) == list("ceadb")


BUSY = """from tqdm import tqdm
import sys, time
print('a warning', file=sys.stderr)
for one in tqdm(range(40), desc='patients', mininterval=0):
    time.sleep(0.01)"""


def test_progress_in_a_log_is_whole_lines_with_the_name_of_the_run(tiny, tmp_path):
    """Before, every bar filled the log with carriage returns."""
    toy = notebook(tmp_path / "toy.ipynb", BUSY)
    code = "import sys; from glioma_repro.runs.command import main; sys.exit(main())"
    words = ["run", toy, "--cohort", str(tiny.folder), "--out", str(tmp_path / "runs")]
    told = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "\r" not in told.stderr and told.stderr.endswith("\n")
    lines = told.stderr.splitlines()
    assert 1 <= len(lines) <= 3, lines  # one each half minute
    assert all(one.startswith("tiny/toy/default: ") for one in lines), lines
    assert "patients " in lines[0] and " of 40" in lines[0]


def test_bars_before_a_run_are_whole_lines_in_a_log():
    """A phantom is made, and a download comes, before any notebook runs."""
    code = "from glioma_repro.patients.core import tqdm; list(tqdm(range(9), desc='x'))"
    own = {key: value for key, value in os.environ.items() if key != "GLIOMA_RUN"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=own, capture_output=True, text=True
    )
    assert told.returncode == 0 and "\r" not in told.stderr
    lines = told.stderr.splitlines()
    assert 1 <= len(lines) <= 2 and "9/9" in lines[-1], lines


def test_tables_keep_every_digit(tiny, tmp_path):
    toy = notebook(
        tmp_path / "toy.ipynb",
        "import pandas as pd\nstudy.table('digits', pd.DataFrame({'value': [1 / 3, "
        "None]}))",
    )
    rows = json.loads(
        (run(toy, tiny.folder, tmp_path / "runs") / "results.json").read_text(
            encoding="utf-8"
        )
    )["tables"]["digits"]["rows"]
    assert rows == [[1 / 3], [None]]
