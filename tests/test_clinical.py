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
    cox_checks,
    decision_curve,
    fit_cox,
    follow_up,
    impossible_combinations,
    logrank,
    median_survival,
    net_benefit_difference,
    predicted_labels,
    proportional_hazards,
    restricted_mean,
    restricted_means,
    subgroups,
    survival_table,
    true_against_predicted,
    who2016,
    who2021,
    with_public_labels,
)
from glioma_repro.patients.core import (
    Cohort,
    Predictions,
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


def test_a_level_without_deaths_has_no_hazard_ratio(cohort):
    table = cohort.participants.assign(kind=np.resize(["x", "y", "z"], 120))
    table.loc[table["kind"] == "z", "death"] = 0
    found = cox(table, ["kind", "age"]).set_index("covariate")
    assert (
        np.isnan(found.loc["kind: z", "hazard_ratio"])
        and "no death among 40" in found.loc["kind: z", "reason"]
    )
    # the others are what they are without it
    rest = cox(table[table["kind"] != "z"], ["kind", "age"])
    np.testing.assert_allclose(found["hazard_ratio"].dropna(), rest["hazard_ratio"])
    assert found["high"].dropna().lt(100).all()


def test_levels_are_counted_again_after_leaving_out(cohort):
    table = cohort.participants.assign(
        first="common", second=np.resize(["p", "q"], 120)
    )
    table.loc[:3, "first"] = "rare"  # four patients: left out
    # six, of whom four are left out with them: two are left
    table.loc[:5, "second"] = "small"
    found = cox(table, ["first", "second", "age"]).set_index("covariate")
    assert "underpowered: 4" in found.loc["first: rare", "reason"]
    assert "underpowered: 2" in found.loc["second: small", "reason"] and np.isnan(
        found.loc["second: small", "p"]
    )
    assert (
        "one value only" in found.loc["first", "reason"]
        and found.loc["age", "patients"] == 114
    )


def test_a_covariate_that_tells_all_deaths_apart_has_no_ratio(cohort):
    table = cohort.participants.assign(
        oracle=np.where(cohort.participants["death"] == 1, "dies", "lives")
    )
    found = cox(table, ["oracle"])
    assert found["hazard_ratio"].isna().all() and found["reason"].str.len().gt(0).all()


def test_proportional_hazards_are_tested(cohort):
    from lifelines.statistics import proportional_hazard_test

    model = fit_cox(cohort.participants, ["age", "idh"])
    theirs = proportional_hazard_test(
        model.fit, model.design, time_transform="km"
    ).summary["p"]
    ours = proportional_hazards(model)["p"]
    np.testing.assert_allclose(ours[theirs.index], theirs)
    assert cox(cohort.participants, ["age"])["p_proportional"].between(0, 1).all()
    checks = cox_checks(
        cohort.participants, ["age", "idh"], iterations=40, refits=10
    ).set_index("measure")
    assert (
        0.5
        < checks.loc["C-index", "low"]
        < checks.loc["C-index", "value"]
        < model.fit.concordance_index_ + 0.02
    )
    assert checks.loc["proportional hazards, all together", "p"] == pytest.approx(
        ours["all together"]
    )


def test_median_is_that_of_r():
    lives = pd.DataFrame(
        {"group": "a", "time": [1.0, 2, 2, 3, 4, 5], "event": 1, "zero": False}
    )
    # one half exactly from 2 on: halfway to the next death
    assert median_survival(lives)["median"].iloc[0] == 2.5
    few = pd.DataFrame(
        {
            "group": "a",
            "time": [1.0, 2, 3, 4, 5],
            "event": [1, 0, 0, 0, 0],
            "zero": False,
        }
    )
    row = median_survival(few).iloc[0]
    assert row[["median", "high"]].isna().all() and "alive" in row["reason"]
    # R too has a lower end here: the lower edge of the band is below one half at once
    assert row["low"] == 1.0
    # the band is above one half until the last one dies, where R has no band: no upper
    # end (lifelines says 5)
    late = pd.DataFrame(
        {
            "group": "a",
            "time": [1.0, 2, 3, 4, 5],
            "event": [0, 0, 0, 1, 1],
            "zero": False,
        }
    )
    row = median_survival(late).iloc[0]
    assert (
        row["median"] == 4.5
        and np.isnan(row["high"])
        and "no upper end" in row["reason"]
    )


def test_follow_up_is_the_reverse_kaplan_meier_estimate(cohort):
    lived = survival_table(cohort.participants, cohort.labels("idh"))
    found = follow_up(lived).set_index("group")
    theirs = (
        KaplanMeierFitter().fit(lived["time"], 1 - lived["event"]).median_survival_time_
    )
    assert found.loc["all", "follow_up"] == pytest.approx(theirs, rel=0.05)
    assert found.loc["all", "longest"] == lived["time"].max()


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
    for row, value in zip(
        weight, restricted_mean(time, event, weight, horizon, level=True)
    ):
        fit = KaplanMeierFitter().fit(np.repeat(time, row), np.repeat(event, row))
        assert value == pytest.approx(restricted_mean_survival_time(fit, t=horizon))


def short_lives(number=40):
    "Patients of two groups; those of b are seen for 1.5 years only."
    draw = np.random.default_rng(4)
    group = np.where(np.arange(number) % 2, "a", "b")
    days = draw.uniform(30, np.where(group == "a", 2000, 548)).round()
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{one}" for one in range(number)],
            "survival_days": days,
            "death": 0,
        }
    )
    table.loc[::5, "death"] = 1
    table.loc[table["survival_days"].idxmax(), "death"] = 0
    return table, pd.Series(group, index=table["participant_id"])


def test_nobody_lives_on_after_the_last_follow_up():
    time, event = np.array([0.5, 1.0, 1.5]), np.array([1, 0, 0])
    assert np.isnan(restricted_mean(time, event, np.ones((1, 3)), 10.0)[0])
    # all died: known
    assert restricted_mean(time, np.ones(3, int), np.ones((1, 3)), 10.0)[
        0
    ] == pytest.approx(1.0)
    table, group = short_lives()
    means = restricted_means(survival_table(table, group), 3.0, 20).set_index("group")
    assert np.isnan(means.loc["b", "mean"]) and "last visit" in means.loc["b", "reason"]
    assert 0 < means.loc["a", "low"] < means.loc["a", "mean"] < 3


def test_gap_is_taken_up_to_the_last_common_follow_up():
    table, group = short_lives()
    # everybody is called b: followed longer than the true b
    called = group.replace({"a": "b"})
    found = true_against_predicted(
        table, group, called, horizon=5.0, iterations=30
    ).set_index("group")
    assert (
        found.loc["b", "horizon"] < 1.51
        and "common to both groups" in found.loc["b", "reason"]
    )
    assert abs(found.loc["b", "difference"]) < 1.5


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
    with pytest.raises(ReproError, match="several of 'model'"):
        predicted_labels(Predictions(pd.concat([mixed, mixed.assign(model="other")])))


@pytest.mark.parametrize("column", ["subset", "cohort", "protocol"])
def test_sources_are_never_pooled(cohort, column):
    one = scores(cohort, "idh").table
    two = Predictions(pd.concat([one, one.assign(**{column: "another"})]))
    for use in (predicted_labels, decision_curve):
        with pytest.raises(ReproError, match=f"several of '{column}'"):
            use(two)


def test_a_diagnosis_comes_from_one_source(cohort):
    grade = scores(cohort, "grade").table.assign(subset="external")
    # each target alone would pass
    with pytest.raises(ReproError, match="several of 'subset'"):
        predicted_labels(Predictions(pd.concat([scores(cohort, "idh").table, grade])))


def test_models_of_two_cohorts_stand_in_no_common_decision_curve(cohort):
    one = scores(cohort, "idh").table
    with pytest.raises(ReproError, match="several of 'cohort'"):
        decision_curve(
            Predictions(pd.concat([one, one.assign(model="b", cohort="other")]))
        )


def test_decision_curve_stands_on_the_patients_of_all_models(cohort):
    one = scores(cohort, "idh").table
    some = one[one["participant_id"].isin(cohort.ids[:80])].assign(model="b")
    table = decision_curve(Predictions(pd.concat([one, some])), iterations=20)
    assert table["patients"].eq(80).all()
    share = (cohort.labels("idh")[cohort.ids[:80]] == "mutant").mean()
    act_all = table.query("strategy == 'all' and threshold == 0.5")["net_benefit"].iloc[
        0
    ]
    assert act_all == pytest.approx(2 * share - 1)


def test_net_benefit_differences_are_paired(cohort):
    good, poor = (
        scores(cohort, "idh", 1).table,
        scores(cohort, "idh", 2).table.assign(model="b"),
    )
    both = Predictions(pd.concat([good, poor]))
    table = net_benefit_difference(
        both, "m", "b", thresholds=[0.3], iterations=400
    ).iloc[0]
    curve = decision_curve(both, thresholds=[0.3], iterations=400).set_index("strategy")
    assert table["difference"] == pytest.approx(
        curve.loc["m", "net_benefit"] - curve.loc["b", "net_benefit"]
    )
    unpaired = (curve.loc["m", "high"] - curve.loc["m", "low"]) + (
        curve.loc["b", "high"] - curve.loc["b", "low"]
    )
    assert 0 < table["high"] - table["low"] < unpaired
    with pytest.raises(ReproError, match="no strategy"):
        net_benefit_difference(both, "m", "nobody")
    with pytest.raises(ReproError, match="between 0 and 1"):
        decision_curve(both, thresholds=[0, 0.5])


def test_subgroups_of_nobody(cohort):
    nobody = pd.DataFrame({"participant_id": ["sub-x"], "idh": ["mutant"]})
    with pytest.raises(ReproError, match="no patient"):
        subgroups(scores(cohort, "idh"), Cohort("test", nobody))
    # same names, other people
    with pytest.raises(ReproError, match="of cohort test, the groups of cohort others"):
        subgroups(scores(cohort, "idh"), Cohort("others", cohort.participants))


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


def test_public_labels_change_nothing_else(tmp_path):
    from glioma_repro.patients.cohort import manifest_of

    patients = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-2"],
            "tcga_barcode": ["TCGA-CS-4938", "TCGA-CS-4941"],
        }
    )
    known = Cohort(
        "slices",
        patients,
        title="two",
        voxel_size_known=False,
        mask_method="manual",
        provenance={"source": "here"},
    )
    if real_data() is None:
        pytest.skip(
            f"the label tables of {manifest_of('tcga-lgg-slices')} are not here "
            "(GLIOMA_DATA)"
        )
    more = with_public_labels(known, real_data() / "clinical")
    assert (
        not more.voxel_size_known
        and more.mask_method == "manual"
        and more.title == "two"
    )
    assert more.provenance["source"] == "here" and "idh" in more.participants


@pytest.fixture(scope="module")
def tcga():
    if real_data() is None:
        pytest.skip("the public downloads are not here (GLIOMA_DATA)")
    table = pd.read_csv(
        real_data() / "clinical" / "lgggbm_tcga_pub_clinical_data.tsv", sep="\t"
    )
    status = table["Overall Survival Status"].astype("string").str[0]
    return pd.DataFrame(
        {
            "participant_id": table["Patient ID"],
            "survival_days": table["Overall Survival (Months)"] * 30.4375,
            "death": status.map({"0": 0, "1": 1}).astype("Int64"),
            "age": table["Diagnosis Age"],
            "subtype": table["IDH/codel subtype"],
        }
    )


def test_hazards_of_tcga_are_not_proportional(tcga):
    test = proportional_hazards(fit_cox(tcga, ["subtype", "age"])).loc["all together"]
    assert test["p"] == pytest.approx(2e-7, rel=0.2) and test["degrees"] == 3
    assert cox(tcga, ["subtype", "age"])["p_proportional"].min() < 1e-3


def test_medians_and_follow_up_of_tcga(tcga):
    lived = survival_table(tcga, tcga.set_index("participant_id")["subtype"])
    medians = median_survival(lived).set_index("group")
    assert (
        np.isnan(medians.loc["IDHmut-codel", "high"])
        and medians.loc["IDHwt", "median"] < 1.5
    )
    means = restricted_means(lived, 16.0, 10).set_index("group")["reason"]
    # only the wildtypes were followed so long
    assert means.str.contains("last visit").sum() == 2
    assert follow_up(lived).set_index("group").loc["all", "follow_up"] < 2
