"""The study vandervoort2022_table2: every cell of Table 2 from the published file;
without it, made-up scores and no verdict.
"""

import json
import re

import matplotlib
import nbformat
import pytest

matplotlib.use("agg")

from glioma_repro.statistics.claims import find_scores, read_claims
from glioma_repro.patients.core import carried

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
    wrong = {
        (row["subset"], row["model"].split(", ")[1], row["quantity"])
        for row in table
        if row["verdict"] != "reproduced"
    }
    assert wrong == {
        ("all", "1p/19q", "sensitivity"),
        ("LGG", "1p/19q", "sensitivity"),
        ("all", "Grade II", "sensitivity"),
    }
    assert all(
        row["rounded twice gives the published value"]
        for row in rows(real, "rounded_twice")
    )
    ends = [row["interval_verdict"] for row in table if row["quantity"] == "auroc"]
    assert ends.count("reproduced") >= 9


@published
def test_table1_and_the_impossible_patient(real):
    assert all(
        row["verdict"] == "reproduced"
        for row in rows(real, "table1")
        if row["reproduced"] is not None
    )
    assert rows(real, "impossible_verdict")[0]["verdict"] == "reproduced"


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
