"""Clinical statistics: the classification's rules, survival on bad tables, subgroups
too small, public labels where they are at hand.
"""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import restricted_mean_survival_time

from glioma_repro.statistics.claims import find_scores, open_scores
from glioma_repro.statistics.clinical import (
    FEWEST,
    IMPOSSIBLE,
    WHO2016,
    clinical_report,
    cox,
    decision_curve,
    impossible_combinations,
    logrank,
    median_survival,
    predicted_labels,
    restricted_mean,
    subgroups,
    survival_table,
    true_against_predicted,
    who2016,
    who2021,
    with_public_labels,
)
from glioma_repro.patients.core import (
    Cohort,
    ReproError,
    concat,
    predictions_of,
    real_data,
)

real = pytest.mark.skipif(
    real_data() is None or find_scores() is None,
    reason="the public downloads are not here (GLIOMA_DATA)",
)


@pytest.fixture(scope="module")
def cohort():
    draw = np.random.default_rng(0)
    number = 120
    idh = draw.choice(["wildtype", "mutant"], number)
    days = np.round(draw.exponential(np.where(idh == "mutant", 2000, 500)))
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{one:03d}" for one in range(number)],
            "idh": idh,
            "codel_1p19q": np.where(
                (idh == "mutant") & (draw.random(number) < 0.4), "codeleted", "intact"
            ),
            "who_grade": draw.choice([2, 3, 4], number),
            "sex": draw.choice(["female", "male"], number),
            "age": draw.normal(50, 12, number),
            "site": draw.choice(["A", "B"], number),
            "survival_days": days,
            "death": draw.integers(0, 2, number),
        }
    )
    return Cohort("test", table, phantom=True)


def scores(cohort, target, seed=0):
    draw = np.random.default_rng(seed)
    classes = cohort.classes(target)
    truth = np.eye(len(classes))[[classes.index(one) for one in cohort.labels(target)]]
    raw = np.exp(draw.normal(size=truth.shape) + 1.5 * truth)
    return predictions_of(
        raw / raw.sum(1, keepdims=True),
        classes,
        cohort.participants,
        cohort.labels(target),
        target=target,
        study="t",
        model="m",
        cohort=cohort.name,
        protocol="p",
        subset="test",
        fold=0,
        repeat=0,
        seed=0,
    )


def test_every_known_patient_gets_one_diagnosis(cohort):
    assert who2016(cohort.participants).isin(WHO2016).all()
    assert (
        who2021(
            cohort.participants.assign(
                tert_promoter="wildtype",
                chr7_gain_chr10_loss="absent",
                egfr_amplification="absent",
            )
        )
        .notna()
        .all()
    )


def test_text_numbers_and_floats_are_the_same_grade():
    for grade in ("2", 2, 2.0):
        assert (
            who2016(
                pd.DataFrame(
                    [{"idh": "mutant", "codel_1p19q": "codeleted", "who_grade": grade}]
                )
            )[0]
            == "oligodendroglioma"
        )


def test_unknown_markers_are_not_negative():
    low = pd.DataFrame(
        [
            {
                "idh": "wildtype",
                "codel_1p19q": "intact",
                "who_grade": 2,
                "tert_promoter": "wildtype",
            }
        ]
    )
    assert pd.isna(who2021(low)[0])  # chromosomes 7 and 10 and EGFR were not measured
    assert who2021(
        low.assign(chr7_gain_chr10_loss="absent", egfr_amplification="absent")
    )[0].startswith("Diffuse glioma, IDH-wildtype")


def test_impossible_are_counted_and_named():
    table = pd.DataFrame(
        {
            "idh": ["wildtype", "mutant", "wildtype", None],
            "codel_1p19q": ["codeleted", "codeleted", "intact", "codeleted"],
            "who_grade": [2, 4, 4, 2],
        }
    )
    assert impossible_combinations(table)["patients"].tolist() == [
        1,
        1,
    ] and impossible_combinations(table)["of"].tolist() == [3, 3]
    assert who2016(table)[0] == who2021(table)[0] == IMPOSSIBLE and pd.isna(
        who2016(table)[3]
    )


def test_survival_on_bad_tables(cohort):
    group = pd.Series("all", index=cohort.ids)
    with pytest.raises(ReproError, match="sub-000: a survival time below zero"):
        survival_table(
            cohort.participants.assign(
                survival_days=lambda table: table["survival_days"].where(
                    table.index > 0, -1
                )
            ),
            group,
        )
    with pytest.raises(ReproError, match="no column survival_days"):
        survival_table(cohort.participants.drop(columns="survival_days"), group)
    with pytest.raises(ReproError, match="no patient has"):
        survival_table(cohort.participants.assign(death=pd.NA), group)
    with pytest.raises(ReproError, match="half day"):
        survival_table(cohort.participants, group, zero="ignore")


def test_zero_times_count_and_are_counted(cohort):
    table = cohort.participants.assign(
        survival_days=lambda table: table["survival_days"].where(table.index > 2, 0)
    )
    lived = survival_table(table, pd.Series("all", index=cohort.ids))
    assert (
        lived["zero"].sum() >= 3
        and (lived["time"] > 0).all()
        and median_survival(lived)["zero_times"][0] == lived["zero"].sum()
    )


def test_logrank_is_lifelines(cohort):
    lived = survival_table(cohort.participants, cohort.labels("idh"))
    a, b = (lived[lived["group"] == name] for name in ("mutant", "wildtype"))
    expected = logrank_test(a["time"], b["time"], a["event"], b["event"])
    assert logrank(lived)["p"][0] == pytest.approx(expected.p_value) and logrank(lived)[
        "p_holm"
    ][0] == pytest.approx(expected.p_value)


def test_small_groups_are_underpowered(cohort):
    group = pd.Series(
        ["tiny"] * (FEWEST - 1) + ["rest"] * (120 - FEWEST + 1), index=cohort.ids
    )
    lived = survival_table(cohort.participants, group)
    assert (
        "underpowered"
        in median_survival(lived).set_index("group").loc["tiny", "reason"]
    )
    assert (
        logrank(lived)["comparison"].tolist() == ["tiny"]
        and logrank(lived)["p"].isna().all()
    )
    assert (
        "underpowered"
        in cox(cohort.participants.assign(group=group.to_numpy()), ["age", "group"])
        .set_index("covariate")
        .loc["group: tiny", "reason"]
    )


def test_cox_is_lifelines(cohort):
    ours = cox(cohort.participants, ["age"]).iloc[0]
    lived = survival_table(cohort.participants, pd.Series("all", index=cohort.ids))
    design = lived[["time", "event"]].assign(
        age=cohort.participants["age"].astype(float)
    )
    assert ours["hazard_ratio"] == pytest.approx(
        CoxPHFitter().fit(design, "time", "event").hazard_ratios_["age"], rel=1e-6
    )


def test_cox_without_deaths_says_so(cohort):
    assert (
        "too few deaths"
        in cox(cohort.participants.assign(death=0), ["age"])["reason"].iloc[-1]
    )


@pytest.mark.parametrize("horizon", [0.5, 2.0, 30.0])
def test_restricted_mean_is_lifelines_with_ties_and_weights(horizon):
    draw = np.random.default_rng(5)
    time, event, weight = (
        np.round(draw.exponential(2, 60), 1) + 0.1,
        draw.integers(0, 2, 60),
        draw.integers(0, 3, (3, 60)),
    )
    for row, value in zip(weight, restricted_mean(time, event, weight, horizon)):
        fit = KaplanMeierFitter().fit(np.repeat(time, row), np.repeat(event, row))
        assert value == pytest.approx(restricted_mean_survival_time(fit, t=horizon))


def test_true_against_predicted_is_zero_for_the_truth(cohort):
    idh = cohort.labels("idh")
    table = true_against_predicted(cohort.participants, idh, idh, iterations=30)
    assert (table["difference"] == 0).all() and table["n_true"].sum() == 120


def test_decision_curve_bounds(cohort):
    table = decision_curve(scores(cohort, "idh"), iterations=50)
    share = (cohort.labels("idh") == "mutant").mean()
    assert table["net_benefit"].max() <= share + 1e-12
    model = table[table["strategy"] == "m"]
    assert (model["low"] <= model["net_benefit"] + 1e-9).mean() > 0.95
    with pytest.raises(ReproError, match="one target"):
        decision_curve(concat([scores(cohort, "idh"), scores(cohort, "grade")]))


def test_mixed_models_are_not_averaged(cohort):
    mixed = scores(cohort, "idh").table
    with pytest.raises(ReproError, match="select one model"):
        predicted_labels(
            type(scores(cohort, "idh"))(pd.concat([mixed, mixed.assign(model="other")]))
        )


def test_subgroups_of_nobody(cohort):
    with pytest.raises(ReproError, match="no patient"):
        subgroups(
            scores(cohort, "idh"),
            Cohort(
                "others", pd.DataFrame({"participant_id": ["sub-x"], "idh": ["mutant"]})
            ),
        )


def test_report_without_markers():
    report = clinical_report(
        Cohort("bare", pd.DataFrame({"participant_id": ["sub-1", "sub-2"]}))
    )
    assert (
        report["who2016"]["diagnosis"].tolist() == ["not decided by what is known"]
        and "survival" not in report
    )


@real
def test_table1_of_vandervoort2022_and_the_impossible_patient():
    predictions, patients = open_scores()
    count = who2016(patients.participants).value_counts()
    assert count.to_dict() == {
        "oligodendroglioma": 26,
        "astrocytoma, IDH-mutant": 57,
        "astrocytoma, IDH-wildtype": 22,
        "glioblastoma, IDH-mutant": 5,
        "glioblastoma, IDH-wildtype": 106,
    }
    assert impossible_combinations(predicted_labels(predictions))["patients"][0] == 1


@real
def test_who2021_agrees_with_the_published_relabelling():
    _, patients = open_scores()
    both = with_public_labels(patients, real_data() / "clinical").participants
    ours = who2021(both)
    known = both["who2021"].notna() & ours.notna() & (ours != IMPOSSIBLE)
    assert (
        known.sum() > 150 and (ours[known] == both.loc[known, "who2021"]).mean() > 0.9
    )
    assert both["survival_days"].notna().sum() > 200 and both["idh"].equals(
        patients.participants["idh"]
    )
