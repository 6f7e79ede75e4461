"""The rules of tools/check_notebooks.py see what breaks them; one name of the package
has one meaning."""

import ast
import importlib.util
from collections import defaultdict
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


def problems_of(folder, *cells):
    "What the tool says of a notebook with a parameters cell and these."
    tool = the_tool()
    parameters = nbformat.v4.new_code_cell("seed = 0")
    parameters.metadata["tags"] = ["parameters"]
    path = folder / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, *cells]), path)
    return tool.problems(path)


def test_a_code_cell_has_at_most_80_lines(tmp_path):
    fits, long = (
        nbformat.v4.new_code_cell("\n".join(["x = 1"] * lines)) for lines in (80, 81)
    )
    assert problems_of(tmp_path, fits) == []
    (said,) = problems_of(tmp_path, long)
    assert long.id in said and "81 lines" in said


def test_a_lesson_shows_or_tests_what_it_exports(tmp_path):
    most = the_tool().LONGEST_ROW

    def row(cells):
        "Exported cells with a word before each."
        word = nbformat.v4.new_markdown_cell("And:")
        pairs = [(word, nbformat.v4.new_code_cell("#| export")) for _ in range(cells)]
        return [cell for pair in pairs for cell in pair]

    shown, long = nbformat.v4.new_code_cell("assert True"), row(most + 1)
    assert problems_of(tmp_path, *row(most), shown, *row(most)) == []
    (said,) = problems_of(tmp_path, shown, *long)
    assert f"{most + 1} exported cells in a row" in said
    assert long[1].id in said and long[-1].id in said
    # a study has no lesson to give, and exports nothing
    (tmp_path / "studies").mkdir()
    assert problems_of(tmp_path / "studies", *long) == []


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


def public_names(tree):
    "What a module defines for others: functions, classes, constants; no methods."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if any("patch" in ast.unparse(one) for one in node.decorator_list):
                continue
            names = [node.name]
        elif isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def clashes(folder):
    "Public names that two modules of a package define: {name: modules}."
    found = defaultdict(set)
    for path in sorted(folder.rglob("*.py")):
        if not path.name.startswith("_"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for name in public_names(tree):
                found[name].add(path.relative_to(folder).as_posix())
    return {name: sorted(where) for name, where in found.items() if len(where) > 1}


def test_one_name_has_one_meaning(tmp_path):
    (tmp_path / "a.py").write_text("KINDS = 1\n_x = 1\nclass C: pass\n")
    (tmp_path / "b.py").write_text("KINDS = 2\n_x = 2\nclass C: pass\n")
    assert clashes(tmp_path) == {"KINDS": ["a.py", "b.py"], "C": ["a.py", "b.py"]}
    package = TOOL.parent.parent / "glioma_repro"
    assert clashes(package) == {}, "give each meaning its own name"


def private_imports(folder):
    "Names with an underscore that one module of a package takes from another."
    found = set()
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [one.name for one in node.names]
                inner = node.level or (node.module or "").startswith("glioma_repro")
                found |= {one for one in names if inner and one.startswith("_")}
    return found


def test_what_another_module_needs_has_a_public_name(tmp_path):
    text = "from .a import _x, y\nfrom glioma_repro.b import _z\nfrom os import _exit\n"
    (tmp_path / "c.py").write_text(text)
    assert private_imports(tmp_path) == {"_x", "_z"}
    package = TOOL.parent.parent / "glioma_repro"
    assert private_imports(package) == set(), "take the underscore away"


LOOPS = {"run_folds", "run_protocols"}  # what a cluster's workers can do


def loops_without(source, setting):
    "Lines of the calls of LOOPS that do not get a setting, by name or in a dict."
    tree, holders = ast.parse(source), set()
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call)]
    dicts = [one for one in calls if getattr(one.func, "id", "") == "dict"]

    def holds(node):
        "Whether a dict, or a union of some, has the setting."
        if isinstance(node, ast.BinOp):
            return holds(node.left) or holds(node.right)
        if isinstance(node, ast.Name):
            return node.id in holders
        return node in dicts and any(one.arg == setting for one in node.keywords)

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and holds(node.value):
            holders |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return [
        call.lineno
        for call in calls
        if getattr(call.func, "id", "") in LOOPS
        and not any(
            one.arg == setting or one.arg is None and holds(one.value)
            for one in call.keywords
        )
    ]


def test_every_loop_of_a_study_goes_to_the_cluster_that_is_named():
    "Before, liu2022 had no scheduler, and the oracle of baselines stayed at home."
    assert loops_without("run_folds(1, jobs=2)", "scheduler") == [1]
    known = "settings = dict(scheduler=None)\nhere = settings | {}\n"
    assert loops_without(known + "run_folds(1, **here)", "scheduler") == []
    for path in sorted((TOOL.parent.parent / "nbs" / "studies").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        source = "\n".join(one.source for one in cells if one.cell_type == "code")
        assert loops_without(source, "scheduler") == [], path.stem
