"""The rules of tools/check_notebooks.py see what breaks them."""

import importlib.util
from pathlib import Path

import nbformat
import yaml

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check_notebooks.py"


def the_tool():
    "tools/check_notebooks.py as a module."
    spec = importlib.util.spec_from_file_location("check_notebooks", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def problems_of(folder, source):
    "What the tool says of a notebook with a parameters cell and this one."
    tool = the_tool()
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


def test_update_raises_no_allowance_and_adds_none(tmp_path, monkeypatch, capsys):
    tool = the_tool()
    before = {
        "wide lines": {"a.py": 3, "b.py": 2, "gone.py": 1},
        "long functions": {"a.py": {"f": 50, "g": 60}, "gone.py": {"h": 41}},
    }
    now = {
        "wide lines": {"a.py": 1, "b.py": 5, "new.py": 1},
        "long functions": {"a.py": {"f": 70, "g": 45, "i": 99}, "new.py": {"k": 41}},
    }
    path = tmp_path / "allowances.yaml"
    path.write_text(yaml.safe_dump(before), encoding="utf-8")
    monkeypatch.setattr(tool, "ALLOWANCES", path)
    monkeypatch.setattr(tool, "measured", lambda: now)
    monkeypatch.setattr(tool, "notebooks", lambda: [])
    assert tool.main(update=True) == 1
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {
        "wide lines": {"a.py": 1, "b.py": 2},
        "long functions": {"a.py": {"f": 50, "g": 45}},
    }
    said = capsys.readouterr().out
    for word in ("b.py: wide lines: 5; 2", "new.py: wide lines: 1; 0", "f, lines: 70"):
        assert word in said
