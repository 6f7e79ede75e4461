"""Claims: the tables are whole, verdicts follow their rules, foreign score files are
checked; with the published file, Table 2 comes out.
"""

import json
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from glioma_repro.statistics.claims import (
    CONTRADICTIONS,
    SAME_SCORES,
    VERDICTS,
    _claims_of,
    compare_to_published,
    contradictions,
    find_scores,
    included_patients,
    monte_carlo_error,
    open_scores,
    published_studies,
    read_claims,
    read_description,
    read_margins,
    read_scores,
    score_descriptions,
    synthetic_scores,
    verdict_counts,
)
from glioma_repro.patients.core import ReproError, SchemaError, carried, real_data
from glioma_repro.statistics.measures import proportion_interval

published = pytest.mark.skipif(
    find_scores() is None, reason="the published scores are not here (GLIOMA_DATA)"
)
DESCRIPTION = score_descriptions()["prognosais"]


@pytest.fixture
def made():
    return synthetic_scores(DESCRIPTION, patients=20, seed=1)


def read(table, folder, description=DESCRIPTION):
    table.to_csv(folder / "scores.csv", index=False)
    return read_scores(folder / "scores.csv", description)


def test_every_study_has_claims_and_no_sentence_is_copied():
    assert published_studies() == [
        "akkus2017",
        "chang2018",
        "choi2021",
        "liu2022",
        "vandervoort2022",
    ]
    claims = read_claims()
    assert not claims["claim_id"].duplicated().any() and len(claims) > 400
    for study, part in claims.groupby("study"):
        assert part["claim_id"].str.startswith(f"{study}.").all()


def test_table_sizes_of_the_papers():
    count = read_claims().assign(
        table=lambda table: table["source"].str.extract(r"^(Table \d)$")[0]
    )
    count = (
        count[count["kind"] == "result"].groupby(["study", "table"])["claim_id"].count()
    )
    assert (
        count["akkus2017", "Table 1"] == 12
        and count["akkus2017", "Table 2"] == 12
        and count["akkus2017", "Table 3"] == 4
    )
    assert count["choi2021", "Table 2"] == 18 and count["choi2021", "Table 3"] == 36
    # grade has no sensitivity and specificity
    assert count["vandervoort2022", "Table 2"] == 10 * 4 - 2
    assert count["liu2022", "Table 3"] == 9 and count["liu2022", "Table 4"] == 15


def test_sums_within_the_tables():
    value = read_claims().set_index("claim_id")["published"]
    for one in ("train", "test"):

        def of(*words, one=one):
            return sum(value[f"vandervoort2022.table1.{one}.{word}"] for word in words)

        total = of("patients")
        for parts in (
            ("women", "men", "sex_unknown"),
            ("age_below_40", "age_40_60", "age_above_60", "age_unknown"),
            ("idh_mutant", "idh_wildtype", "idh_unknown"),
            ("codeleted", "intact", "codel_unknown"),
            ("grade_2", "grade_3", "grade_4", "grade_unknown"),
            ("segmentation_manual", "segmentation_automatic"),
            (
                "oligodendroglioma",
                "astrocytoma_mutant",
                "astrocytoma_wildtype",
                "gbm_mutant",
                "gbm_wildtype",
                "subtype_unknown",
            ),
        ):
            assert of(*parts) == total, (one, parts)
    for one in ("severance", "snuh", "tcia"):

        def of(*words, one=one):
            return sum(value[f"choi2021.table1.{one}.{word}"] for word in words)

        assert (
            of("men", "women")
            == of("idh_wildtype", "idh_mutant")
            == of("grade2", "grade3", "grade4")
            == of("patients")
        )
        for grade in (2, 3, 4):
            kinds = ["wildtype", "intact", "codeleted"] + (
                ["unspecified"] if grade == 4 else []
            )
            assert of(*[f"grade{grade}_{kind}" for kind in kinds]) == of(
                f"grade{grade}"
            )


def test_akkus_table3_gives_table1():
    value = read_claims("akkus2017").set_index("claim_id")["published"]
    assert value["akkus2017.table3.codeleted_as_codeleted"] / 45 == pytest.approx(
        0.933, abs=5e-4
    )
    assert value["akkus2017.table3.intact_as_intact"] / 45 == pytest.approx(
        0.822, abs=5e-4
    )


def test_contradictions_without_data_say_what_they_need():
    table = contradictions("vandervoort2022")
    assert table["finding"].str.contains("needs the published scores").all()
    for study in CONTRADICTIONS:
        # what agrees is no contradiction
        assert (contradictions(study)["finding"] != "agrees").all()


def one_claim(theirs, **columns):
    "A claim of one AUROC, with nothing known of its uncertainty."
    claims = read_claims("chang2018").query("claim_id == 'chang2018.results.idh.auroc'")
    return claims.assign(
        published=theirs,
        value=f"{theirs:.6f}",
        digits=6,
        low=pd.NA,
        high=pd.NA,
        bounds="",
        **columns,
    )


def verdict_of(claims, value, half, **columns):
    "The row of compare_to_published for an interval of this half width."
    mine = pd.DataFrame(
        {
            "claim_id": claims["claim_id"],
            "reproduced": value,
            "low": value - half,
            "high": value + half,
            "n": 100,
            "null_p": 0.001,
        }
        | columns
    )
    return compare_to_published(claims, mine).iloc[0]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.75, 0.95),
    st.floats(0.005, 0.15),
    st.floats(-0.2, 0.2),
    st.floats(0.01, 0.1),
)
def test_the_verdict_is_equivalence_or_difference(theirs, half, shift, margin):
    claims = one_claim(theirs)
    near, far = abs(abs(shift) + half - margin), abs(abs(shift) - half)
    if min(near, far) < 1e-5 or theirs + shift <= 0.5:
        return
    verdict = verdict_of(claims, theirs + shift, half, margin=margin)["verdict"]
    assert verdict == (
        "reproduced"
        if abs(shift) + half <= margin
        else "differs"
        if abs(shift) > half
        else "not decided"
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(0.75, 0.95), st.floats(0.03, 0.15), st.floats(-0.2, 0.2))
def test_the_patients_that_it_asks_for_decide(theirs, half, shift):
    """With the same figure and the interval of so many patients there is a verdict, and
    with fewer there is none.
    """
    claims, value = one_claim(theirs), theirs + shift
    row = verdict_of(claims, value, half)
    if row["verdict"] != "not decided" or pd.isna(row["patients_to_decide"]):
        return
    wanted = float(row["patients_to_decide"])
    assert wanted > 100

    def verdict(n):
        return verdict_of(claims, value, half * np.sqrt(100 / n), n=n)["verdict"]

    assert (
        verdict(wanted + 1) != "not decided"
        and verdict(max(wanted - 2, 100)) == "not decided"
    )


def test_a_figure_that_does_not_beat_its_null_is_not_reproduced():
    claims = read_claims("chang2018")
    claims = claims[claims["claim_id"].str.startswith("chang2018.results.mgmt.")]
    low, high = proportion_interval(41, 52)
    mine = pd.DataFrame(
        {
            "claim_id": [
                "chang2018.results.mgmt.accuracy",
                "chang2018.results.mgmt.auroc",
            ],
            "reproduced": [41 / 52, 0.63],
            "low": [low, 0.44],
            "high": [high, 0.83],
            "n": 52,
            "null": ["majority 0.788", "chance 0.5"],
            "null_p": [1.0, 0.17],
        }
    )
    table = compare_to_published(claims, mine)
    assert (table["verdict"] == "not decided").all() and table["patients_to_decide"].gt(
        52
    ).all()
    assert table["reason"].str.contains("does not beat (?:majority|chance)").all()
    narrow = mine.assign(
        low=mine["reproduced"] - 0.001,
        high=mine["reproduced"] + 0.001,
        reproduced=[0.83, 0.81],
    )
    narrow[["low", "high"]] = narrow[["reproduced"]].to_numpy() + [-0.001, 0.001]
    assert (compare_to_published(claims, narrow)["verdict"] == "not decided").all()
    assert (
        compare_to_published(claims, narrow.drop(columns="null_p"))["verdict"]
        == "not decided"
    ).all()
    assert (
        compare_to_published(claims, narrow.assign(null_p=0.001))["verdict"]
        == "reproduced"
    ).all()


def test_the_range_over_folds_is_no_interval():
    claims = read_claims("chang2018").query("claim_id == 'chang2018.results.idh.auroc'")
    assert list(claims["bounds"]) == ["range"]
    # against 0.91; the folds go from 0.89 to 0.92
    row = verdict_of(claims, 0.878, 0.025)
    assert row["verdict"] == "differs"
    assert (
        verdict_of(claims.assign(bounds="interval"), 0.878, 0.025)["verdict"]
        == "not decided"
    )


def test_margins_are_data():
    claims, margins = one_claim(0.8), read_margins()
    assert verdict_of(claims, 0.8, 0.04)["verdict"] == "reproduced"
    margins.loc["auroc", "margin"] = 0.03
    mine = pd.DataFrame(
        {
            "claim_id": claims["claim_id"],
            "reproduced": 0.8,
            "low": 0.76,
            "high": 0.84,
            "null_p": 0.001,
        }
    )
    assert (
        compare_to_published(claims, mine, margins=margins)["verdict"].iloc[0]
        == "not decided"
    )
    assert verdict_of(claims, 0.8, 0.04, margin=0.03)["verdict"] == "not decided"


@pytest.mark.parametrize("p, verdict", [(0.01, "reproduced"), (0.2, "not decided")])
def test_a_printed_p_value_is_never_refuted_by_a_large_one(p, verdict):
    claims = read_claims("choi2021").query(
        "claim_id == 'choi2021.results.p_age.tcia.auroc'"
    )
    table = compare_to_published(
        claims, pd.DataFrame({"claim_id": claims["claim_id"], "reproduced": [p]})
    )
    assert list(table["verdict"]) == [verdict]


@pytest.mark.parametrize(
    "value, verdict", [(0.3858, "exact"), (10 / 26, "rounded twice"), (0.38, "differs")]
)
def test_the_same_scores_have_verdicts_of_their_own(value, verdict):
    claims = read_claims("vandervoort2022").query(
        "claim_id == 'vandervoort2022.table2.all.codel_1p19q.sensitivity'"
    )
    table = compare_to_published(
        claims,
        pd.DataFrame({"claim_id": claims["claim_id"], "reproduced": [value]}),
        same_scores=True,
    )
    assert list(table["verdict"]) == [verdict] and list(
        verdict_counts(table, SAME_SCORES).columns
    ) == list(SAME_SCORES)


def test_layers_of_liu2022_follow_from_its_input():
    """3x3 convolutions without padding take two pixels off, a pooling divides by its
    own width: only so do the printed sizes come out.
    """
    value = read_claims("liu2022").set_index("claim_id")["published"]
    width = value["liu2022.design.input"]
    for name in (
        "conv1",
        "conv2",
        "pool1",
        "conv3",
        "conv4",
        "pool2",
        "conv5",
        "conv6",
        "pool3",
        "conv7",
        "conv8",
        "pool4",
    ):
        pool = (
            value["liu2022.design.last_pool_table"]
            if name == "pool4"
            else value["liu2022.table1.first_pool"]
        )
        width = (
            width - (value["liu2022.design.kernels"] - 1)
            if name.startswith("conv")
            else width // pool
        )
        assert value[f"liu2022.table1.{name}.width"] == width, name
    assert width**2 * value["liu2022.table1.pool4.maps"] == value["liu2022.design.flat"]


def test_figure_2_of_vandervoort2022_adds_up():
    value = read_claims("vandervoort2022").set_index("claim_id")["published"]
    parts = {
        "train": [
            "emc",
            "hmc",
            "brats",
            "rembrandt",
            "cptac_gbm",
            "ivygap",
            "aumc",
            "btp",
            "umcu",
        ],
        "test": ["tcga_lgg", "tcga_gbm"],
    }
    for part, names in parts.items():

        def of(what, names=names):
            return [value[f"vandervoort2022.figure2.{what}.{name}"] for name in names]

        assert [a - b for a, b in zip(of("screened"), of("excluded"))] == of("kept")
        assert sum(of("screened")) == value[f"vandervoort2022.figure2.screened_{part}"]
        assert sum(of("excluded")) == value[f"vandervoort2022.figure2.excluded_{part}"]
        assert sum(of("kept")) == value[f"vandervoort2022.table1.{part}.patients"]


def test_ranges_of_choi2021_are_those_of_its_table_3():
    claims = read_claims("choi2021").set_index("claim_id")
    models = {
        "resnet": "conventional_resnet",
        "forest": "shape_and_loci_random_forest",
        "age": "age",
    }
    wrong = []
    for short, name in models.items():
        for quantity in ("accuracy", "auroc", "auprc"):
            values = [
                claims.at[
                    f"choi2021.table3.{name}.per_patient.{one}.{quantity}", "published"
                ]
                for one in ("internal_test", "snuh", "tcia")
            ]
            row = claims.loc[f"choi2021.results.range_{short}_{quantity}"]
            wrong += (
                []
                if (row["low"], row["high"]) == (min(values), max(values))
                else [row.name]
            )
    # the paper's own slip, on record as a contradiction
    assert wrong == ["choi2021.results.range_age_accuracy"]


def test_what_was_to_be_added_is_on_record():
    claims = read_claims().set_index("claim_id")
    words = {
        "akkus2017.methods.training_least": "10",
        "akkus2017.methods.training_most": "2",
        "akkus2017.results.overfitted_after": "50",
        "chang2018.design.minutes_registration": "1",
        "chang2018.design.seconds_segmentation": "1",
        "chang2018.results.appearance.mgmt.methylated.cyst": "eccentric",
        "choi2021.results.dice_sd.tcia": "0.08",
        "choi2021.results.importance.1": "age",
        "choi2021.design.field_3t.severance": "0.982",
        "choi2021.design.flair_6_7.snuh": "0.888",
        "liu2022.table1.conv8.maps": "128",
    }
    assert {name: claims.at[name, "value"] for name in words} == words
    assert (
        claims["source"]
        .str.contains("Table|Figure|Methods|Results|Abstract|Discussion|Title")
        .all()
    )


def test_a_limit_of_ours_is_called_ours():
    claims = read_claims("vandervoort2022").set_index("claim_id")
    row = claims.loc["vandervoort2022.contradiction.glioblastoma_calls"]
    assert row["how"] == "limit of ours" and "our own reading" in row["note"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda text: text.replace(",result,", ",guess,", 1),
            "line 2: kind: 'guess'",
        ),
        (
            lambda text: text.replace("Table 1,codel_1p19q", "Table 1,egfr", 1),
            "line 2: target: 'egfr'",
        ),
        (
            lambda text: text.replace("claim_id,study", "id,study", 1),
            "columns are id, study",
        ),
        (
            lambda text: text.replace("0.800,,,,45", "0.800,a,,,45", 1),
            "line 2: low: 'a",
        ),
        (
            lambda text: text.replace("0.800,,,,45", "0.800,0.7,0.9,,45", 1),
            "line 2: low and high go with bounds",
        ),
    ],
)
def test_bad_tables_of_claims(tmp_path, change, message):
    path = tmp_path / "akkus2017.csv"
    path.write_text(
        change(
            carried("data_manifests", "published", "akkus2017.csv").read_text(
                encoding="utf-8"
            )
        ),
        encoding="utf-8",
    )
    with pytest.raises(SchemaError, match=message):
        _claims_of(path)


def test_wide_is_not_decided_and_wordy_is_not_testable():
    claims = read_claims("vandervoort2022")
    some = claims[
        claims["claim_id"].isin(
            ["vandervoort2022.table2.hgg.idh.auroc", "vandervoort2022.results.survival"]
        )
    ]
    table = compare_to_published(
        some,
        pd.DataFrame(
            {
                "claim_id": some["claim_id"],
                "reproduced": [0.6, 0.9],
                "low": [0.1, 0.8],
                "high": [0.9, 1.0],
            }
        ),
    )
    verdict = table.set_index("claim_id")["verdict"]
    assert verdict["vandervoort2022.table2.hgg.idh.auroc"] == "not decided" and set(
        verdict
    ) <= set(VERDICTS)
    assert verdict["vandervoort2022.results.survival"] == "not testable here"
    none = compare_to_published(
        some,
        pd.DataFrame(
            {
                "claim_id": some["claim_id"].head(1),
                "reproduced": [np.nan],
                "reason": ["fewer than two patients"],
            }
        ),
    )
    assert "fewer than two patients" in none["reason"].tolist()


def test_reproduced_rows_are_never_lost_or_ambiguous():
    claims = read_claims("akkus2017")
    with pytest.raises(SchemaError, match="no claim is about"):
        compare_to_published(
            claims,
            pd.DataFrame({"claim_id": ["akkus2017.table9"], "reproduced": [1.0]}),
        )
    with pytest.raises(SchemaError, match="two rows"):
        compare_to_published(
            claims,
            pd.DataFrame(
                {
                    "claim_id": ["akkus2017.table1.configuration4.accuracy"] * 2,
                    "reproduced": [1.0, 0.9],
                }
            ),
        )
    with pytest.raises(SchemaError, match="at least one of"):
        compare_to_published(claims, pd.DataFrame({"reproduced": [1.0]}))


def test_monte_carlo_error_shrinks_with_the_draws():
    draws = np.random.default_rng(0).normal(size=100_000)
    assert monte_carlo_error(draws, 2500)[0] == pytest.approx(
        monte_carlo_error(draws, 10_000)[0] * 2, rel=0.15
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda table: table.drop(columns="Prediction_score_grade_3"),
            "column Prediction_score_grade_3 is missing",
        ),
        (
            lambda table: pd.concat([table, table.tail(1)]),
            "TCGA-XX-0019 stands in it twice",
        ),
        (
            lambda table: table.assign(
                Patient=table["Patient"].replace("TCGA-XX-0001", "TCGA_XX_0000")
            ),
            "stands in it twice",
        ),
        (lambda table: table.assign(Grade="5"), "the description knows"),
        (
            lambda table: table.assign(
                Prediction_score_IDH_wildtype="0.9", Prediction_score_IDH_mutated="0.9"
            ),
            "do not sum to 1",
        ),
        (
            lambda table: table.assign(
                Prediction_score_IDH_wildtype="1.5", Prediction_score_IDH_mutated="-0.5"
            ),
            r"outside \[0, 1\]",
        ),
        (
            lambda table: table.assign(Prediction_score_IDH_wildtype="high"),
            "is no number",
        ),
        (
            lambda table: table.assign(
                Patient=["../../etc/passwd", *table["Patient"][1:]]
            ),
            "is no TCGA barcode",
        ),
        (
            lambda table: table.assign(Patient=["PGBM-001", *table["Patient"][1:]]),
            "'PGBM-001' is no TCGA barcode",
        ),
    ],
)
def test_bad_score_files(made, tmp_path, change, message):
    with pytest.raises(ReproError, match=message):
        read(change(made), tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda entry: entry.pop("patient"), "key patient is missing"),
        (
            lambda entry: entry["targets"].update(egfr=entry["targets"]["idh"]),
            "no target 'egfr'",
        ),
        (
            lambda entry: entry["targets"]["idh"]["scores"].update(mutated="x"),
            "'mutated' is no class of idh",
        ),
        (lambda entry: entry.update(licens="MIT"), "unknown key 'licens'"),
        (
            lambda entry: entry["targets"]["idh"].pop("scores"),
            "targets: idh: the key scores is missing",
        ),
        (
            lambda entry: entry["targets"]["idh"].update(codes=[1, 2]),
            "targets: idh: codes",
        ),
    ],
)
def test_bad_descriptions(tmp_path, change, message):
    content = yaml.safe_load(
        carried("data_manifests", "published", "vandervoort2022_scores.yaml").read_text(
            encoding="utf-8"
        )
    )
    change(content)
    (tmp_path / "x_scores.yaml").write_text(
        json.dumps(content)  # JSON is YAML without aliases
    )
    with pytest.raises(SchemaError, match=message):
        read_description(tmp_path / "x_scores.yaml")


def test_unknown_labels_stay_unknown(made, tmp_path):
    predictions, cohort = read(made.assign(IDH_mutated="-1", Grade=""), tmp_path)
    assert (
        predictions.select(target="idh").table["label"].isna().all()
        and cohort.labels("grade").isna().all()
    )
    assert cohort.labels("codel_1p19q").notna().all()


def test_order_of_rows_and_columns_does_not_matter(made, tmp_path):
    straight, _ = read(made, tmp_path)
    turned, _ = read(made.sample(frac=1, random_state=0)[made.columns[::-1]], tmp_path)
    key = ["participant_id", "target", "class"]
    pd.testing.assert_frame_equal(
        straight.table.sort_values(key, ignore_index=True),
        turned.table.sort_values(key, ignore_index=True),
    )


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(ReproError, match="PrognosAIs_glioma"):
        find_scores("prognosais", tmp_path)
    with pytest.raises(ReproError, match="no score file"):
        find_scores("nobody")


@published
def test_published_auroc_of_every_pair_of_grades():
    predictions, cohort = open_scores()
    value = {
        target: predictions.select(target=target).wide().dropna(subset="label")
        for target in ("idh", "codel_1p19q")
    }
    assert roc_auc_score(
        value["idh"]["label"] == "mutant", value["idh"]["mutant"]
    ) == pytest.approx(0.8959, abs=5e-5)
    assert roc_auc_score(
        value["codel_1p19q"]["label"] == "codeleted", value["codel_1p19q"]["codeleted"]
    ) == pytest.approx(0.8519, abs=5e-5)
    assert cohort.participants["tcga_barcode"].str.fullmatch(r"TCGA-\w{2}-\w{4}").all()


@published
def test_published_contradictions_show():
    table = contradictions("vandervoort2022", open_scores()[0]).set_index("claim_id")[
        "computed"
    ]
    assert table["vandervoort2022.contradiction.basic_interval"] == pytest.approx(
        1.10, abs=0.03
    )
    assert table["vandervoort2022.contradiction.grade_average"] == pytest.approx(
        0.84, abs=0.005
    )
    assert table["vandervoort2022.contradiction.codel_sensitivity"] == 10 / 26


@published
def test_marks_of_a_called_grade_are_the_printed_ones():
    table = contradictions("vandervoort2022", open_scores()[0]).set_index("claim_id")
    assert table.at[
        "vandervoort2022.contradiction.grade2_at_half", "computed"
    ] == pytest.approx(0.66, abs=0.005)
    assert table.at[
        "vandervoort2022.contradiction.grade4_at_half", "computed"
    ] == pytest.approx(0.72, abs=0.005)
    assert (
        table.at["vandervoort2022.contradiction.glioblastoma_calls", "finding"]
        == "contradicts, by a limit of ours"
    )


@published
def test_public_patients_are_those_of_figure_2():
    listed = included_patients()
    if listed is None:
        pytest.skip("the authors' list of patients is not here (GLIOMA_DATA)")
    kept = read_claims("vandervoort2022").set_index("claim_id")["published"]
    counts = listed["collection"].value_counts()
    assert len(counts) == 7 and all(
        kept[f"vandervoort2022.figure2.kept.{name}"] == count
        for name, count in counts.items()
    )


def test_an_undescribed_collection_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIOMA_DATA", str(tmp_path))
    (tmp_path / "list.csv").write_text("where,Patient\nElsewhere,1\n")
    entry = {"file": "list.csv", "collection": "where", "names": {"BraTS": "brats"}}
    assert real_data() == tmp_path
    with pytest.raises(SchemaError, match="no collection 'Elsewhere'"):
        included_patients(DESCRIPTION | {"included": entry})
    with pytest.raises(SchemaError, match="column what is missing"):
        included_patients(DESCRIPTION | {"included": entry | {"collection": "what"}})
    assert (
        included_patients(DESCRIPTION | {"included": entry | {"file": "none.csv"}})
        is None
    )
