"""Makes the front page's gallery from the notebooks: nbs/gallery/*.png (small copies of
pictures that stand in committed outputs) and the cells of nbs/index.ipynb that list
every page (`--check`: only says whether they are in step).

What the project found on real patients is one figure of numbers. It is drawn from
data_manifests/findings.csv, a row a target and method, each with the command that gives
it; where there is no such table, the front page has no such figure.
"""

import base64
import hashlib
import html
import io
import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image, PngImagePlugin

from glioma_repro.runs.parameters import read_cells

ROOT = Path(__file__).resolve().parent.parent
WIDEST, TALLEST, LARGEST = 320, 200, 30_000  # pixels, pixels, bytes
FINDINGS = (
    "study target method value low high n cohort chance published command".split()
)
# the picture that says most, where it is not the page's first: its number from 0
CHOSEN = {
    "studies/baselines.ipynb": 1,
    "patients/phantom.ipynb": 5,
    "statistics/figures.ipynb": 1,
}
# of these the picture of what is trained says more, so small, than the intervals
BORROWED = {
    "studies/akkus2017.ipynb": "methods/multi_scale_cnn.ipynb",
    "studies/chang2018.ipynb": "methods/residual_cnn.ipynb",
    "studies/choi2021.ipynb": "methods/hybrid_cnn.ipynb",
    "studies/vandervoort2022.ipynb": "networks/multi_task_network.ipynb",
    "studies/liu2022.ipynb": "methods/fourteen_layer_cnn.ipynb",
    "studies/head_to_head.ipynb": "methods/method.ipynb",
}
FRONT = "patients/phantom.ipynb"  # whose picture stands below "See it work", larger
FRONT_SIZE, FRONT_LARGEST = (720, 640), 80_000  # pixels, bytes
OTHERS = {"findings.png", "front.png"}  # in the gallery's folder, of no page


@dataclass(frozen=True)
class Page:
    """A page of the site as the gallery shows it."""

    floor: str  # the section of the sidebar
    path: str  # below nbs/
    title: str
    sentence: str  # the quoted one
    picture: bytes | None = None  # as in the notebook's outputs
    alt: str = ""  # what is seen

    @property
    def thumbnail(self) -> str:
        """The small copy's path below nbs/."""
        return f"gallery/{Path(self.path).stem}.png"

    @property
    def digest(self) -> str:
        """What the small copy was made from."""
        return hashlib.sha256(self.picture or b"").hexdigest()[:16]


def pictures_of(cell: dict):
    """The pictures that a cell shows, each with its alt text."""
    said = re.search(r'^#\|\s*fig-alt:\s*"?(.+?)"?\s*$', cell["source"], re.MULTILINE)
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        for kind in ("image/png", "image/jpeg"):
            if kind in data:
                yield (
                    base64.b64decode("".join(data[kind])),
                    said[1] if said else "",
                )
        for tag in re.findall(r"<img\b[^>]*>", "".join(data.get("text/html", ""))):
            body = re.search(r"base64,([A-Za-z0-9+/=]+)", tag)
            alt = re.search(r"alt=([\"'])(.*?)\1", tag, re.DOTALL)
            if body:
                yield base64.b64decode(body[1]), html.unescape(alt[2]) if alt else ""


def page_of(path: str, floor: str) -> Page:
    """A page: its title, its sentence, its picture."""
    cells = read_cells(ROOT / "nbs" / path)["cells"]
    head = re.match(r"# (.+)\n+> (.+)", cells[0]["source"])
    if path in BORROWED:
        lender = page_of(BORROWED[path], floor)
        return Page(floor, path, head[1], head[2], lender.picture, lender.alt)
    found = [one for cell in cells for one in pictures_of(cell)]
    if found:
        picture = found[min(CHOSEN.get(path, 0), len(found) - 1)]
        return Page(floor, path, head[1], head[2], *picture)
    return Page(floor, path, head[1], head[2])


def pages() -> list[Page]:
    """Every page but the front page, in the order of the sidebar."""
    text = (ROOT / "nbs" / "sidebar.yml").read_text(encoding="utf-8")
    contents = yaml.safe_load(text)["website"]["sidebar"]["contents"]
    sections = [one for one in contents if isinstance(one, dict)]
    return [
        page_of(path, one["section"]) for one in sections for path in one["contents"]
    ]


def thumbnail(page: Page, size=(WIDEST, TALLEST), largest=LARGEST) -> bytes:
    """A small copy of a page's picture as a PNG, which says what it was made from; no
    larger than `size`, in pixels, and `largest`, in bytes.
    """
    picture = Image.open(io.BytesIO(page.picture)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(ground, picture).convert("RGB")
    note = PngImagePlugin.PngInfo()
    note.add_text("source", page.digest)
    for share, colours in ((1, 128), (1, 48), (1, 16), (0.75, 16), (0.5, 8)):
        small = picture.copy()
        small.thumbnail([side * share for side in size], Image.Resampling.LANCZOS)
        made = io.BytesIO()
        small.quantize(colours).save(made, "PNG", optimize=True, pnginfo=note)
        if made.tell() < largest:
            return made.getvalue()
    raise SystemExit(f"{page.path}: no small copy of its picture is small enough")


def source_of(path: Path) -> str:
    """What a small copy was made from; empty where there is none."""
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        return picture.text.get("source", "")


def between_brackets(words: str) -> str:
    """Words as they can stand for a picture in a Markdown table: ![words](picture)."""
    return words.translate(str.maketrans("[]|\n", "()  ")).strip()


def alt_of(page: Page) -> str:
    """What is seen on a page's picture, as Markdown wants it."""
    # nobody reads a value off a small copy, so its words give none
    sentences = re.split(r"(?<=\.) ", between_brackets(page.alt))
    kept = [one for one in sentences if not re.search(r"\d\.\d", one)]
    words = " ".join(kept) or f"A picture for the page {page.title}"
    return textwrap.shorten(words, 200, placeholder=" …")


def front_text(page: Page) -> str:
    """The picture of the front page: patients whom nobody has met."""
    return (
        f"[![{alt_of(page)}](gallery/front.png)]({page.path})\n\n"
        "Nobody's head: the phantom, on which `make demo` runs."
    )


def gallery_text(found: list[Page]) -> str:
    """The list of all pages in Markdown: a section a floor, a row a page."""
    lines = [
        "## Gallery",
        "",
        "Every step and study is a notebook: a lesson that runs.",
    ]
    floor = None
    for page in found:
        if page.floor != floor:
            floor = page.floor
            lines += ["", f"### {floor}", "", "| | |", "|---|---|"]
        shown = ""
        if page.picture:
            shown = f"[![{alt_of(page)}]({page.thumbnail})]({page.path})"
        sentence = page.sentence.replace("|", "\\|")
        lines.append(f"| {shown} | **[{page.title}]({page.path})**: {sentence} |")
    return "\n".join(lines)


def read_findings(path: Path) -> pd.DataFrame:
    """The table of findings on real patients; ends with a sentence where it is not as
    it should be.
    """
    table = pd.read_csv(path)
    if list(table.columns) != FINDINGS:
        raise SystemExit(f"{path.name}: the columns are not {', '.join(FINDINGS)}")
    numbers = table[["value", "low", "high", "n", "chance"]].apply(
        pd.to_numeric, errors="coerce"
    )
    wrong = numbers.isna().any(axis=1)
    wrong |= ~numbers["value"].between(numbers["low"], numbers["high"])
    wrong |= (
        table[["study", "target", "method", "cohort", "command"]].isna().any(axis=1)
    )
    wrong |= table["cohort"].astype(str).str.startswith("phantom")
    if wrong.any():
        raise SystemExit(f"{path.name}, line {wrong.idxmax() + 2}: not a finding")
    return table


def findings_figure(table: pd.DataFrame):
    """The figure of the findings: every method with its interval, chance, published."""
    from glioma_repro.statistics.figures import plot_answer

    several = table["study"].nunique() > 1
    method = table["study"] + ": " + table["method"] if several else table["method"]
    return plot_answer(table.assign(method=method))


def findings_text(table: pd.DataFrame, alt: str) -> str:
    """What the front page says of the findings, with the commands that give them."""
    cohorts = ", ".join(
        f"{cohort} ({int(part['n'].max())} patients)"
        for cohort, part in table.groupby("cohort", sort=False)
    )
    commands = "\n".join(table["command"].drop_duplicates())
    words = between_brackets(alt)
    return (
        f"## What it found\n\nOn {cohorts}, every patient scored by models that had "
        f"not seen that patient:\n\n![{words}](gallery/findings.png)\n\n"
        "*Published* is the paper's own figure, of other patients; for how long the "
        f"networks were trained here stands in the command:\n\n```sh\n{commands}\n```"
    )


def citation(path: Path) -> str:
    """How to cite the software: BibTeX made from CITATION.cff."""
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [
        one.get("name") or f"{one['family-names']}, {one['given-names']}"
        for one in known["authors"]
    ]
    fields = {
        "title": known["title"].replace("_", "\\_"),
        "author": " and ".join(f"{{{name}}}".replace("_", "\\_") for name in names),
        "year": str(known["date-released"])[:4],
        "version": str(known["version"]),
        "url": known["repository-code"],
        "note": f"Licence: {known['license']}",
    }
    lines = ",\n".join(f"  {name} = {{{text}}}" for name, text in fields.items())
    return f"@software{{glioma_repro,\n{lines}\n}}"


def cite_text() -> str:
    """The front page's section on citing."""
    entry = citation(ROOT / "CITATION.cff")
    return (
        "## Cite\n\nCite the software, the paper of the study that you ran, and the "
        "cohort (`data_manifests/` names its citation):\n\n"
        f"```bibtex\n{entry}\n```\n\nThe code is under the Apache licence 2.0; every "
        "cohort has a licence of its own. Nothing here is for clinical use."
    )


def write_index(texts: dict[str, str]) -> bool:
    """Puts the texts into the front page's cells of these ids, a new one before what
    was found; says whether one changed.
    """
    path = ROOT / "nbs" / "index.ipynb"
    book = json.loads(path.read_text(encoding="utf-8"))
    cells, before = book["cells"], json.dumps(book)
    known = [cell["id"] for cell in cells]
    for name in texts:
        if name not in known:
            fresh = {"cell_type": "markdown", "id": name, "metadata": {}, "source": []}
            cells.insert(2, fresh)
    for cell in cells:
        if cell["id"] in texts:
            cell["source"] = texts[cell["id"]].splitlines(True)
    if "--check" not in sys.argv:
        text = json.dumps(book, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    return json.dumps(book) != before


def draw_findings(table: pd.DataFrame) -> str:
    """Writes the figure of the findings; gives its alternative text."""
    figure = findings_figure(table)
    if "--check" not in sys.argv:
        path = ROOT / "nbs" / "gallery" / "findings.png"
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=100)
        # a few colours: lines and letters need no more, and a clone stays small
        few = Image.open(drawn).convert("RGB").quantize(64)
        few.save(path, optimize=True)
    return figure.alt


def main() -> list[str]:
    """Makes the gallery, or says what is not in step."""
    check, stale, found = "--check" in sys.argv, [], pages()
    folder = ROOT / "nbs" / "gallery"
    folder.mkdir(exist_ok=True)
    for page in found:
        path = ROOT / "nbs" / page.thumbnail
        if page.picture and source_of(path) != page.digest:
            stale.append(page.thumbnail)
            if not check:
                path.write_bytes(thumbnail(page))
    front = next(page for page in found if page.path == FRONT)
    if source_of(folder / "front.png") != front.digest:
        stale.append("gallery/front.png")
        if not check:
            (folder / "front.png").write_bytes(
                thumbnail(front, FRONT_SIZE, FRONT_LARGEST)
            )
    wanted = {Path(page.thumbnail).name for page in found if page.picture}
    for path in sorted(folder.glob("*.png")):
        if path.name not in wanted | OTHERS:
            stale.append(f"gallery/{path.name}")
            if not check:
                path.unlink()
    texts = {
        "front": front_text(front),
        "gallery": gallery_text(found),
        "cite": cite_text(),
    }
    table = ROOT / "data_manifests" / "findings.csv"
    if table.exists():
        read = read_findings(table)
        texts["findings"] = findings_text(read, draw_findings(read))
    if write_index(texts):
        stale.append("index.ipynb")
    return stale


if __name__ == "__main__":
    out_of_step = main()
    if "--check" in sys.argv and out_of_step:
        sys.exit(f"run python tools/gallery.py: {', '.join(out_of_step)}")
