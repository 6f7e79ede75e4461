"""The run: strict parameters, run folders, interruption, reports that open offline."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import nbformat
import pytest

from glioma_repro.patients.core import ReproError, read_cohort
from glioma_repro.runs.command import main
from glioma_repro.runs.execution import (
    find_notebook,
    notebooks,
    parameters_of,
    run,
    run_grid,
    run_view,
)
from glioma_repro.runs.report import report_index

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
                for cell in (OPEN, *cells, "study.finish()")
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
    assert "<script>" not in page and "Ages &lt;script&gt;" in page and "<math" in page
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
    (first / "old").write_text("")
    assert (
        run(toy, tiny.folder, tmp_path / "runs", seed=3) == first
        and not (first / "old").exists()
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


def test_a_killed_run_goes_on_from_its_checkpoint(tiny, tmp_path):
    toy = notebook(
        tmp_path / "toy.ipynb",
        (
            "import time\nmark = study.checkpoints / 'step1'\n"
            "resumed = mark.exists()\nmark.write_text('done')\n"
            "if not resumed: time.sleep(600)"
        ),
        "study.say('resumed', str(resumed))",
    )
    command = [
        sys.executable,
        "-c",
        "import sys; from glioma_repro.runs.command import main; sys.exit(main())",
        "run",
        toy,
        "--cohort",
        str(tiny.folder),
        "--out",
        str(tmp_path / "runs"),
    ]
    process = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.DEVNULL
    )
    mark = (
        tmp_path / "runs" / "tiny" / "toy" / ".default.work" / "checkpoints" / "step1"
    )
    deadline = time.time() + 120
    while not mark.exists() and time.time() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (
        mark.exists() and not (tmp_path / "runs" / "tiny" / "toy" / "default").exists()
    )
    folder = run(toy, tiny.folder, tmp_path / "runs")
    assert (
        json.loads((folder / "results.json").read_text(encoding="utf-8"))["statements"][
            "resumed"
        ]
        == "True"
    )


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
    assert page.count("report.html") == 2


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
        assert {"cohort", "out", "seed"} <= set(
            parameters_of(nbformat.read(path, as_version=4), name)
        ), name


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
