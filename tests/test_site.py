"""The site can be built by design: what Quarto and nbdev will read is whole and in
step.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import gallery  # noqa: E402
import readme  # noqa: E402

from glioma_repro.patients.cohort import manifests  # noqa: E402
from glioma_repro.patients.phantom import phantom_settings  # noqa: E402
from glioma_repro.runs.command import _parser, list_of_studies  # noqa: E402
from glioma_repro.patients.core import ReproError, sha256_of  # noqa: E402
from glioma_repro.runs.execution import read_notebook, run_view  # noqa: E402
from glioma_repro.runs.parameters import (  # noqa: E402
    describe_parameters,
    parse_value,
    read_cells,
    runnable,
)
from glioma_repro.runs.report import (  # noqa: E402
    PROVENANCE,
    answer_first,
    sections_of,
)
from glioma_repro.runs.site import command_of, publish_reports  # noqa: E402

NOTEBOOKS = sorted(
    path
    for path in (ROOT / "nbs").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)


def settings():
    """settings.ini as a table."""
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


def listed(contents):
    """The pages in a sidebar, in reading order."""
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        else:
            yield from listed(entry["contents"])


def test_the_sidebar_lists_every_notebook_once_in_the_order_of_the_data():
    sidebar = yaml.safe_load(
        (ROOT / "nbs" / "sidebar.yml").read_text(encoding="utf-8")
    )["website"]["sidebar"]["contents"]
    pages = list(listed(sidebar))
    assert sorted(pages) == sorted(
        path.relative_to(ROOT / "nbs").as_posix() for path in NOTEBOOKS
    )


def test_the_floors_of_the_sidebar_are_those_of_the_imports():
    """A reader meets nothing that stands on what comes later."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(r'"glioma_repro\.(\w+)"', text.split("layers = [")[1])
    sidebar = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text("utf-8"))
    floors = []
    for page in listed(sidebar["website"]["sidebar"]["contents"]):
        floor = page.split("/")[0]
        if floor in layers and floor not in floors:
            floors.append(floor)
    assert floors == layers[::-1]


def test_the_site_has_one_copy_of_its_settings():
    assert (ROOT / "nbs" / "_quarto.yml").resolve() == (ROOT / "_quarto.yml").resolve()
    quarto = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert quarto["metadata-files"] == ["nbdev.yml", "sidebar.yml"]
    made = yaml.safe_load((ROOT / "nbs" / "nbdev.yml").read_text(encoding="utf-8"))[
        "website"
    ]
    assert (
        made["title"] == settings()["title"]
        and made["description"] == settings()["description"]
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_opens_with_its_title_and_its_links_lead_somewhere(path):
    text = [
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    assert re.match(r"# \S.*\n\n> \S", text[0]), (
        "a page opens with '# Title' and a quoted sentence"
    )
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", "\n".join(text)):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_formulas_can_be_rendered_without_a_network():
    from latex2mathml.converter import convert

    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for formula in re.findall(r"\$\$(.+?)\$\$", cell.source, re.DOTALL):
                    assert "<math" in convert(formula), path.name


def cells():
    """Every code cell: its page below nbs/, the cell."""
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                yield path.relative_to(ROOT / "nbs").as_posix(), cell


def html_of(output):
    """The HTML of an output, or nothing."""
    return "".join(output.get("data", {}).get("text/html", ""))


def lacks_alt(cell):
    """Whether a cell shows a picture without a word for who cannot see it."""
    said = re.search(r'^#\| fig-alt: "?\w.{14,}', cell.source, re.MULTILINE)
    for output in cell.outputs:
        if any(kind.startswith("image/") for kind in output.get("data", {})):
            if not said:
                return True
        for tag in re.findall(r"<img\b[^>]*>", html_of(output)):
            if not re.search(r"alt=([\"'])\s*\w", tag):
                return True
    return False


def test_every_picture_has_words_for_who_cannot_see_it():
    silent = {page for page, cell in cells() if lacks_alt(cell)}
    assert not silent, (
        "write '#| fig-alt: \"what is seen\"' as the cell's first line: "
        f"{sorted(silent)}"
    )
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert "![](" not in cell.source, f"{path.name}: a picture without alt"


def repeated(text):
    """What stands in every row of a table of four rows or more: a phrase that is read
    once, above the table.
    """
    found = []
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        body = table.split("</thead>")[-1]
        rows = [
            [re.sub(r"<.*?>", "", one).strip() for one in re.findall(CELL, row)]
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        ]
        same = [set(column) for column in zip(*rows)] if len(rows) > 3 else []
        words = [column.pop() for column in same if len(column) == 1]
        found += [one for one in words if re.match(r"(?!&)[^\W\d]\S* \S.{4,}", one)]
    return found


CELL = re.compile(r"<t[dh]\b[^>]*>.*?</t[dh]>", re.DOTALL)


def test_a_phrase_in_every_row_is_seen():
    row = "<tr><th>{}</th><td>multi-task network</td><td>0.9</td></tr>"
    table = "<table>" + "".join(row.format(one) for one in range(4)) + "</table>"
    assert repeated(table) == ["multi-task network"]
    assert repeated(table.replace(row.format(3), "")) == []


def junk_of(cell):
    """What no reader wants to see in a cell's outputs."""
    for output in cell.outputs:
        shown = "".join(output.get("text", "")) + html_of(output)
        shown += "".join(output.get("data", {}).get("text/plain", ""))
        if re.search(r"np\.(float|u?int|str|bool)\w*\(", shown):
            yield "numpy's own words"
        if re.search(r"\b\d+ 2, \d+ 3\b", shown):
            yield "grades without the word"
        if repeated(html_of(output)):
            yield f"repeated in every row of a table: {repeated(html_of(output))}"
        if re.search(r"<tbody>\s*</tbody>", shown):
            yield "an empty table"
        if re.search(r"\d+%\|.*\| *\d+/\d+", shown):
            yield "a progress bar"
        if any("widget" in kind for kind in output.get("data", {})):
            yield "a widget"


def test_saved_outputs_are_what_a_reader_wants_to_see():
    found = {}
    for page, cell in cells():
        for what in junk_of(cell):
            found.setdefault(page, set()).add(what)
    assert not found, f"python tools/tidy_outputs.py takes out bars; {found}"


def test_the_gallery_is_in_step_and_shows_phantoms_only(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--check"])
    assert gallery.main() == [], "run python tools/gallery.py, then tools/readme.py"
    for path in sorted((ROOT / "nbs" / "gallery").glob("*.png")):
        front = path.name == "front.png"
        most = gallery.FRONT_LARGEST if front else gallery.LARGEST
        assert path.stat().st_size < most, path.name
    for page, cell in cells():
        if "parameters" in cell.metadata.get("tags", []):
            # a page may look at no cohort, or ask for one only in a run (None); the
            # published scores are numbers of a paper, and have no images
            for given in re.findall(r"^cohort = (.+)", cell.source, re.MULTILINE):
                assert re.match(r"None|[\"'](phantom|prognosais)", given), page
    read = (ROOT / "README.md").read_text(encoding="utf-8")
    assert read == readme.readme() and "(nbs/gallery/front.png)" in read
    for target in re.findall(r"\]\((nbs/[^)]+)\)", read):
        assert (ROOT / target).exists(), f"README.md links to {target}"


def test_the_words_of_a_small_copy_hold_no_value():
    """Before, they gave values that nobody reads off a small copy, cut off midway."""
    page = gallery.Page("Methods", "methods/answer.ipynb", "The answer", "What it says")
    said = "AUROC by method. Age: 0.85 (0.58 to 0.96); sex: 0.5. Of 32 x 32 pixels."
    words = {said: "AUROC by method. Of 32 x 32 pixels.", "0.5": "A picture for"}
    for alt, wanted in words.items():
        assert gallery.alt_of(replace(page, alt=alt)).startswith(wanted)
    assert not re.search(r"!\[[^\]]*\d\.\d", gallery.gallery_text(gallery.pages()))


def test_findings_on_real_patients_are_drawn_from_their_table(tmp_path):
    row = dict(
        study="baselines",
        target="idh",
        method="age",
        value=0.7,
        low=0.6,
        high=0.8,
        n=55,
        cohort="tcga-lgg",
        chance=0.5,
        published=None,
        command="glioma-repro run baselines --cohort cohorts/tcga-lgg",
    )
    path = tmp_path / "findings.csv"
    rows = [row, row | {"method": "radiomics", "value": 0.75, "published": 0.9}]
    pd.DataFrame(rows).to_csv(path, index=False)
    table = gallery.read_findings(path)
    figure = gallery.findings_figure(table)
    assert "0.75 [0.60 to 0.80]; published 0.90" in figure.alt
    text = gallery.findings_text(table, figure.alt)
    # before, an interval lost its brackets: square ones end the words of a picture
    assert "0.75 (0.60 to 0.80); published 0.90" in text
    assert "tcga-lgg (55 patients)" in text and text.count("glioma-repro run") == 1
    for wrong in ({"low": 0.9}, {"cohort": "phantom"}, {"command": None}):
        pd.DataFrame([row | wrong]).to_csv(path, index=False)
        with pytest.raises(SystemExit, match="line 2: not a finding"):
            gallery.read_findings(path)


def test_every_step_and_study_has_a_thumbnail():
    """Tables, commands and guides may have nothing to show but words."""
    seen = ("images/", "features/", "networks/", "methods/", "studies/")
    lacking = [one.path for one in gallery.pages() if one.picture is None]
    lacking = [one for one in lacking if one.startswith(seen)]
    assert not lacking, "let a cell of the lesson show a picture, and save it"


def words_of(text):
    """The first words of a cell, up to what nbdev may turn into a link."""
    return re.match(r"[^`\[$*<|\n]{0,60}", text)[0]


def test_nbdev_prepares_every_page_and_loses_nothing(tmp_path):
    """All of nbdev's steps before Quarto, in a copy; the introduction is still there
    after the title became the page's head.
    """
    for name in ("nbs", "glioma_repro", "data_manifests"):
        skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=skip)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, tmp_path)
    shutil.copy2(ROOT / "_quarto.yml", tmp_path)
    make_run(tmp_path, "chang2018")
    told = subprocess.run(
        [sys.executable, "-c", "import nbdev.serve as s; s.proc_nbs(n_workers=2)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    for path in NOTEBOOKS:
        place = path.relative_to(ROOT / "nbs")
        made = json.loads((tmp_path / "_proc" / place).read_text(encoding="utf-8"))
        assert not lost(tmp_path / "nbs" / place, made), place
        if place.parts[0] == "studies":
            assert not unfolded(made), place
        if place.stem == "chang2018":
            told = json.dumps(made)
            assert "glioma-repro run chang2018 --cohort phantom<" in told
            assert "what a run has said" in told


def make_run(root, study):
    """A run of a study on the phantom as it leaves its folder; it said one thing."""
    ran = run_view(read_notebook(root / "nbs" / "studies" / f"{study}.ipynb"))
    said = nbformat.v4.new_output("stream", text="what a run has said")
    ran.cells[-1].outputs = [said]
    folder = root / "runs" / "phantom" / study / "default"
    folder.mkdir(parents=True)
    nbformat.write(ran, folder / "notebook.ipynb")
    record = {"parameters": {"cohort": "phantom", "out": "there"}}
    results = {"study": study, "phantom": True, "record": record}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / ".run.json").write_text("{}", encoding="utf-8")


def sealed_run(runs, cohort, **more):
    """A run of baselines on real patients as it leaves its folder, sealed."""
    folder = runs / cohort / "baselines" / "default"
    folder.mkdir(parents=True)
    record = {"started": "2026-01-01T00:00:00", "commit": "1234567"}
    record["parameters"] = {"cohort": f"/home/somebody/{cohort}"}
    persons = {"columns": ["participant_id", "person"], "rows": [["sub-1", "Ada"]]}
    results = {"study": "baselines", "cohort": cohort, "phantom": False} | more
    results |= {"patients": 4, "record": record, "tables": {"persons": persons}}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "report.html").write_text("<h1>Report</h1>", encoding="utf-8")
    files = {one.name: sha256_of(one) for one in sorted(folder.iterdir())}
    (folder / ".run.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    return folder


def test_the_site_gets_whole_runs_and_of_their_record_what_it_lists(tmp_path, capsys):
    """Before, one damaged run stopped all, one that was changed by hand was published,
    and every table of a run stood on the site, a row a patient.
    """
    runs, site = tmp_path / "runs", tmp_path / "site"
    for name, file, text in (
        ("damaged", "results.json", "{"),
        ("rosier", "results.json", None),
        ("edited", "report.html", "<h1>Better</h1>"),
        ("lacking", "report.html", None),
    ):
        path = sealed_run(runs, name) / file
        if text is not None:
            path.write_text(text, encoding="utf-8")
        elif name == "rosier":
            told = path.read_text(encoding="utf-8").replace("4,", "400,")
            path.write_text(told, encoding="utf-8")
        else:
            path.unlink()
    with pytest.raises(ReproError, match="no report in"):
        publish_reports(runs, site)
    sealed_run(runs, "whole")
    pages = publish_reports(runs, site)
    place = site / "reports" / "whole" / "baselines" / "default"
    assert pages == [place / "report.html"]
    said = capsys.readouterr().err
    assert all(name in said for name in ("damaged", "rosier", "edited", "lacking"))
    listed = (site / "reports" / "index.html").read_text(encoding="utf-8")
    assert "whole" in listed and "edited" not in listed
    text = (place / "results.json").read_text(encoding="utf-8")
    assert "Ada" not in text and "somebody" not in text and "1234567" in text


def test_a_published_command_names_no_place_of_this_machine(tmp_path):
    parameters = {
        "cohort": str(tmp_path / "clinic"),
        "external": str(tmp_path / "apart.csv"),
        "recipe": str(tmp_path / "mine.yaml"),
        "scheduler": "tcp://10.0.0.7:8786",
        "folds": 3,
        "jobs": 4,
        "out": str(tmp_path),
    }
    results = {"study": "baselines", "record": {"parameters": parameters}}
    # nobody asks whether the folder is still there
    assert command_of(results) == (
        "glioma-repro run baselines --cohort clinic --external apart.csv "
        "-p recipe mine.yaml -p folds 3"
    )
    results["study"] = "baseline"
    with pytest.raises(ReproError, match="baselines"):
        command_of(results)


def test_the_list_of_studies_reads_a_notebook_once(monkeypatch):
    read = []

    def noted(path):
        read.append(path)
        return read_cells(path)

    monkeypatch.setattr("glioma_repro.runs.parameters.read_cells", noted)
    assert "baselines" in list_of_studies()
    assert len(read) == len(set(read)) > 50


def test_a_study_has_one_section_of_its_record():
    """Before, vandervoort2022_table2 had two: its sources stood under the same name."""
    record = "<section class='provenance'>packages</section>"
    for path in NOTEBOOKS:
        if path.parent.name == "studies":
            told = nbformat.v4.new_output("display_data", data={"text/html": record})
            cells = nbformat.read(path, as_version=4).cells
            cells += [nbformat.v4.new_code_cell(outputs=[told])]
            heads = [head for head, _ in sections_of(answer_first(cells))]
            assert heads.count(PROVENANCE) == 1, path.name


def lost(path, made):
    """The paragraphs of a notebook that its prepared page lacks. nbdev makes the page's
    head of the first cell and drops the rest of it: title and sentence must be there.
    """
    texts = ["".join(cell["source"]) for cell in made["cells"]]
    head = yaml.safe_load(texts[0].strip().strip("-"))  # title, description
    text = "\n".join([*map(str, head.values()), *texts])
    first, *others = nbformat.read(path, as_version=4).cells
    parts = [part for part in first.source.split("\n\n") if part.strip()]
    for cell in others:
        parts += [cell.source] if cell.cell_type == "markdown" else []
    plain = [re.sub(r"^[#>] ", "", part) for part in parts]
    return [part[:60] for part in plain if words_of(part) not in text]


def unfolded(made):
    """The code of a prepared page that a reader sees before asking for it."""
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in code]
    return [one for one in sources if one and "#| code-fold: true" not in one]


def test_an_introduction_in_the_first_cell_is_missed(tmp_path):
    """What made every page lose its introduction once: it stood behind the sentence."""
    from execnb.nbio import read_nb
    from nbdev.processors import FilterDefaults

    book = nbformat.v4.new_notebook()
    told = "# A page\n\n> A sentence.\n\nAn introduction, which nbdev drops."
    book.cells = [nbformat.v4.new_markdown_cell(told)]
    path = tmp_path / "page.ipynb"
    for text, missed in (
        (told, ["An introduction, which nbdev drops."]),
        (told[:23], []),
    ):
        book.cells[0].source = text
        book.metadata["kernelspec"] = {"name": "python3", "language": "python"}
        nbformat.write(book, path)
        made = read_nb(path)
        FilterDefaults()(made)
        assert lost(path, {"cells": made.cells}) == missed
    assert unfolded({"cells": [{"cell_type": "code", "source": "2 + 2"}]})


def test_docs_leave_the_readme_alone():
    """nbdev writes a README of its own, from the first page, over an older one: so it
    must be the newest file, and is made again afterwards.
    """
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    rule = lines[lines.index("docs: $(INSTALLED)") + 1 :]
    place = {
        word: next(number for number, line in enumerate(rule) if word in line)
        for word in ("touch README.md", "nbdev_docs", "tools/readme.py")
    }
    assert place["touch README.md"] < place["nbdev_docs"] < place["tools/readme.py"]


def test_version_changelog_and_citation_are_on_every_page():
    quarto = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    bar = {one["text"]: one for one in quarto["website"]["navbar"]["right"]}
    version = settings()["version"]
    assert bar[f"Version {version}"]["href"].endswith("/CHANGELOG.md")
    assert f" {version}," in quarto["website"]["page-footer"]["left"]
    page, _, place = bar["Cite"]["href"].partition("#")
    front = (ROOT / "nbs" / page).read_text(encoding="utf-8")
    assert f"## {place.title()}" in front
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == version


def test_a_page_can_be_taken_home_as_a_notebook():
    quarto = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert quarto["format"]["ipynb"] == "default"
    assert "ipynb" in quarto["format"]["html"]["format-links"]


def lessons():
    """Every notebook that teaches a step: its page below nbs/, its cells."""
    for path in NOTEBOOKS:
        place = path.relative_to(ROOT / "nbs")
        if place.parts[0] not in ("index.ipynb", "guides", "studies"):
            cells = nbformat.read(path, as_version=4).cells
            yield place.as_posix(), cells


def test_a_lesson_opens_with_what_goes_in_and_out_and_why_it_matters():
    dull = []
    for page, cells in lessons():
        opening = cells[1].source
        shown = re.search(r"```|\$\$|^\|.*\|$|!\[", opening, re.MULTILINE)
        drawn = re.sub(r"```.*?```|\$\$.*?\$\$", "", opening, flags=re.DOTALL)
        said = [part for part in drawn.split("\n\n") if len(part) > 120]
        if not (shown and said):
            dull.append(page)
    assert not dull, f"a diagram, a formula or a table, and why it matters: {dull}"


def test_a_lesson_ends_with_exercises_and_folded_solutions():
    wrong = []
    for page, cells in lessons():
        heads = [cell.source.split("\n")[0] for cell in cells]
        if "## Exercises" not in heads:
            wrong.append(page)
            continue
        after = cells[heads.index("## Exercises") :]
        solved = [one for one in after if '#| code-summary: "Solution"' in one.source]
        asked = [one for one in after if re.search(r"^(\*\*)?\d\.", one.source, re.M)]
        folded = all("#| code-fold: true" in one.source for one in solved)
        if len(solved) < 2 or not asked or not folded:
            wrong.append(page)
    assert not wrong, f"two or three exercises with folded solutions: {wrong}"


def commands():
    """Every command of ours in the guides and on the front page: page and words."""
    for path in [ROOT / "nbs" / "index.ipynb", *(ROOT / "nbs" / "guides").glob("*.*")]:
        for cell in nbformat.read(path, as_version=4).cells:
            for block in re.findall(r"```sh\n(.*?)```", cell.source, re.DOTALL):
                for line in block.splitlines():
                    if line.startswith("glioma-repro "):
                        yield path.name, shlex.split(line, comments=True)[1:]


def test_every_command_of_the_guides_is_one():
    """The study, its parameters and their values, the known cohort, the options."""
    seen = [(page, words) for page, words in commands() if words != ["--help"]]
    assert len(seen) > 15
    grammar, names = _parser()[0], runnable()
    for page, words in seen:
        said = f"{page}: glioma-repro {' '.join(words)}"
        args = grammar.parse_args(words)
        if args.command == "curate":
            assert args.dicom or args.name in manifests(), said
        if args.command != "run" or args.name is None:
            continue
        assert args.name in names, said
        known = describe_parameters(read_notebook(names[args.name]))
        for name, *values in args.parameters:
            assert name in known, said
            for value in values:
                parse_value(value, known[name].default, name, known[name].choices)
        for cohort in args.cohort or []:
            if cohort.startswith("phantom"):
                phantom_settings(cohort)
