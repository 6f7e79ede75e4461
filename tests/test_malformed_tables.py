"""Malformed tables, YAML, JSON, folders and queries: each ends in one short line that
names the file, soon, and nothing is lost.
"""

import os
import time

import numpy as np
import pandas as pd
import pytest

from glioma_repro.patients.cohort import (
    include,
    load_manifest,
    read_mapped,
    split_external,
)
from glioma_repro.patients.core import (
    Cohort,
    ReproError,
    carried,
    read_cohort,
    read_predictions,
    read_samples,
    write_json,
)
from glioma_repro.patients.files import read_json, read_text_table, read_yaml

GOOD = "participant_id\tage\tidh\nsub-1\t40\tmutant\nsub-2\t50\twildtype\n"
MAPPING = "columns:\n  participant_id: {from: case}\n  idh: {from: IDH, words: {yes: mutant, no: wildtype}}\n"
THEIRS = "case\tIDH\tOS\nP1\tyes\t12\nP2\tno\t3\n"


def state(folder):
    """Every file below a folder with its bytes (its size, where it is large) and every
    folder.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        small = path.is_file() and about.st_size < 1_000_000
        found[path.relative_to(folder)] = path.read_bytes() if small else about.st_size
    return found


def refused(act, folder, name, words=""):
    """Runs `act`, which must end in a short ReproError that holds the name and the
    words, and change nothing.
    """
    before, started = state(folder), time.process_time()
    with pytest.raises(ReproError) as caught:
        act()
    message = str(caught.value)
    assert time.process_time() - started < 5
    assert len(message) < 500 and "\n" not in message and "Traceback" not in message, (
        message
    )
    assert name in message and words in message, message
    assert state(folder) == before


def put(path, content):
    """Makes what stands at a path: bytes, text, a folder (None), or something stranger
    by a function.
    """
    if content is None:
        path.mkdir()
    elif callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def loop(path):
    """A link to itself."""
    path.symlink_to(path.name)


def dangling(path):
    """A link to nowhere."""
    path.symlink_to("nowhere")


def pipe(path):
    """A named pipe, at which a reader would wait for ever."""
    os.mkfifo(path)


def huge(path):
    """A file of 600 MB that takes no room."""
    with open(path, "wb") as stream:
        stream.truncate(600_000_000)


NO_FILES = {
    "a folder": (None, "is a folder"),
    "a loop": (loop, "cannot be read"),
    "a dangling link": (dangling, "is missing"),
    "a pipe": (pipe, "device or pipe"),
    "too large": (huge, "600,000,000 bytes"),
}
NO_TEXTS = {
    "latin-1": (
        "participant_id\tsite\nsub-1\tKöln\n".encode("latin-1"),
        "line 2: no UTF-8 text",
    ),
    "binary": (bytes(range(256)) * 40, "text"),
    "zero bytes": (b"a\0b", "zero byte"),
    "half of UTF-16": (b"\xff\xfea", "no UTF-16 text"),
}


@pytest.mark.parametrize("case", [*NO_FILES, *NO_TEXTS])
@pytest.mark.parametrize(
    "name",
    ["participants.tsv", "dataset_description.json", "problems.tsv", "mapping.yaml"],
)
def test_what_is_no_text_file(tmp_path, name, case):
    content, words = (NO_FILES | NO_TEXTS)[case]
    put(tmp_path / "participants.tsv", GOOD) if name != "participants.tsv" else None
    put(tmp_path / name, content)
    refused(lambda: read_mapped(tmp_path), tmp_path, name, words)


LONG = "x" * 100_000
TABLES = {
    "empty": ("", "is empty"),
    "empty lines": ("\n\n\n", "is empty"),
    "header only": ("participant_id\tage\n", "no patient"),
    "no participant_id": ("name\tage\nsub-1\t40\n", "no column participant_id"),
    "commas": ("participant_id,age\nsub-1,40\n", "no column participant_id"),
    "a cell too many": (GOOD + "sub-3\t40\tmutant\tx\n", "line 4: 4 cells"),
    "a cell too few": (GOOD + "sub-3\t40\n", "line 4: 2 cells"),
    "a trailing tab": (GOOD + "sub-3\t40\tmutant\t\n", "line 4"),
    "a row in the middle": (GOOD.replace("sub-1\t40", "sub-1"), "line 2"),
    "a column twice": (
        "participant_id\tidh\tidh\nsub-1\tmutant\twildtype\n",
        "'idh' stands twice",
    ),
    "a patient twice": (GOOD + "sub-1\t40\tmutant\n", "sub-1 stands in it twice"),
    "a word for an age": (
        GOOD.replace("40", "old"),
        "not every value is a number; sub-1 has 'old'",
    ),
    "age -12": (GOOD.replace("40", "-12"), "-12 of sub-1"),
    "age 999": (GOOD.replace("50", "999"), "999 of sub-2"),
    "an age of a million digits": (
        GOOD.replace("40", "9" * 1_000_000),
        "participants.tsv",
    ),
    "age 1e99999": (GOOD.replace("40", "1e400000000x"), "sub-1 has"),
    "an unknown word": (
        GOOD.replace("wildtype", "WT"),
        "'WT' is not one of wildtype, mutant",
    ),
    "a word of 100,000 letters": (GOOD.replace("wildtype", LONG), "is not one of"),
    "a cell beyond csv's limit": (
        GOOD.replace("wildtype", LONG * 3),
        "participants.tsv",
    ),
    "an id with a slash": (GOOD.replace("sub-1", "sub-../../x"), "letters and digits"),
    "an id of 100,000 letters": (
        GOOD.replace("sub-1", "sub-/" + LONG),
        "letters and digits",
    ),
    "an id that is unknown": (GOOD.replace("sub-1", "n/a"), "letters and digits"),
    "grade 1": (
        "participant_id\twho_grade\nsub-1\t1\n",
        "1 of sub-1 cannot be: 2 to 4",
    ),
    "grade 7": ("participant_id\twho_grade\nsub-1\t7\n", "7 of sub-1 cannot be"),
    "grade 2.5": ("participant_id\twho_grade\nsub-1\t2.5\n", "whole number"),
    "death 7": ("participant_id\tdeath\nsub-1\t7\n", "7 of sub-1 cannot be: 0 to 1"),
    "survival -152": ("participant_id\tsurvival_days\nsub-1\t-152\n", "-152 of sub-1"),
    "survival of 999 years": (
        "participant_id\tsurvival_days\nsub-1\t365000\n",
        "cannot be: 0 to 36525 days",
    ),
    "a fifth digit": (
        "participant_id\ttcga_barcode\nsub-1\tTCGA-CS-49410\n",
        "'TCGA-CS-49410' of sub-1",
    ),
    "sex": (
        "participant_id\tsex\nsub-1\tfemail\n",
        "'femail' is not one of female, male, other",
    ),
    "a thousand columns": (
        "\t".join(f"column{one}" for one in range(1000)) + "\n" + "\t" * 999 + "\n",
        "participant_id",
    ),
    "a line of another world": (GOOD + "\x1b[2Jsub-9\n", "line 4"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_malformed_participants_table(tmp_path, case):
    content, words = TABLES[case]
    put(tmp_path / "participants.tsv", content)
    refused(lambda: read_cohort(tmp_path), tmp_path, "participants.tsv", words)


DEEP = "[" * 200_000
DESCRIPTIONS = {
    "empty": ("", "line 1"),
    "broken": ('{"Name": ', "line 1"),
    "a list": ('["Name"]', "a JSON object"),
    "a number": ("3", "a JSON object"),
    "null": ("null", "a JSON object"),
    "deep": (DEEP, "nested too deeply"),
    "NaN": ('{"Name": NaN}', "NaN is no JSON number"),
    "a key twice": ('{"Name": "a", "Name": "b"}', "'Name' stands twice"),
    "a name that is a list": ('{"Name": ["a"]}', "Name: ['a'] is not of type str"),
    "our part a word": ('{"GliomaRepro": "x"}', "key: value pairs"),
    "flow a word": ('{"GliomaRepro": {"flow": "x"}}', "a list is expected"),
    "flow of words": ('{"GliomaRepro": {"flow": ["x"]}}', "flow[0]"),
    "flow of short steps": ('{"GliomaRepro": {"flow": [["rule", 3]]}}', "flow[0]"),
    "phantom a word": ('{"GliomaRepro": {"phantom": "no"}}', "not of type bool"),
    "voxel size a number": (
        '{"GliomaRepro": {"voxel_size_known": 3}}',
        "not of type bool",
    ),
    "provenance a list": ('{"GliomaRepro": {"provenance": []}}', "key: value pairs"),
    "mask method a dict": ('{"GliomaRepro": {"mask_method": {}}}', "mask_method"),
    "a name that leads out": ('{"GliomaRepro": {"name": "../../evil"}}', "lead out"),
    "an absolute name": ('{"GliomaRepro": {"name": "/tmp/evil"}}', "lead out"),
    "dots": ('{"GliomaRepro": {"name": ".."}}', "lead out"),
    "a huge number": ('{"Name": ' + "9" * 100_000 + "}", "plain JSON"),
    "a long name of a wrong type": (
        '{"GliomaRepro": {"title": [' + '"xxxx",' * 9000 + '"x"]}}',
        "title",
    ),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_malformed_description(tmp_path, case):
    content, words = DESCRIPTIONS[case]
    put(tmp_path / "participants.tsv", GOOD)
    put(tmp_path / "dataset_description.json", content)
    refused(lambda: read_cohort(tmp_path), tmp_path, "dataset_description.json", words)


@pytest.mark.parametrize(
    "content,words",
    [
        ("", "is empty"),
        ("participant_id\tproblem\nsub-1\n", "line 2"),
        ("who\twhat\na\tb\n", "no column 'participant_id'"),
        ("participant_id\tproblem\tproblem\na\tb\tc\n", "stands twice"),
    ],
)
def test_a_malformed_list_of_problems(tmp_path, content, words):
    put(tmp_path / "participants.tsv", GOOD)
    put(tmp_path / "problems.tsv", content)
    refused(lambda: read_cohort(tmp_path), tmp_path, "problems.tsv", words)


LETTERS = "abcdefghijklmnop"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip(LETTERS, LETTERS[1:])
)
RULES = {
    "empty": ("", "no keys"),
    "a list": ("- a\n", "no keys"),
    "a word": ("columns", "no keys"),
    "broken": ("columns: {a: [", "line 1"),
    "tabs": ("columns:\n\tidh: x\n", "line 2"),
    "a tag": ("columns: !!python/object/apply:os.system [true]\n", "line 1"),
    "a key twice": (MAPPING + "columns: {}\n", "'columns' stands twice"),
    "an alias bomb": (BOMB, "aliases are not read"),
    "a bomb where a word is wanted": (
        BOMB.replace("p: ", "title: "),
        "aliases are not read",
    ),
    "an alias to itself": ("columns: &a {idh: *a}\n", "aliases"),
    "deep": ("columns: " + "[" * 50_000, "nested too deeply"),
    "deep keys": ("? " * 20_000, "nested too deeply"),
    "too large": ("# x\n" * 30_000 + MAPPING, "bytes"),
    "a list as a key": ("[a, b]: c\n", "no word"),
    "an unknown key": ("colunms: {}\n", "did you mean columns"),
    "no columns": ("name: x\n", "columns is missing"),
    "columns a list": ("columns: [idh]\n", "key: value pairs"),
    "a column a word": ("columns: {idh: IDH}\n", "key: value pairs"),
    "from nothing": (
        "columns: {participant_id: {from: case}, idh: {from: []}}\n",
        "idh is from no column",
    ),
    "from an empty word": (
        "columns: {participant_id: {from: case}, idh: {from: ''}}\n",
        "idh is from no column",
    ),
    "from a number": ("columns: {idh: {from: 3}}\n", "not of type str"),
    "from lists": (
        "columns: {participant_id: {from: case}, idh: {from: [[IDH]]}}\n",
        "columns: idh: from",
    ),
    "from numbers": (
        "columns: {participant_id: {from: case}, idh: {from: [1, 2]}}\n",
        "columns: idh: from",
    ),
    "two without any": (
        "columns: {participant_id: {from: case}, idh: {from: [IDH, OS], words: "
        "{yes: mutant, no: wildtype}}}\n",
        "OS",
    ),
    "participant_id a list": (
        "columns: {participant_id: {from: [case, IDH]}}\n",
        "one column",
    ),
    "no such column": ("columns: {participant_id: {from: name}}\n", "no column 'name'"),
    "words a list": ("columns: {idh: {from: IDH, words: [yes]}}\n", "key: value pairs"),
    "words to a list": (
        "columns: {idh: {from: IDH, words: {yes: [mutant]}}}\n",
        "not of type",
    ),
    "a word missing": (MAPPING.replace("yes: mutant, ", ""), "'yes'"),
    "a wrong word": (MAPPING.replace("mutant", "mut"), "'mut' is not one of"),
    "units of no unit": (
        MAPPING + "  histology: {from: OS, units: months}\n",
        "units 'months'",
    ),
    "units unknown": (
        MAPPING + "  survival_days: {from: OS, units: moons}\n",
        "units 'moons'",
    ),
    "no column of ours": (MAPPING + "  idhh: {from: OS}\n", "did you mean idh"),
    "a name that leads out": (MAPPING + "name: ../x\n", "lead out"),
    "a huge number": ("name: " + "9" * 5000 + "\n" + MAPPING, "mapping.yaml"),
    "a number of a million": ("columns: 1" + "_0" * 20_000 + "\n", "mapping.yaml"),
    "unknown a word": (MAPPING + "unknown: x\n", "a list is expected"),
    "a date": (MAPPING + "title: !!timestamp 2020-99-99\n", "mapping.yaml"),
    "a long word": (f"? {LONG[:90_000]}\n: 1\n", "unknown key"),
}


@pytest.mark.parametrize("case", RULES)
def test_a_malformed_mapping(tmp_path, case):
    content, words = RULES[case]
    put(tmp_path / "participants.tsv", THEIRS)
    put(tmp_path / "mapping.yaml", content)
    name = (
        "participants.tsv"
        if words.startswith(
            (
                "idh",
                "one column",
                "no column",
                "'yes'",
                "'mut'",
                "units",
                "did you mean idh",
                "OS",
            )
        )
        else "mapping.yaml"
    )
    refused(lambda: read_mapped(tmp_path), tmp_path, name, words)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3000, "nowhere"])
@pytest.mark.parametrize(
    "reader",
    [
        read_cohort,
        read_mapped,
        read_yaml,
        read_json,
        read_text_table,
        load_manifest,
        read_predictions,
        read_samples,
    ],
)
def test_a_path_that_leads_nowhere(tmp_path, reader, name):
    refused(
        lambda: reader(tmp_path / name),
        tmp_path,
        str(tmp_path / name)[-40:].rstrip("/"),
    )


QUERIES = {
    "an integer column": ("death", "alone says nobody"),
    "a text column": ("site", "alone says nobody"),
    "a number": ("1", "a comparison"),
    "True": ("True", "a comparison"),
    "a variable": ("@os.system('touch owned')", "'@' is not read"),
    "a method": ("site.to_pickle('owned')", "a call is not read"),
    "an attribute": ("site.values == 'A'", "site.values"),
    "a call": ("open('owned', 'w')", "a call is not read"),
    "an import": ("__import__('os').system('touch owned')", "a call"),
    "a huge exponent": ("age > 9**9**9**9", "is no column"),
    "a huge number": ("age > 1e400", "too large"),
    "a number of 5,000 digits": ("age > 1" + "0" * 4990, "cannot be read"),
    "a sum": ("age + 1 > 40", "is no column"),
    "a product alone": ("age * 3", "nothing is computed"),
    "a slice": ("site[0] == 'A'", "site[0]"),
    "a lambda": ("(lambda: 1)()", "a call"),
    "a comprehension": ("[x for x in site]", "a comparison"),
    "an f-string": ("f'{site}' == 'A'", "is no column"),
    "an assignment": ("age := 3", "cannot be read"),
    "two lines": ("age > 3\nimport os", "cannot be read"),
    "half": ("age >", "cannot be read"),
    "nothing": ("", "cannot be read"),
    "blanks": ("   ", "cannot be read"),
    "no such column": ("sitte == 'A'", "there is no column 'sitte'"),
    "number and word": ("age == 'old'", "a number is compared with a word"),
    "word and number": ("site > 3", "holds words"),
    "constants": ("1 == 1", "must be a column"),
    "in a column": ("'A' in site", "column in [value, value]"),
    "in a nest": ("site in [['A']]", "is no column"),
    "is a word": ("site is 'A'", "is not None"),
    "nested brackets": ("(" * 2000 + "age > 3" + ")" * 2000, "cannot be read"),
    "nested not": ("not " * 1200 + "has_x", "too deeply"),
    "too long": ("age > 3 and " * 5000 + "age > 3", "characters"),
    "256 letters": ("x" * 256, "there is no column"),
    "bytes": ("site == b'A'", "is no column"),
    "nobody": ("age > 100", "nobody is left"),
    "an unknown patient": ("sub-1, sub-77", "has no patient sub-77"),
    "10,000 unknown patients": (
        " ".join(f"sub-x{one}" for one in range(10_000)),
        "has no patient sub-x0",
    ),
}


@pytest.fixture
def cohort():
    return Cohort(
        "six",
        pd.DataFrame(
            dict(
                participant_id=[f"sub-{one}" for one in range(6)],
                site=list("AABBB") + [None],
                death=[0, 1, 1, 0, 1, None],
                age=[31.0, 62, 40, 55, None, 70],
            )
        ),
    )


@pytest.mark.parametrize("case", QUERIES)
def test_a_malformed_query(tmp_path, monkeypatch, cohort, case):
    query, words = QUERIES[case]
    monkeypatch.chdir(tmp_path)
    refused(lambda: cohort.subset(query), tmp_path, "", words)
    refused(lambda: split_external(cohort, query), tmp_path, "", words)
    if not query.startswith("sub-"):
        refused(lambda: include(cohort, {"a rule": query}), tmp_path, "'a rule'", words)


def test_queries_that_are_read(cohort):
    for query, kept in {
        '~(site == "A")': "234",
        "site != 'A'": "234",
        "death == 1 & age < 50": "2",
        "not death == 1 or age is None": "034",
        "age not in [31, 62]": "235",
        "site in ('A',) and age is not None": "01",
        "sub-1 sub-3": "13",
    }.items():
        assert cohort.subset(query).ids == [f"sub-{one}" for one in kept], query
    development, external = split_external(cohort, '~(site == "A")')
    assert external.ids == ["sub-2", "sub-3", "sub-4"] and development.ids == [
        "sub-0",
        "sub-1",
        "sub-5",
    ]


def test_external_patients_by_a_long_list_or_a_file(tmp_path):
    many = Cohort(
        "many",
        pd.DataFrame(
            dict(participant_id=[f"sub-TCGACS{one:04d}" for one in range(900)])
        ),
    )
    wanted = many.ids[::3]
    (tmp_path / "ids.txt").write_text("\n".join(wanted) + "\n")
    (tmp_path / "ids.tsv").write_text(
        "participant_id\tsite\n" + "".join(f"{one}\tA\n" for one in wanted)
    )
    for given in [
        wanted,
        ", ".join(wanted),
        str(tmp_path / "ids.txt"),
        str(tmp_path / "ids.tsv"),
    ]:
        development, external = split_external(many, given)
        assert (
            external.ids == wanted
            and len(development) == 600
            and len(external.flow[0][0]) < 300
        )
    (tmp_path / "bad.txt").write_text("sub-TCGACS0001\nTCGA-CS-0002\n")
    refused(
        lambda: many.subset(str(tmp_path / "bad.txt")),
        tmp_path,
        "bad.txt",
        "'TCGA-CS-0002' is no participant_id",
    )
    (tmp_path / "other.csv").write_text("name,site\na,b\n")
    refused(
        lambda: many.subset(str(tmp_path / "other.csv")),
        tmp_path,
        "other.csv",
        "is no participant_id",
    )


MANIFESTS = {
    "patients a word": ("patients: 110", "patients: many", "not of type int"),
    "patients true": ("patients: 110", "patients: true", "not of type int"),
    "a target unknown": ("targets: [idh", "targets: [[idh]", "targets"),
    "a bomb": ("patients: 110", "x: &x [1]\npatients: *x", "aliases"),
    "columns a list": ("      age: {from", "      - age: {from", ""),
    "a name of dots": ("name: tcga-lgg-slices", "name: ..", "may hold only"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_malformed_manifest(tmp_path, case):
    old, new, words = MANIFESTS[case]
    text = carried("data_manifests", "tcga-lgg-slices.yaml").read_text(encoding="utf-8")
    assert old in text
    put(tmp_path / "typo.yaml", text.replace(old, new, 1))
    refused(lambda: load_manifest(tmp_path / "typo.yaml"), tmp_path, "typo.yaml", words)


@pytest.mark.parametrize(
    "name,content",
    [
        ("inputs.npy", b""),
        ("inputs.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'"),
        ("table.csv", b""),
        ("targets.csv", b'idh\n"mutant\n'),
        ("samples.json", b"[]"),
        ("samples.json", b'{"names": "ab"}'),
        ("samples.json", b"{}"),
    ],
)
def test_malformed_samples(tmp_path, name, content):
    np.save(tmp_path / "inputs.npy", np.zeros((1, 1, 2, 2)))
    (tmp_path / "table.csv").write_text("participant_id\nsub-1\n")
    (tmp_path / "targets.csv").write_text("idh\nmutant\n")
    write_json(tmp_path / "samples.json", {"names": ["a"]})
    assert len(read_samples(tmp_path)) == 1
    put(tmp_path / name, content)
    refused(lambda: read_samples(tmp_path), tmp_path, name)


@pytest.mark.parametrize(
    "content,words",
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "column study is missing"),
        ("study,model\nx\n", "line 2"),
        ("study,study\nx,y\n", "stands twice"),
        ('study,model\n"x,y\n', "line 2"),
        ('study,model\n"x\ny",z\n', "line 2: a quote"),
    ],
)
def test_malformed_predictions(tmp_path, content, words):
    put(tmp_path / "predictions.csv", content)
    refused(
        lambda: read_predictions(tmp_path / "predictions.csv"),
        tmp_path,
        "predictions",
        words,
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_save_them(tmp_path, encoding, ends):
    put(tmp_path / "participants.tsv", GOOD.replace("\n", ends).encode(encoding))
    assert read_cohort(tmp_path).participants["age"].tolist() == [40, 50]


def test_a_stray_quote_moves_nobody(tmp_path):
    text = 'participant_id\thistology\tidh\nsub-1\t"astrocytoma\tmutant\nsub-2\toligo"dendroglioma\twildtype\nsub-3\t"\tmutant\n'
    put(tmp_path / "participants.tsv", text)
    cohort = read_cohort(tmp_path)
    assert cohort.labels("idh").tolist() == [
        "mutant",
        "wildtype",
        "mutant",
    ] and cohort.participants["histology"].tolist() == [
        '"astrocytoma',
        'oligo"dendroglioma',
        '"',
    ]
    cohort.write()
    assert read_cohort(tmp_path).participants.equals(cohort.participants)
