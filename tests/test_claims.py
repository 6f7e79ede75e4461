"""Claims: the tables are whole, verdicts follow their rules, foreign score files are
checked; with the published file, Table 2 comes out.
"""

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from glioma_repro.statistics.claims import (
    CONTRADICTIONS,
    VERDICTS,
    compare_to_published,
    contradictions,
    find_scores,
    monte_carlo_error,
    open_scores,
    published_studies,
    read_claims,
    read_description,
    read_scores,
    score_descriptions,
    synthetic_scores,
)
from glioma_repro.patients.core import ReproError, SchemaError, carried

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


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.01, 0.3), st.floats(-0.4, 0.4))
def test_verdict_is_symmetric_and_monotone(theirs, half, shift):
    claims = (
        read_claims("chang2018")
        .query("claim_id == 'chang2018.results.idh.auroc'")
        .assign(
            published=theirs, value=f"{theirs:.6f}", digits=6, low=pd.NA, high=pd.NA
        )
    )

    def verdict(by):
        return compare_to_published(
            claims,
            pd.DataFrame(
                {
                    "claim_id": claims["claim_id"],
                    "reproduced": theirs + by,
                    "low": theirs + by - half,
                    "high": theirs + by + half,
                }
            ),
            widest=2.0,
        )["verdict"].iloc[0]

    assert verdict(shift) == verdict(-shift)
    assert verdict(shift) == ("reproduced" if abs(shift) <= half + 1e-6 else "differs")


def test_wide_missing_and_wordy_claims_are_not_testable():
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
    assert (table["verdict"] == "not testable here").all() and set(
        table["verdict"]
    ) <= set(VERDICTS)
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
        (lambda entry: entry.pop("patient"), "entry patient is missing"),
        (
            lambda entry: entry["targets"].update(egfr=entry["targets"]["idh"]),
            "no target 'egfr'",
        ),
        (
            lambda entry: entry["targets"]["idh"]["scores"].update(mutated="x"),
            "'mutated' is no class of idh",
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
    (tmp_path / "x_scores.yaml").write_text(yaml.safe_dump(content))
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
