"""Splits, leaks, mappings and manifests: what must never happen, tried on many made-up
cohorts.
"""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glioma_repro.patients.cohort import (
    check_no_leak,
    cohorts_table,
    flow_table,
    include,
    load_manifest,
    manifest_of,
    manifests,
    patient_splits,
    plot_flow,
    plot_splits,
    read_mapped,
    read_yaml,
    review,
    site_splits,
    split_external,
    target_names,
    usable_targets,
)
from glioma_repro.patients.core import (
    TARGETS,
    Cohort,
    LeakError,
    ReproError,
    SchemaError,
    carried,
    read_cohort,
)


def made_up(number, seed, unknown=0.2, persons=None):
    """A table of random labels; several rows may be one person."""
    draw = np.random.default_rng(seed)

    def some(words):
        return [
            None if draw.random() < unknown else draw.choice(words)
            for _ in range(number)
        ]

    table = pd.DataFrame(
        dict(
            participant_id=[f"sub-{one:03d}" for one in range(number)],
            idh=some(TARGETS["idh"]),
            codel_1p19q=some(TARGETS["codel_1p19q"]),
            who_grade=pd.array(
                [
                    None if word is None else int(word)
                    for word in some(TARGETS["grade"])
                ],
                dtype="Int64",
            ),
            site=draw.choice(["A", "B", "C"], number),
        )
    )
    if persons:
        table["identity"] = [
            f"person-{one}" for one in draw.integers(0, persons, number)
        ]
    return Cohort("made-up", table)


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(12, 90),
    seed=st.integers(0, 10_000),
    folds=st.integers(2, 6),
    persons=st.sampled_from([None, 10, 40]),
)
def test_splits_keep_persons_together_and_forget_nobody(number, seed, folds, persons):
    cohort = made_up(number, seed, persons=persons)
    if cohort.identities().nunique() < folds:
        return
    splits = patient_splits(cohort, folds=folds, repeats=2, seed=seed)
    assert len(splits) == 2 * folds
    for repeat in (0, 1):
        tested = [
            one for split in splits if split.repeat == repeat for one in split.test
        ]
        assert sorted(tested) == cohort.ids
    for split in splits:
        check_no_leak(split.train, split.test, cohort)
        assert sorted(split.train + split.test) == cohort.ids


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number,folds", [(55, 5), (110, 5), (240, 5), (63, 3)])
def test_every_class_of_every_target_is_spread(number, folds, seed):
    cohort = made_up(number, seed)
    splits = patient_splits(cohort, "idh, codel_1p19q, grade", folds, seed=seed)
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for target in ("idh", "codel_1p19q", "grade"):
        for word in cohort.classes(target):
            counts = [
                int((cohort.labels(target).loc[list(split.test)] == word).sum())
                for split in splits
            ]
            assert max(counts) - min(counts) <= 2, (target, word, counts)


def test_one_target_is_stratified_as_evenly_as_its_numbers_allow():
    cohort = made_up(83, 4, unknown=0)
    for target in ("idh", "grade"):
        for word in cohort.classes(target):
            counts = [
                int((cohort.labels(target).loc[list(split.test)] == word).sum())
                for split in patient_splits(cohort, target, 5)
            ]
            assert max(counts) - min(counts) <= 1


def test_folds_depend_on_ids_labels_and_seed_alone():
    cohort = made_up(60, 1)
    first = [split.test for split in patient_splits(cohort, seed=3)]
    assert first == [split.test for split in patient_splits(made_up(60, 1), seed=3)]
    assert first != [split.test for split in patient_splits(cohort, seed=4)]
    shuffled = Cohort("made-up", cohort.participants.sample(frac=1, random_state=2))
    assert [set(one) for one in first] == [
        set(split.test) for split in patient_splits(shuffled, seed=3)
    ]


def test_a_small_class_is_named_and_the_others_go_on():
    cohort = Cohort(
        "small",
        pd.DataFrame(
            dict(
                participant_id=[f"sub-{one}" for one in range(20)],
                idh=["mutant"] * 17 + ["wildtype"] * 3,
                codel_1p19q=["intact", "codeleted"] * 10,
                mgmt=["methylated"] * 20,
            )
        ),
    )
    usable = usable_targets(cohort, folds=5).set_index("target")
    assert usable["usable"].to_dict() == dict(
        idh=False, codel_1p19q=True, mgmt=False, grade=False, tumor=False
    )
    assert (
        "wildtype has 3 patients for 5 folds" in usable.loc["idh", "reason"]
        and "every patient with" in usable.loc["mgmt", "reason"]
    )
    # the folds themselves stand, for the targets that can use them
    assert len(patient_splits(cohort, "all", 5)) == 5


def test_copies_count_once():
    cohort = Cohort(
        "copies",
        pd.DataFrame(
            dict(
                participant_id=[f"sub-{one}" for one in range(10)],
                tumor=["present"] * 5 + ["absent"] * 5,
                identity=["a"] * 5 + list("bcdef"),
            )
        ),
    )
    assert (
        "present has 1 patients for 5 folds"
        in usable_targets(cohort, "tumor", 5)["reason"][0]
    )


@pytest.mark.parametrize("folds", [0, 1, 11])
def test_impossible_folds(folds):
    with pytest.raises(ReproError, match="folds"):
        patient_splits(made_up(10, 0), folds=folds)


def test_unknown_target_names_the_nearest():
    with pytest.raises(ReproError, match="did you mean codel_1p19q"):
        target_names("idh, 1p19q")
    assert target_names("idh, grade, idh") == ("idh", "grade")


def test_known_keeps_only_labelled_patients():
    cohort = made_up(40, 2, unknown=0.5)
    split = patient_splits(cohort, "idh", 4)[0]
    known = split.known(cohort.labels("idh"))
    assert cohort.labels("idh").loc[
        list(known.train + known.test)
    ].notna().all() and 0 < len(known.train) < len(split.train)


def barcodes(name, codes):
    return Cohort(
        name,
        pd.DataFrame(
            dict(
                participant_id=[f"sub-{name}{one}" for one in range(len(codes))],
                tcga_barcode=codes,
            )
        ),
    )


def test_one_person_in_two_cohorts_raises():
    slices, brats = (
        barcodes("slices", ["TCGA-CS-0001", "TCGA-CS-0002", "TCGA-DU-0003"]),
        barcodes("brats", ["TCGA-DU-0003", None]),
    )
    with pytest.raises(LeakError, match="TCGA-DU-0003.*sub-slices2.*sub-brats0"):
        split_external(slices, brats)
    development, test = split_external(slices, brats, drop_shared_from="development")
    assert (
        development.ids == ["sub-slices0", "sub-slices1"]
        and len(test) == 2
        and flow_table(development)["who"][0] == "sub-slices2"
    )
    development, test = split_external(slices, brats, drop_shared_from="external")
    assert len(development) == 3 and test.ids == ["sub-brats1"]
    check_no_leak(["sub-slices0"], brats.ids, slices, brats)


def test_external_query():
    cohort = made_up(60, 5)
    development, external = split_external(cohort, 'site == "B"')
    assert set(external.participants["site"]) == {"B"} and "B" not in set(
        development.participants["site"]
    )
    assert sorted(development.ids + external.ids) == cohort.ids
    for query, match in [
        ('site == "Z"', "nobody is left"),
        ("sight == 1", "columns are"),
        ("site in ['A', 'B', 'C']", "nobody is left"),
    ]:
        with pytest.raises(ReproError, match=match):
            split_external(cohort, query)


def test_a_person_at_two_sites_cannot_be_left_out_by_site():
    cohort = Cohort(
        "two",
        pd.DataFrame(
            dict(
                participant_id=["sub-1", "sub-2", "sub-3"],
                site=["A", "B", "B"],
                identity=["x", "x", "y"],
            )
        ),
    )
    with pytest.raises(LeakError):
        site_splits(cohort)
    with pytest.raises(ReproError, match="1 sites"):
        site_splits(cohort.subset(["sub-2", "sub-3"]))


def test_inclusion_flow_adds_up(tmp_path):
    cohort = made_up(50, 6)
    cohort.problems = pd.DataFrame(
        dict(
            participant_id=["sub-900", "sub-000"],
            problem=["truncated", "kept, but no mask"],
        )
    )
    included = include(
        cohort, {"IDH known": "idh is not None", "site A or B": "site != 'C'"}
    )
    flow = flow_table(included)
    assert (
        flow["before"][0] == 51
        and flow["who"][0] == "sub-900"
        and flow["after"].iloc[-1] == len(included)
    )
    assert (flow["before"] - flow["excluded"] == flow["after"]).all()
    assert (
        len(plot_flow(included).axes) == 1
        and len(plot_splits(patient_splits(included), included).axes) == 2
    )
    with pytest.raises(ReproError, match="'older'.*agee"):
        include(cohort, {"older": "agee > 3"})
    included.folder = tmp_path / "kept"
    included.write()
    assert flow_table(read_cohort(tmp_path / "kept")).equals(flow)


def test_review_writes_the_folds(tmp_path):
    cohort = made_up(30, 7)
    found = review(cohort, "idh", folds=3, repeats=2, out=tmp_path)
    again = review(cohort, "idh", folds=3, repeats=2, out=tmp_path / "again")
    assert (tmp_path / "folds.csv").read_bytes() == (
        tmp_path / "again" / "folds.csv"
    ).read_bytes() and len(again["splits"]) == 6
    assert pd.read_csv(tmp_path / "folds.csv").groupby("repeat")[
        "participant_id"
    ].nunique().tolist() == [30, 30]
    assert list(found) == ["flow", "targets", "folds", "splits"]


# --- a user's own folder ---

MAPPING = """
name: ours
unknown: [-1, unknown]
voxel_size_known: false
columns:
  participant_id: {from: case}
  idh: {from: IDH, words: {yes: mutant, no: wildtype}}
  survival_days: {from: OS months, units: months}
"""


def own_folder(
    tmp_path, table="case\tIDH\tOS months\tscanner\nP/1\tyes\t12\tA\n", mapping=MAPPING
):
    (tmp_path / "participants.tsv").write_text(table.replace("P/1", "P1"))
    (tmp_path / "mapping.yaml").write_text(mapping)
    return tmp_path


def test_own_folder(tmp_path):
    cohort = read_mapped(
        own_folder(
            tmp_path,
            "case\tIDH\tOS months\tscanner\nP 1\tyes\t12\tA\nP 2\tunknown\t-1\tB\n",
        )
    )
    assert (
        cohort.name == "ours"
        and cohort.ids == ["sub-P1", "sub-P2"]
        and not cohort.voxel_size_known
    )
    assert (
        cohort.labels("idh").tolist()[0] == "mutant"
        and cohort.labels("idh").isna()["sub-P2"]
    )
    assert cohort.participants["survival_days"].tolist()[
        0
    ] == 365 and cohort.participants["scanner"].tolist() == ["A", "B"]


@pytest.mark.parametrize(
    "table,mapping,match",
    [
        (
            "case\tIDH\tOS months\nP1\tmaybe\t1\n",
            MAPPING,
            "participants.tsv, column 'IDH': the word 'maybe'.*mapped are 'yes', 'no'",
        ),
        ("case\tIDH\tOS months\nP1\t<b>yes</b>\t1\n", MAPPING, "the word '<b>yes</b>'"),
        ("case\tIDH\tOS months\nP1\tyes\tlong\n", MAPPING, "'long' is no number"),
        ("case\tidh\tOS months\nP1\tyes\t1\n", MAPPING, "no column 'IDH'"),
        (
            "who\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING,
            "no column 'case' with the patients' names",
        ),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\nP-1\tno\t1\n",
            MAPPING,
            "sub-P1 stands in it twice",
        ),
        ("case\tIDH\tOS months\n../../etc\tyes\t1\n", MAPPING, "may not hold"),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING.replace("words:", "wrods:"),
            "unknown key 'wrods'; did you mean words",
        ),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING.replace("idh:", "idhh:"),
            "'idhh' is no column.*did you mean idh",
        ),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING.replace("units: months", "units: moons"),
            "units 'moons'.*months",
        ),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING.replace("yes: mutant", "yes: mutated"),
            "'mutated' is not one of wildtype, mutant",
        ),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING + "title: !!python/object/apply:os.getcwd []\n",
            "mapping.yaml, line 9: .*tag",
        ),
        (
            "case\tIDH\tOS months\nP1\tyes\t1\n",
            MAPPING + "name: twice\n",
            "'name' stands twice",
        ),
    ],
)
def test_own_folder_errors_name_file_word_and_what_is_known(
    tmp_path, table, mapping, match
):
    with pytest.raises(ReproError, match=match):
        read_mapped(own_folder(tmp_path, table, mapping))


def test_not_bids(tmp_path):
    with pytest.raises(ReproError, match="not a BIDS folder"):
        read_mapped(tmp_path)
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    with pytest.raises(ReproError, match="not a BIDS folder"):
        read_mapped(tmp_path)


def test_yaml_words_stay_words(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "words: {yes: present, no: absent, on: x}\nflag: true\nday: 2020-01-01\n"
    )
    assert read_yaml(tmp_path / "a.yaml") == dict(
        words=dict(yes="present", no="absent", on="x"), flag=True, day="2020-01-01"
    )
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReproError, match="a.yaml"):
        read_yaml(tmp_path / "a.yaml")


# --- manifests ---


def test_all_manifests_are_read():
    known = manifests()
    assert set(known) == {
        "phantom",
        "tcga-lgg-slices",
        "brain-mri-yes-no",
        "brats",
        "tcga-lgg",
        "tcga-gbm",
        "lgg-1p19qdeletion",
        "brainix",
    }
    for name, one in known.items():
        assert (
            one.name == name == one.name.lower()
            and one.licence
            and one.citation
            and one.source["by_hand"]
            and one.patients > 0
        )
    assert "COCCluster" not in str(
        [rule["columns"] for rule in known["tcga-lgg-slices"].tables]
    )


def test_cohorts_table_says_what_is_on_disk(tmp_path):
    made_up(7, 0).participants.pipe(
        lambda table: Cohort("brats", table, tmp_path / "brats")
    ).write()
    table = cohorts_table(tmp_path).set_index("name")
    assert (
        table.loc["brats", "on_disk"] == "yes, 7 patients"
        and table.loc["tcga-lgg-slices", "on_disk"] == "no"
    )
    assert (
        table.loc["tcga-lgg-slices", "patients"] == 110
        and table.loc["phantom", "on_disk"] == "made on the spot"
    )


@pytest.mark.parametrize(
    "old,new,match",
    [
        ("licence:", "license:", "unknown key 'license'; did you mean licence"),
        ("by_hand:", "byhand:", "unknown key 'byhand'; did you mean by_hand"),
        ("columns:", "colums:", "unknown key 'colums'; did you mean columns"),
        ("{from: Sex,", "{form: Sex,", "unknown key 'form'; did you mean from"),
        ("layout: tcga-lgg-slices", "", "the key layout is missing"),
        ("patients: 110", "patients: !!python/name:os.system", "tag"),
        ("patients: 110", "patients: '110'", "not of type int"),
        ("targets: [idh", "targets: [idhh", "'idhh' is not one of"),
        ("name: tcga-lgg-slices", "name: ../tcga", "may hold only"),
        ("sha256: c047", "sha256: xyz", "64 hexadecimal"),
        ("kind: kaggle", "kind: kagle", "kind: 'kagle' is not one of"),
    ],
)
def test_a_manifest_with_a_typing_error(tmp_path, old, new, match):
    text = carried("data_manifests", "tcga-lgg-slices.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "typo.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ReproError, match=match) as caught:
        load_manifest(tmp_path / "typo.yaml")
    assert "typo.yaml" in str(caught.value)


def test_an_unknown_cohort_names_the_nearest():
    with pytest.raises(ReproError, match=re.escape("did you mean tcga-lgg-slices?")):
        manifest_of("tcga-lgg-slice")


def test_duplicate_patients_in_a_table_are_an_error():
    with pytest.raises(SchemaError, match="sub-1 stands in it twice"):
        Cohort("twice", pd.DataFrame(dict(participant_id=["sub-1", "sub-1"])))


def test_public_labels_do_not_make_a_voxel_size_known(tmp_path):
    from glioma_repro.statistics.clinical import with_public_labels

    rules = manifest_of("tcga-lgg-slices").tables[0]
    columns = [rules["key"], *(rule["from"] for rule in rules["columns"].values())]
    given = {"Patient ID": "TCGA-CS-4941", "Diagnosis Age": "40", "Sex": "Male"}
    lines = ["\t".join(columns), "\t".join(given.get(name, "NA") for name in columns)]
    (tmp_path / rules["file"]).write_text("\n".join(lines) + "\n")
    cohort = Cohort(
        "slices",
        pd.DataFrame(dict(participant_id=["sub-1"], tcga_barcode=["TCGA-CS-4941"])),
        title="t",
        voxel_size_known=False,
        mask_method="manual",
    )
    more = with_public_labels(cohort, tmp_path)
    assert (
        more.participants["sex"].tolist() == ["male"]
        and not more.voxel_size_known
        and (more.title, more.mask_method) == ("t", "manual")
    )
