"""The rules of tools/check_notebooks.py see what breaks them."""

import importlib.util
from pathlib import Path

import nbformat

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check_notebooks.py"


def problems_of(folder, source):
    "What the tool says of a notebook with a parameters cell and this one."
    spec = importlib.util.spec_from_file_location("check_notebooks", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    parameters = nbformat.v4.new_code_cell("seed = 0")
    parameters.metadata["tags"] = ["parameters"]
    cell = nbformat.v4.new_code_cell(source)
    path = folder / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, cell]), path)
    return cell.id, tool.problems(path)


def test_a_code_cell_has_at_most_80_lines(tmp_path):
    assert problems_of(tmp_path, "\n".join(["x = 1"] * 80))[1] == []
    one, said = problems_of(tmp_path, "\n".join(["x = 1"] * 81))
    assert len(said) == 1 and one in said[0] and "81 lines" in said[0]
