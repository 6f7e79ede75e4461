"""The study vandervoort2022_table2: every cell of Table 2 from the published file;
without it, made-up scores and no verdict.
"""

import json
import re

import matplotlib
import nbformat
import pytest

matplotlib.use("agg")

from glioma_repro.statistics.claims import (
    find_scores,
    included_patients,
    open_scores,
    read_claims,
)
from glioma_repro.patients.core import carried, real_data
from glioma_repro.statistics.figures import plot_roc

published = pytest.mark.skipif(
    find_scores() is None, reason="the published scores are not here (GLIOMA_DATA)"
)


def run(folder, **parameters):
    "Runs the notebook's cells with these parameters; gives results.json."
    notebook = nbformat.read(
        carried("notebooks", "studies", "vandervoort2022_table2.ipynb"), as_version=4
    )
    space = {"__name__": "study"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "vandervoort2022_table2", "exec"), space)
            if "parameters" in cell.metadata.get("tags", []):
                space.update(parameters, out=str(folder))
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def rows(results, key):
    table = results["tables"][key]
    return [dict(zip(table["columns"], row)) for row in table["rows"]]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    return run(
        tmp_path_factory.mktemp("made_up"), cohort="phantom", draws=500, iterations=100
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return run(
        tmp_path_factory.mktemp("real"),
        cohort="prognosais",
        draws=4000,
        iterations=2500,
    )


def test_made_up_scores_get_no_verdict(made_up):
    assert made_up["phantom"] and "made up" in made_up["statements"]["made_up"]
    assert {row["verdict"] for row in rows(made_up, "table2")} == {"not testable here"}
    assert {row["verdict"] for row in rows(made_up, "table1")} == {"not testable here"}
    assert "table2_summary" not in made_up["statements"]


def test_every_cell_is_there_even_without_the_file(made_up):
    claims = read_claims("vandervoort2022").query(
        "source == 'Table 2' and kind == 'result'"
    )
    assert len(rows(made_up, "table2")) == len(claims) == 38 and all(
        row["reproduced"] is not None for row in rows(made_up, "table2")
    )


@published
def test_table2_comes_out(real):
    table = rows(real, "table2")
    twice = {
        (row["subset"], row["model"].split(", ")[1], row["quantity"])
        for row in table
        if row["verdict"] == "rounded twice"
    }
    assert twice == {
        ("all", "1p/19q", "sensitivity"),
        ("LGG", "1p/19q", "sensitivity"),
        ("all", "Grade II", "sensitivity"),
    }
    assert [row["verdict"] for row in table].count("exact") == len(table) - 3
    assert len(rows(real, "not_exact")) == 3
    ends = [row["interval_verdict"] for row in table if row["quantity"] == "auroc"]
    assert ends.count("exact") + ends.count("within Monte-Carlo error") >= 9


@published
def test_the_answer_stands_first(real):
    first = list(real["statements"])[:4]
    assert first == [
        "answer_idh",
        "answer_codel_1p19q",
        "answer_grade",
        "table2_summary",
    ]
    assert next(iter(real["figures"])) == "answer"
    assert (
        "AUROC 0.896" in real["statements"]["answer_idh"]
        and "prints 0.90 (0.85 to 0.95): the value is exact"
        in real["statements"]["answer_idh"]
    )
    assert "sensitivity 0.38" in real["statements"]["answer_codel_1p19q"]
    assert (
        "35 are exact to the printed digit, 3 were rounded twice and 0 differ"
        in real["statements"]["table2_summary"]
    )


@published
def test_figure_2_by_collection(real):
    table = {row["collection"]: row for row in rows(real, "figure2")}
    assert len(table) == 11 and table["Erasmus MC"]["verdict"] == "not testable here"
    if real_data() is not None and included_patients() is not None:
        assert sum(row["verdict"] == "exact" for row in table.values()) == 7
        assert (
            "387 public training patients IDH is known for 38 (6 mutant)"
            in real["statements"]["figure2_summary"]
        )
    assert (
        table["TCGA-GBM"]["screened"],
        table["TCGA-GBM"]["excluded"],
        table["TCGA-GBM"]["kept"],
    ) == (262, 129, 133)


@published
def test_table1_and_the_impossible_patient(real):
    table = {row["quantity"]: row for row in rows(real, "table1")}
    assert all(
        row["verdict"] == "exact"
        for row in table.values()
        if row["reproduced"] is not None
    )
    assert (table["IDH mutant"]["training"], table["IDH mutant"]["published"]) == (
        226,
        88,
    )
    assert rows(real, "impossible_verdict")[0]["verdict"] == "exact"


@published
def test_confident_errors_of_appendix_k_have_patients_like_them(real):
    errors = rows(real, "confident_errors")
    assert (
        all(0 <= row["confident"] <= row["errors"] for row in errors)
        and sum(row["errors"] for row in errors) > 50
    )
    assert all(row["patients like it"] >= 1 for row in rows(real, "confident_examples"))


@published
def test_marks_of_the_grades_are_those_of_table_2(real):
    """The ROC curves' symbols stand at the sensitivity and specificity that the table
    reports, not at a score of 0.5.
    """
    figure = plot_roc(open_scores()[0].select(target="grade"), iterations=20)
    marks = [
        line.get_xydata()[0]
        for line in figure.axes[0].lines
        if line.get_marker() not in ("", "None", None) and len(line.get_xydata()) == 1
    ]
    table = {
        (row["model"].split(", ")[1], row["quantity"]): row["reproduced"]
        for row in rows(real, "table2")
        if row["subset"] == "all"
    }
    assert len(marks) == 3
    for (x, y), name in zip(marks, ("Grade II", "Grade III", "Grade IV")):
        assert y == pytest.approx(
            table[name, "sensitivity"]
        ) and 1 - x == pytest.approx(table[name, "specificity"])


@published
def test_no_patient_is_named_in_the_report(real):
    for key, table in real["tables"].items():
        assert not re.search(
            r"TCGA.?[A-Z0-9]{2}.?[A-Z0-9]{4}(?![A-Za-z0-9])", json.dumps(table["rows"])
        ), key
    assert not re.search(
        r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}",
        carried("notebooks", "studies", "vandervoort2022_table2.ipynb").read_text(
            encoding="utf-8"
        ),
    )
