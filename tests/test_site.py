"""The site can be built by design: what Quarto and nbdev will read is whole and in
step.
"""

import re
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parent.parent
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
    steps = [page for page in pages if re.match(r"\d", page)]
    assert steps == sorted(steps)


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
