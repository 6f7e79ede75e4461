"""Statistics: against reference implementations and published results, properties that
must hold for any scores, and bad input.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats
from sklearn import metrics

from glioma_repro.patients.core import (
    TARGETS,
    Measurements,
    Predictions,
    ReproError,
    SchemaError,
    concat,
    generator,
    predictions_of,
    real_data,
)
from glioma_repro.statistics.comparison import (
    binomial_exact,
    compare,
    corrected_resampled_t,
    mcnemar,
    permutation_test,
    shuffled,
    tango_interval,
)
from glioma_repro.statistics.masks import (
    bland_altman,
    dice,
    evaluate_measurements,
    lesion_measures,
    mask_measures,
)
from glioma_repro.statistics.measures import (
    AUROC_INTERVALS,
    Scored,
    at_thresholds,
    auprc,
    auroc,
    auroc_interval,
    auroc_one_vs_one,
    auroc_one_vs_rest,
    auroc_within_folds,
    binormal_scores,
    bootstrap_interval,
    bootstrap_values,
    brier,
    calibration_line,
    choose_threshold,
    chosen_thresholds,
    confusion,
    corrected_interval,
    delong,
    delong_unpaired,
    evaluate,
    from_confusion,
    newcombe_interval,
    one_source,
    patient_weights,
    proportion_interval,
    scores_of,
    sensitivity_at,
    specificity_at,
)
from glioma_repro.statistics.uncertainty import (
    conformal_sets,
    conformal_summary,
    cool,
    correct_prior,
    fit_temperature,
    reweigh,
    scale_temperature,
    selective_accuracy,
    uncertainty,
)

quick = settings(max_examples=40, deadline=None)


def made(labels, scores, target="idh", folds=1, ids=None, slices=None, **fields):
    """Predictions of two classes from labels (True, False or None) and scores of the
    positive class.
    """
    labels, scores = list(labels), np.asarray(scores, float)
    ids = [f"sub-{one:03d}" for one in range(len(labels))] if ids is None else ids
    table = pd.DataFrame(
        dict(participant_id=ids) | ({} if slices is None else dict(slice=slices))
    )
    words = pd.array(
        [pd.NA if one is None else TARGETS[target][int(one)] for one in labels],
        dtype="string",
    )
    fields = (
        dict(
            study="test",
            model="m",
            cohort="c",
            protocol="patients",
            subset="test",
            target=target,
            repeat=0,
            seed=0,
        )
        | fields
    )
    parts = []
    for fold in range(folds):
        mine = np.flatnonzero(np.arange(len(labels)) % folds == fold)
        if len(mine):
            parts.append(
                predictions_of(
                    np.c_[1 - scores, scores][mine],
                    TARGETS[target],
                    table.iloc[mine],
                    words[mine],
                    **({"fold": fold} | fields),
                )
            )
    return concat(parts)


def some(positives=12, negatives=30, seed=0, shift=1.5, **fields):
    "Random predictions."
    draw = generator("some", seed)
    labels = draw.permutation(np.arange(positives + negatives) < positives)
    return made(
        labels,
        1 / (1 + np.exp(-draw.normal(size=len(labels)) - shift * labels + 0.5)),
        **fields,
    )


def row(table, measure):
    "The one row of a measure."
    found = table[table["measure"] == measure]
    assert len(found) == 1
    return found.iloc[0]


@st.composite
def labelled(draw, smallest=2):
    "Labels with both classes and scores with many ties."
    number = draw(st.integers(2 * smallest, 30))
    score = draw(
        npst.arrays(float, number, elements=st.integers(0, 8).map(lambda one: one / 8))
    )
    label = draw(
        st.permutations(
            [True] * smallest
            + [False] * smallest
            + draw(
                st.lists(
                    st.booleans(),
                    min_size=number - 2 * smallest,
                    max_size=number - 2 * smallest,
                )
            )
        )
    )
    return np.array(label), score


# ---- properties ----


@quick
@given(labelled(), st.randoms(use_true_random=False))
def test_areas_equal_scikit_learn_and_ignore_order(data, chance):
    label, score = data
    order = np.array(chance.sample(range(len(label)), len(label)))
    for ours, theirs in (
        (auroc, metrics.roc_auc_score),
        (auprc, metrics.average_precision_score),
    ):
        assert ours(label, score) == pytest.approx(theirs(label, score), abs=1e-12)
        assert ours(label[order], score[order]) == pytest.approx(
            ours(label, score), abs=1e-12
        )


@quick
@given(labelled())
def test_auroc_is_symmetric_and_sees_ranks_only(data):
    label, score = data
    value = auroc(label, score)
    assert 0 <= value <= 1
    assert (
        auroc(~label, score)
        == pytest.approx(1 - value, abs=1e-12)
        == auroc(label, -score)
    )
    assert auroc(label, np.exp(3 * score)) == pytest.approx(value, abs=1e-12)
    assert (
        auroc(label, label.astype(float)) == 1
        and auroc(label, np.zeros(len(label))) == 0.5
    )


@quick
@given(labelled(), st.integers(0, 5))
def test_a_weight_is_a_repetition(data, seed):
    label, score = data
    weights = patient_weights(np.arange(len(label)), 20, seed)
    assert (weights.sum(1) == len(label)).all()
    codes, wide = label.astype(int), np.c_[1 - score, score]
    areas, squares, precision = (
        auroc(label, score, weights),
        brier(codes, wide, weights),
        auprc(label, score, weights),
    )
    matrices = confusion(codes, codes[::-1], 2, weights)
    for number, one in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(len(label)), one)
        assert np.isnan(areas[number]) == (label[again].all() or not label[again].any())
        assert areas[number] == pytest.approx(
            auroc(label[again], score[again]), abs=1e-12, nan_ok=True
        )
        assert precision[number] == pytest.approx(
            auprc(label[again], score[again]), abs=1e-12, nan_ok=True
        )
        assert squares[number] == pytest.approx(
            brier(codes[again], wide[again]), abs=1e-12
        )
        assert (
            matrices[number]
            == metrics.confusion_matrix(codes[again], codes[::-1][again], labels=[0, 1])
        ).all()


@quick
@given(labelled())
def test_delong_intervals_stay_inside_and_hold_the_value(data):
    label, score = data
    for method in AUROC_INTERVALS[:4]:
        found = delong(label, score, method=method)
        assert (
            0 <= found["low"] <= found["auroc"] + 1e-9
            and found["auroc"] - 1e-9 <= found["high"] <= 1
        )
        turned = delong(~label, score, method=method)
        assert turned["low"] == pytest.approx(1 - found["high"], abs=1e-8) and turned[
            "high"
        ] == pytest.approx(1 - found["low"], abs=1e-8)
        if found["auroc"] in (0, 1):
            # no certainty from perfect separation
            assert found["high"] - found["low"] > 0.01


@quick
@given(labelled(), st.integers(0, 3))
def test_paired_test_is_antisymmetric(data, seed):
    label, score = data
    other = generator("other", seed).random(len(label))
    there, back = delong(label, score, other), delong(label, other, score)
    assert there["difference"] == pytest.approx(-back["difference"], abs=1e-12)
    assert there["p"] == pytest.approx(back["p"], abs=1e-9, nan_ok=True)
    assert 0 <= there["p"] <= 1 or (
        there["standard_error"] < 1e-12 and np.isnan(there["low"])
    )
    assert delong(label, score, score)["p"] == 1


@quick
@given(labelled())
def test_threshold_measures_equal_scikit_learn(data):
    label, score = data
    calls = score >= 0.5
    found = from_confusion(confusion(label.astype(int), calls.astype(int), 2))
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(label, calls))
    assert found["specificity"] == pytest.approx(metrics.recall_score(~label, ~calls))
    assert found["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(label, calls)
    )
    assert found["f1"] == pytest.approx(metrics.f1_score(label, calls, zero_division=0))
    if calls.any():
        assert found["precision"] == pytest.approx(
            metrics.precision_score(label, calls)
        )
    else:
        assert np.isnan(found["precision"])


@quick
@given(st.integers(3, 4), st.integers(0, 30))
def test_many_classes_equal_scikit_learn(kinds, seed):
    draw = generator("many", kinds, seed)
    codes = np.r_[np.arange(kinds), np.arange(kinds), draw.integers(0, kinds, 20)]
    scores = draw.dirichlet(np.ones(kinds), len(codes))
    assert auroc_one_vs_one(codes, scores) == pytest.approx(
        metrics.roc_auc_score(codes, scores, multi_class="ovo"), abs=1e-12
    )
    assert auroc_one_vs_rest(codes, scores).mean() == pytest.approx(
        metrics.roc_auc_score(codes, scores, multi_class="ovr"), abs=1e-12
    )


@quick
@given(npst.arrays(bool, (4, 5, 6)), npst.arrays(bool, (4, 5, 6)))
def test_masks_are_symmetric_and_in_range(a, b):
    there, back = mask_measures(a, b, (1, 2, 3)), mask_measures(b, a, (1, 2, 3))
    assert there == pytest.approx(back, nan_ok=True)
    if a.any() and b.any():
        assert 0 <= there["dice"] <= there["volumetric_similarity"] + 1e-12 <= 1 + 1e-9
        assert 0 <= there["hausdorff_95"] <= there["hausdorff"]
        own = mask_measures(a, a, (1, 2, 3))
        assert own == dict(
            dice=1,
            volumetric_similarity=1,
            hausdorff=0,
            hausdorff_95=0,
            assd=0,
            surface_dice=1,
        )


@quick
@given(st.integers(1, 60), st.data())
def test_proportion_intervals_hold_the_share(n, data):
    count = data.draw(st.integers(0, n))
    for method in ("Wilson", "Clopper-Pearson"):
        low, high = proportion_interval(count, n, method)
        assert 0 <= low <= count / n + 1e-12 and count / n - 1e-12 <= high <= 1


# ---- reference results ----


def test_delong_equals_proc():
    data = real_data()
    path = data and data / "reference" / "asah.csv"
    if not path or not path.exists():
        pytest.skip(
            "pROC's table is not here: write R's pROC::aSAH as reference/asah.csv "
            "below the folder GLIOMA_DATA"
        )
    table = pd.read_csv(path)
    poor = table["outcome"] == "Poor"
    paired, single = (
        delong(poor, table["wfns"], table["s100b"], normal=True),
        delong(poor, table["ndka"], method="DeLong"),
    )
    assert paired["z"] == pytest.approx(2.20898359144091, abs=1e-9) and paired[
        "p"
    ] == pytest.approx(0.0271757822291882, abs=1e-9)
    assert [single["low"], single["high"]] == pytest.approx(
        [0.5012450, 0.7226710], abs=1e-7
    )


def test_published_scores_of_vandervoort2022():
    data = real_data()
    path = data and data / "prognosais_supplement" / "test_predictions.csv"
    if not path or not path.exists():
        pytest.skip(
            "the published scores are not here: test_predictions.csv of "
            "github.com/Svdvoort/PrognosAIs_glioma below GLIOMA_DATA"
        )
    table = pd.read_csv(path)
    ids = ["sub-" + "".join(filter(str.isalnum, one)) for one in table["Patient"]]
    parts = []
    for target, truth, names in (
        ("idh", "IDH_mutated", ("IDH_wildtype", "IDH_mutated")),
        ("codel_1p19q", "1p19q_codeleted", ("1p19q_intact", "1p19q_codeleted")),
        ("grade", "Grade", ("grade_2", "grade_3", "grade_4")),
    ):
        scores = table[[f"Prediction_score_{name}" for name in names]].to_numpy()
        words = dict(zip((2, 3, 4) if target == "grade" else (0, 1), TARGETS[target]))
        parts.append(
            predictions_of(
                scores,
                TARGETS[target],
                pd.DataFrame(dict(participant_id=ids)),
                table[truth].map(words),
                study="vandervoort2022",
                model="PrognosAIs",
                cohort="tcga",
                protocol="published",
                subset="test",
                target=target,
                fold=0,
                repeat=0,
                seed=0,
            )
        )
    found = evaluate(concat(parts), iterations=200, auroc_interval="DeLong").set_index(
        ["target", "measure"]
    )
    idh, codel = found.loc["idh"], found.loc["codel_1p19q"]
    assert (
        idh.loc["auroc", ["value", "low", "high"]].astype(float).round(4).tolist()[0]
        == 0.8959
        and idh.loc["auroc", "n"] == 217
    )
    assert [round(idh.loc["auroc", one], 3) for one in ("low", "high")] == [
        0.850,
        0.942,
    ]
    assert round(codel.loc["auroc", "value"], 4) == 0.8519 and [
        round(codel.loc["auroc", one], 3) for one in ("low", "high")
    ] == [0.775, 0.929]
    assert (
        idh.loc["sensitivity", "value"] == 63 / 88
        and idh.loc["specificity", "value"] == 120 / 129
    )
    assert (
        codel.loc["sensitivity", "value"] == 10 / 26
        and codel.loc["specificity", "value"] == 197 / 207
        and codel.loc["auroc", "n"] == 233
    )
    grade = found.loc["grade"]["value"]
    assert (
        round(grade["auroc"], 3) == 0.805 and found.loc[("grade", "auroc"), "n"] == 238
    )
    assert grade[["auroc_2", "auroc_3", "auroc_4"]].round(3).tolist() == [
        0.911,
        0.694,
        0.906,
    ]


def test_akkus2017_table_3_gives_its_table_1():
    found = from_confusion(np.array([[37, 8], [3, 42]]))
    assert (
        found["sensitivity"] == 42 / 45
        and found["specificity"] == 37 / 45
        and found["accuracy"] == 79 / 90
    )


def test_nadeau_bengio_without_shared_training_is_the_t_interval():
    values = [0.8, 0.7, 0.9, 0.85]
    assert corrected_interval(values, 0)[1:] == pytest.approx(
        stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    )
    assert corrected_interval([0.8, np.nan], 0.25) == pytest.approx(
        (0.8, np.nan, np.nan), nan_ok=True
    )


def test_unpaired_against_bootstrap_free_formula():
    first, second = scores_of(some(seed=1)), scores_of(some(20, 25, seed=2))
    a, b = (delong(one.positive, one.scores[:, 1]) for one in (first, second))
    found = delong_unpaired(
        first.positive, first.scores[:, 1], second.positive, second.scores[:, 1]
    )
    assert found["p"] > 2 * stats.norm.sf(abs(found["z"]))  # t: the classes are small
    assert found["z"] == pytest.approx(
        (a["auroc"] - b["auroc"]) / np.hypot(a["standard_error"], b["standard_error"])
    )


# ---- the table of measures ----


def test_evaluate_handles_targets_models_subsets_and_repeats_at_once():
    parts = [
        some(
            seed=number,
            model=model,
            target=target,
            subset=subset,
            repeat=repeat,
            folds=1 if subset == "external" else 3,
        )
        for number, target in enumerate(("idh", "mgmt"))
        for model in "ab"
        for subset in ("test", "external")
        for repeat in (0, 1)
    ]
    table = evaluate(concat(parts), iterations=100)
    assert (
        len(table.groupby(["model", "target", "subset"])) == 8
        and not table.duplicated(["model", "target", "subset", "measure"]).any()
    )
    assert (table["low"] <= table["value"] + 1e-9).all() and (
        table["value"] <= table["high"] + 1e-9
    ).all()
    assert (
        table.loc[(table["measure"] == "auroc") & (table["subset"] == "test"), "folds"]
        == 6
    ).all()
    by_fold = evaluate(
        concat(parts),
        "auroc",
        by=("model", "target", "subset", "repeat", "fold"),
        iterations=50,
    )
    assert (by_fold["n"] <= 42).all() and len(by_fold) == 2 * 2 * (2 * 3 + 2)


def test_same_seed_same_table_whatever_the_order():
    one = some(folds=5)
    mixed = Predictions(one.table.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(
        evaluate(one, seed=3, iterations=100), evaluate(mixed, seed=3, iterations=100)
    )


def test_slices_are_averaged_and_drawn_together():
    ids = np.repeat([f"sub-{one:02d}" for one in range(20)], 4)
    labels = np.repeat(np.arange(20) < 8, 4)
    scores = np.repeat(np.linspace(0.9, 0.1, 20)[generator(1).permutation(20)], 4)
    one = made(labels, scores, ids=ids, slices=list(range(4)) * 20)
    patient, slices = (
        evaluate(one, "auroc", auroc_interval="bootstrap", level=level)
        for level in ("patient", "slice")
    )
    assert row(patient, "auroc")["value"] == pytest.approx(
        row(slices, "auroc")["value"]
    )
    assert row(slices, "auroc")["samples"] == 80 and row(slices, "auroc")["n"] == 20
    assert row(slices, "auroc")[["low", "high"]].tolist() == pytest.approx(
        row(patient, "auroc")[["low", "high"]].tolist()
    )


def test_basic_bootstrap_is_the_percentile_one_turned_around():
    drawn = generator(1).beta(8, 2, 2000)
    low, high, _ = bootstrap_interval(0.8, drawn)
    assert bootstrap_interval(0.8, drawn, "basic")[:2] == pytest.approx(
        (1.6 - high, 1.6 - low)
    )


# ---- too little, or odd, but not wrong ----


@pytest.mark.parametrize(
    "labels, reason",
    [
        ([True] + [False] * 9, "fewer than two patients of a class: 1 mutant"),
        ([True] * 10, "fewer than two patients of a class: 0 wildtype"),
        ([None] * 10, "no patient with a known label"),
        ([True], "fewer than two"),
        ([True, False], "fewer than two"),
    ],
)
def test_too_few_patients_give_a_reason_and_no_number(labels, reason):
    table = evaluate(made(labels, np.linspace(0.1, 0.9, len(labels))), iterations=50)
    assert (
        table[["value", "low", "high"]].isna().all(axis=None)
        and table["reason"].str.startswith(reason).all()
    )
    assert np.isnan(
        delong([bool(one) for one in labels], np.linspace(0, 1, len(labels)))["low"]
    )


def test_underpowered_where_asked():
    one = some(4, 30)
    assert row(evaluate(one, "auroc"), "auroc")["reason"] == ""
    assert (
        row(evaluate(one, "auroc", underpowered=5), "auroc")["reason"]
        == "underpowered: 4 mutant, 5 are asked for"
    )
    assert (
        "underpowered"
        in compare(concat([one, some(4, 30, model="n")]), "m", "n", underpowered=5)[
            "reason"
        ].iloc[0]
    )


def test_unknown_labels_of_one_target_leave_the_others_alone():
    labels = [True, False] * 10
    one = concat(
        [
            made(labels, np.linspace(0, 1, 20)),
            made([None] * 12 + labels[:8], np.linspace(0, 1, 20), target="mgmt"),
        ]
    )
    table = evaluate(one, "auroc", iterations=50).set_index("target")
    assert table.loc["idh", "n"] == 20 and table.loc["mgmt", "n"] == 8


def test_a_class_missing_in_a_fold_is_not_counted():
    labels = np.r_[np.ones(6, bool), np.zeros(24, bool)]
    one = made(labels, np.linspace(0.9, 0.1, 30))
    # all positives in fold 0
    one = Predictions(one.table.assign(fold=np.repeat(np.arange(30) // 10, 2)))
    found = row(evaluate(one, "auroc", iterations=50), "auroc")
    assert (
        found["folds"] == 1 and found["value"] == 1 and np.isnan(found["corrected_low"])
    )


def test_a_class_missing_in_draws_is_counted_in_the_description():
    one = scores_of(some(2, 30))
    drawn = bootstrap_values(one, ["auprc"], 500)["auprc"]
    low, _, how = bootstrap_interval(0.5, drawn)
    assert "lacked a class" in how and np.isfinite(low)
    assert np.isfinite(
        bootstrap_values(one, ["auprc"], 500, stratified=True)["auprc"]
    ).all()


def test_perfect_and_constant_scores():
    labels = np.arange(30) < 10
    perfect = evaluate(
        made(labels, np.where(labels, 0.9, 0.1)), iterations=50
    ).set_index("measure")
    assert (
        perfect.loc["auroc", "value"] == 1
        and perfect.loc["auroc", "low"] < 0.95
        and perfect.loc["auroc", "interval"] == "Newcombe"
    )
    assert (
        np.isnan(perfect.loc["calibration_slope", "value"])
        and "no finite line" in perfect.loc["calibration_slope", "reason"]
    )
    constant = evaluate(made(labels, np.full(30, 0.3)), iterations=50).set_index(
        "measure"
    )
    assert constant.loc["auroc", ["value", "low", "high"]].tolist() == [0.5, 0.5, 0.5]
    assert (
        np.isnan(constant.loc["precision", "value"])
        and constant.loc["precision", "reason"]
        and constant.loc["sensitivity", "value"] == 0
    )
    assert (
        compare(
            concat(
                [
                    made(labels, np.full(30, 0.3)),
                    made(labels, np.full(30, 0.3), model="n"),
                ]
            ),
            "m",
            "n",
        )["p"]
        .notna()
        .all()
    )
    apart = compare(
        concat(
            [
                made(labels, np.full(30, 0.3)),
                made(labels, np.where(labels, 0.9, 0.1), model="n"),
            ]
        ),
        "m",
        "n",
        measures=["auroc"],
    )
    assert (
        apart["p"].isna().all()
        and apart["reason"].str.startswith("the difference has no variance").all()
    )


def test_absent_class_of_three():
    draw = generator("grades")
    table = pd.DataFrame(dict(participant_id=[f"sub-{one}" for one in range(20)]))
    one = predictions_of(
        draw.dirichlet([1, 1, 1], 20),
        TARGETS["grade"],
        table,
        ["2", "3"] * 10,
        study="t",
        model="m",
        cohort="c",
        protocol="p",
        subset="test",
        target="grade",
        fold=0,
        repeat=0,
        seed=0,
    )
    found = evaluate(one, iterations=50)
    assert found["value"].isna().all() and found["reason"].str.contains("0 4").all()


# ---- wrong input ----


@pytest.mark.parametrize("score", [1.2, -0.1, np.nan, np.inf])
def test_scores_that_are_no_probabilities(score):
    with pytest.raises(SchemaError, match="sub-000"):
        made([True, False, True, False], [score, 0.1, 0.2, 0.3])


def test_scores_that_do_not_sum_to_one():
    table = some().table
    with pytest.raises(SchemaError, match="do not sum to 1"):
        Predictions(table.assign(score=table["score"] * 0.9))


def test_classes_named_otherwise():
    table = some().table
    renamed = Predictions(
        table.replace({"class": {"mutant": "mut"}, "label": {"mutant": "mut"}})
    )
    with pytest.raises(SchemaError, match="idh has no class 'mut'"):
        evaluate(renamed)


def test_one_person_twice():
    ids = ["sub-TCGACS4941", "sub-TCGA0CS4942", "sub-TCGACS4943", "sub-1"]
    with pytest.raises(SchemaError, match="two scores"):
        made([True, False] * 2, [0.1, 0.2, 0.3, 0.4], ids=[ids[0], *ids[:3]])
    with pytest.raises(SchemaError, match="are the same person"):
        evaluate(
            made(
                [True, False] * 2,
                [0.1, 0.2, 0.3, 0.4],
                ids=["sub-TCGACS4941", "TCGA-CS-4941", *ids[2:]],
            )
        )


def test_one_patient_with_two_labels():
    one = made(
        [True, False, True, False],
        [0.1, 0.2, 0.3, 0.4],
        ids=["sub-1", "sub-1", "sub-2", "sub-3"],
        slices=[1, 2, 1, 1],
    )
    with pytest.raises(SchemaError, match="sub-1 has two different labels"):
        evaluate(one)


def test_models_are_never_averaged():
    with pytest.raises(ReproError, match="add 'model' to `by`"):
        evaluate(concat([some(), some(model="n")]), by=("target",))


@pytest.mark.parametrize(
    "arguments, word",
    [
        (dict(measures="auc"), "auc"),
        (dict(level="voxel"), "voxel"),
        (dict(auroc_interval="Delong"), "Delong"),
        (dict(bootstrap="bca"), "bca"),
    ],
)
def test_unknown_words_are_named(arguments, word):
    with pytest.raises(ReproError, match=word):
        evaluate(some(), **arguments)


def test_labels_that_are_no_labels():
    with pytest.raises(SchemaError, match="unknown"):
        auroc([1, 0, -1], [0.1, 0.2, 0.3])
    with pytest.raises(SchemaError, match="finite"):
        auroc([1, 0], [0.1, np.nan])


# ---- comparisons ----


def test_compare_matches_people_across_cohorts_and_leaves_out_disagreement():
    ids = [f"TCGA-CS-{4900 + one}" for one in range(30)]
    labels = np.arange(30) % 3 == 0
    ours = made(
        labels,
        np.linspace(0.2, 0.8, 30) + 0.1 * labels,
        ids=[one.replace("TCGA-CS-", "sub-TCGACS") for one in ids],
    )
    theirs = made(
        np.r_[~labels[:1], labels[1:]],
        np.linspace(0.8, 0.2, 30),
        ids=[*ids[:25], *(f"TCGA-DU-{one}" for one in range(5000, 5005))],
        model="n",
        cohort="other",
        study="other",
    )
    table = compare(concat([ours, theirs]), "m", {"study": "other"}, iterations=100)
    assert (table["n"] == 24).all() and table["reason"].str.contains(
        "1 patients left out"
    ).all()
    with pytest.raises(ReproError, match="no predictions of 'x'"):
        compare(ours, "m", "x")


def test_mcnemar_and_binomial_equal_scipy():
    a, b = (
        np.r_[np.ones(9, bool), np.zeros(11, bool)],
        np.r_[np.zeros(8, bool), np.ones(3, bool), np.zeros(9, bool)],
    )
    found, limits = mcnemar(a, b, exact=True), tango_interval(8, 2, 20)
    assert found == pytest.approx(
        dict(
            only_a=8,
            only_b=2,
            difference=0.3,
            low=limits[0],
            high=limits[1],
            p=stats.binomtest(8, 10).pvalue,
        )
    )
    assert binomial_exact(37, 45, 0.5)["p"] == pytest.approx(
        stats.binomtest(37, 45, 0.5).pvalue
    )


def test_permutation_p_is_uniform_under_the_null_and_smallest_under_the_alternative():
    draw = generator("null")
    labels = pd.Series(np.arange(24) < 10, index=[f"sub-{one}" for one in range(24)])
    found = []
    for number in range(90):
        x = pd.Series(draw.normal(size=24), index=labels.index)
        found.append(
            permutation_test(
                lambda y, x=x: auroc(y.to_numpy(bool), x), labels, 19, number
            ).p["statistic"]
        )
    assert (
        min(found) == 1 / 20
        and np.mean(np.array(found) <= 0.05) < 0.14
        and abs(np.mean(found) - 0.525) < 0.1
    )
    sure = permutation_test(
        lambda y: auroc(y.to_numpy(bool), labels.to_numpy(float)), labels, 19
    )
    assert sure.p["statistic"] == sure.smallest_p == 0.05
    failing = permutation_test(lambda y: 0.7 if y is labels else np.nan, labels, 9)
    # what could not be computed counts as done as well
    assert failing.p["statistic"] == 1
    with pytest.raises(ReproError):
        permutation_test(lambda y: 0, labels, 0)


def test_shuffled_rows_keep_targets_together():
    table = pd.DataFrame(
        dict(idh=list("mmwwmw"), codel=list("cciiii")), index=list("abcdef")
    )
    again = shuffled(table, generator(3))
    assert sorted(map(tuple, again.to_numpy())) == sorted(map(tuple, table.to_numpy()))


# ---- measurements ----


def test_measurements_are_summarised_over_patients():
    table = pd.DataFrame(
        dict(
            study="s",
            method="m",
            cohort="c",
            participant_id=["a", "a", "b", "c", "d"],
            quantity="dice",
            value=[0.5, 0.7, 0.8, np.nan, 0.9],
            unit="1",
        )
    )
    found = evaluate_measurements(Measurements(table)).iloc[0]
    assert (
        found["n"] == 3
        and found["missing"] == 1
        and found["mean"] == pytest.approx((0.6 + 0.8 + 0.9) / 3)
    )
    alone = evaluate_measurements(Measurements(table[:2])).iloc[0]
    assert np.isnan(alone["mean"]) and alone["reason"].startswith("fewer than two")
    with pytest.raises(SchemaError, match="voxels"):
        mask_measures(np.ones((2, 2, 2)), np.ones((2, 2, 3)))


def test_unknown_voxel_size_gives_no_millimetres():
    found = mask_measures(np.eye(4)[None], np.eye(4)[None])
    assert found["dice"] == 1 and np.isnan(found["hausdorff"])


# ---- nothing misleading where classes are small, nothing mixed ----


def test_an_interval_and_its_p_come_from_one_method():
    right_b = np.ones(30, bool)
    right_a = np.arange(30) > 0
    labels = np.arange(30) < 12
    parts = [
        made(labels, np.where(right == labels, 0.9, 0.1), model=name)
        for name, right in (("a", right_a), ("b", right_b))
    ]
    table = compare(
        concat(parts), "a", "b", ["target"], ["accuracy", "balanced_accuracy"]
    )
    assert table["test"].is_unique and not table["test"].str.contains("binomial").any()
    draw = generator("contradictions")
    for _ in range(60):
        n = int(draw.integers(8, 60))
        found = mcnemar(draw.random(n) < 0.9, draw.random(n) < draw.uniform(0.4, 1))
        assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)
    assert (
        mcnemar(right_a, right_b)["p"] > 0.4
        and mcnemar(right_a, right_b)["low"] < 0 < mcnemar(right_a, right_b)["high"]
    )


def test_tango_holds_what_it_promises():
    draw, inside = generator("tango"), []
    for _ in range(400):
        b, c, _ = draw.multinomial(30, [0.2, 0.1, 0.7])
        low, high = tango_interval(b, c, 30)
        inside.append(low <= 0.1 <= high)
    assert np.mean(inside) > 0.92


def test_two_models_that_are_equal_rarely_differ_where_a_class_has_two_patients():
    for positives in (2, 3):
        label, scores = binormal_scores(
            positives,
            50,
            0.8,
            generator("alarm", positives),
            models=2,
            correlation=0.5,
            repeats=300,
        )
        assert np.mean([delong(label, *one)["p"] < 0.05 for one in scores]) < 0.09
        assert (
            np.mean([delong(label, *one, normal=True)["p"] < 0.05 for one in scores])
            > 0.06
        )


@pytest.mark.parametrize(
    "positives, spread", [(5, 1.0), (5, 2.0), (10, 2.0), (30, 1.0)]
)
def test_the_default_interval_of_an_auroc_covers(positives, spread):
    label, scores = binormal_scores(
        positives,
        50,
        0.9,
        generator("cover", positives, spread),
        repeats=300,
        spread=spread,
    )
    found = [delong(label, one[0]) for one in scores]
    assert np.mean([one["low"] <= 0.9 <= one["high"] for one in found]) > 0.92


def coverage_benchmark():
    "benchmarks/interval_coverage.py as a module."
    place = Path(__file__).parents[1] / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("positives, common", [(5, 20), (9, 12)])
def test_every_default_interval_at_a_threshold_covers(positives, common):
    found = coverage_benchmark().exact_coverage(positives, common)
    table = pd.DataFrame(
        found, columns=["m", "case", "measure", "hit", "width", "none"]
    )
    assert set(table["measure"]) >= {"f1", "likelihood_ratio_negative", "mcc", "npv"}
    worst = table.groupby("measure")["hit"].agg(["mean", "min"])
    assert (worst["mean"] >= 0.94).all() and (worst["min"] >= 0.92).all(), worst


@pytest.mark.parametrize("positives, value, spread", [(5, 0.6, 2.0), (10, 0.9, 2.0)])
def test_every_default_interval_of_scores_covers(positives, value, spread):
    rows = coverage_benchmark().simulated_coverage(positives, value, spread, 400)
    covered = {row[2]: row[3] for row in rows}
    assert set(covered) > {"auroc", "auprc", "brier", "calibration_slope"}
    assert min(covered.values()) >= 0.92, covered


def test_wilson_is_taken_only_where_it_holds():
    def worst(number):
        shares = np.linspace(0.05, 0.95, 91)
        limits = [proportion_interval(one, number) for one in range(number + 1)]
        low, high = np.array(limits).T
        chance = stats.binom.pmf(np.arange(number + 1), number, shares[:, None])
        inside = (low <= shares[:, None]) & (shares[:, None] <= high)
        return (chance * inside).sum(1).min()

    assert worst(40) >= 0.95 and worst(99) >= 0.95 and worst(100) >= 0.92


def test_sensitivity_where_the_specificity_is_fixed():
    label, scores = binormal_scores(20, 40, 0.85, generator("fixed"), repeats=300)
    shift = np.sqrt(2) * stats.norm.ppf(0.85)
    truth = stats.norm.cdf(shift - stats.norm.ppf(0.8))
    inside, turned = [], []
    for score in scores[:, 0]:
        found = sensitivity_at(label, score, 0.8)
        assert found["low"] <= found["value"] <= found["high"]
        false, true, _ = metrics.roc_curve(label, score, drop_intermediate=False)
        assert found["value"] == pytest.approx(true[false <= 0.2 + 1e-9].max())
        inside.append(found["low"] <= truth <= found["high"])
        other = specificity_at(label, score, 0.8)
        assert (score[label] >= other["threshold"]).mean() >= 0.8
        turned.append(other["low"] <= truth <= other["high"])
    assert np.mean(inside) >= 0.94 and np.mean(turned) >= 0.94
    assert np.isnan(sensitivity_at([1, 1], [0.2, 0.4])["value"])
    with pytest.raises(ReproError, match="between 0 and 1"):
        sensitivity_at([0, 1], [0.2, 0.4], 90)


def test_a_threshold_is_chosen_by_its_rule():
    label, scores = binormal_scores(15, 40, 0.8, generator("rules"))
    score = np.round(scores[0, 0], 2)
    one = Scored(np.arange(55), label.astype(int), np.c_[1 - score, score], ("a", "b"))

    def shares(rule):
        call = score >= choose_threshold(one, rule)
        return call[label].mean(), (~call[~label]).mean()

    false, true, _ = metrics.roc_curve(label, score)
    assert sum(shares("youden")) - 1 == pytest.approx((true - false).max())
    assert shares("sensitivity=0.9")[0] >= 0.9 and shares("specificity = 0.9")[1] >= 0.9
    assert shares("sensitivity=1") == (1, (score[~label] < score[label].min()).mean())
    assert shares("specificity=1")[1] == 1
    for rule in ("best", "sensitivity", "sensitivity=90", "specificity=x", "youden=1"):
        with pytest.raises(ReproError, match="youden"):
            choose_threshold(one, rule)


def test_thresholds_come_from_validation_patients_only():
    own = some(12, 40, seed=1, folds=4, repeat=0)
    held = some(12, 40, seed=2, folds=4, repeat=0, subset="validation")
    chosen = chosen_thresholds(concat([own, held]), "specificity=0.8")
    assert len(chosen) == 4 and chosen["threshold"].nunique() > 1
    other = own.table.assign(label=own.table["label"].iloc[::-1].to_numpy())
    people = other.drop_duplicates("participant_id").set_index("participant_id")
    other["label"] = other["participant_id"].map(people["label"])
    again = chosen_thresholds(concat([Predictions(other), held]), "specificity=0.8")
    pd.testing.assert_frame_equal(chosen, again)  # test labels do not matter
    moved = at_thresholds(own, chosen)
    for row in chosen.itertuples():
        before, after = (scores_of(t.select(fold=row.fold)) for t in (own, moved))
        calls = before.scores[:, 1] >= row.threshold
        assert ((after.scores[:, 1] >= 0.5) == calls).all()
    table = evaluate(moved, ["sensitivity"])
    assert np.isfinite(table["low"]).all() and table["n"].iloc[0] == 52
    with pytest.raises(ReproError, match="validation"):
        chosen_thresholds(own)
    few = some(2, 40, seed=2, folds=4, repeat=0, subset="validation")
    chosen = chosen_thresholds(few)
    assert chosen["threshold"].isna().all() and (chosen["reason"] != "").all()
    with pytest.raises(ReproError, match="no training"):
        at_thresholds(own, chosen)


@pytest.mark.parametrize("level", ["patient", "slice"])
def test_no_interval_has_width_zero_where_everything_is_right(level):
    labels = np.repeat(np.arange(16) < 4, 3)
    ids = np.repeat([f"sub-{one:02d}" for one in range(16)], 3)
    one = made(labels, np.where(labels, 1.0, 0.0), ids=ids, slices=list(range(3)) * 16)
    names = [
        "auroc",
        "auprc",
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "precision",
        "f1",
        "f1_macro",
        "f1_weighted",
        "npv",
        "mcc",
        "kappa",
        "brier",
    ]
    table = evaluate(one, names, level=level, iterations=100).set_index("measure")
    assert (table["high"] - table["low"] > 0.05).all(), table[["low", "high"]]
    assert np.isnan(corrected_interval([1.0, 1, 1, 1], 0.25)[1])


def test_no_interval_leaves_the_range():
    assert corrected_interval([0.6, 1, 1, 0.2], 0.5, bounds=(0, 1))[2] <= 1
    found = corrected_resampled_t([0.9, 0.1, 0.95], 0.5)
    assert -1 <= found["low"] and found["high"] <= 1
    assert np.isnan(corrected_resampled_t([0.1] * 3, 0.25)["p"])
    table = evaluate(some(6, 20, folds=4), iterations=50)
    shares = table[~table["measure"].str.startswith("calibration")]
    assert (
        shares[["low", "high", "corrected_low", "corrected_high"]]
        .stack()
        .between(0, 1)
        .all()
    )


def test_sources_are_never_mixed_without_being_told():
    for column, value in (
        ("protocol", "slices"),
        ("cohort", "d"),
        ("subset", "external"),
        ("study", "other"),
    ):
        both = concat([some(folds=3), some(seed=1, folds=3, **{column: value})])
        with pytest.raises(ReproError, match=column):
            auroc_within_folds(both, by=("model", "target"))
        with pytest.raises(ReproError, match=column):
            one_source(both, by=("model", "target"))
        one_source(both, by=("model", "target", column))
        assert len(auroc_within_folds(both, by=("model", "target", column))) == 2
    cohorts = concat([some(), some(seed=1, cohort="d")])
    with pytest.raises(ReproError, match="cohort"):
        compare(concat([cohorts, some(model="n")]), "m", "n")
    table = pd.DataFrame(
        dict(
            study="s",
            method="m",
            cohort=["c", "d"] * 3,
            participant_id=["a", "b", "c"] * 2,
            quantity="dice",
            value=0.5,
            unit="1",
        )
    )
    with pytest.raises(ReproError, match="cohort"):
        evaluate_measurements(Measurements(table), by=("quantity",))


def test_external_patients_are_compared_within_every_model():
    parts = [
        some(4, 8, seed=7, subset="external", fold=0),
        some(4, 8, seed=8, subset="external", fold=1),
    ]
    labels = scores_of(parts[0]).positive
    parts[1] = made(
        labels,
        scores_of(parts[1]).scores[:, 1],
        subset="external",
        fold=1,
        ids=scores_of(parts[0]).participants,
    )
    own = [auroc_within_folds(one)["auroc_within_folds"].iloc[0] for one in parts]
    both = auroc_within_folds(concat(parts)).iloc[0]
    assert (
        both["auroc_within_folds"] == pytest.approx(np.mean(own)) and both["folds"] == 2
    )


def test_calibration_of_hard_calls_is_not_given():
    labels = np.arange(40) < 15
    calls = np.where(np.arange(40) % 5 == 0, ~labels, labels).astype(float)
    table = evaluate(
        made(labels, calls), ["calibration_slope", "calibration_intercept"]
    )
    assert (
        table["value"].isna().all() and table["reason"].str.contains("hard calls").all()
    )


def test_f1_of_a_draw_without_positives_is_undefined():
    assert np.isnan(from_confusion(np.array([[8.0, 2], [0, 0]]))["f1"])


def test_a_figure_says_how_many_folds_it_rests_on():
    labels = np.r_[np.ones(6, bool), np.zeros(24, bool)]
    one = made(labels, np.linspace(0.9, 0.1, 30))
    one = Predictions(one.table.assign(fold=np.repeat(np.arange(30) // 10, 2)))
    found = row(evaluate(one, "auroc", iterations=50), "auroc")
    assert (found["folds"], found["folds_of"]) == (1, 3) and "1 of 3 folds" in found[
        "fold_note"
    ]


def test_slices_are_compared_by_patient():
    draw = generator("clustered")
    ids = np.repeat([f"sub-{one:02d}" for one in range(24)], 10)
    labels = np.repeat(np.arange(24) < 10, 10)
    alike = np.repeat(draw.normal(size=(2, 24)), 10, axis=1) + 0.8 * labels
    parts = [
        made(
            labels,
            1 / (1 + np.exp(-score)),
            ids=ids,
            slices=list(range(10)) * 24,
            model=model,
        )
        for model, score in zip("ab", alike)
    ]
    both = concat(parts)
    patients, slices = (
        compare(both, "a", "b", measures=["auroc", "accuracy"], level=level).set_index(
            "measure"
        )
        for level in ("patient", "slice")
    )
    width = [
        table.loc["auroc", "high"] - table.loc["auroc", "low"]
        for table in (patients, slices)
    ]
    assert (
        width[1] == pytest.approx(width[0])
        and "clusters" in slices.loc["auroc", "test"]
    )
    assert (
        slices.loc["accuracy", "test"] == "t over patients"
        and slices.loc["accuracy", "n"] == 24
    )


def test_masks_of_one_slice_lesions_and_volumes():
    inner, outer = np.zeros((2, 1, 40, 40), bool)
    inner[0, 15:25, 15:25], outer[0, 5:35, 5:35] = True, True
    assert mask_measures(inner, outer, (9, 1, 1)) == mask_measures(
        inner[0], outer[0], (1, 1)
    )
    assert mask_measures(inner, outer, (9, 1, 1))["hausdorff_95"] > 10
    assert lesion_measures(inner, inner)["sensitivity"] == 1 and np.isnan(
        dice(inner & False, inner & False)
    )
    assert bland_altman([1, 2, 3, 4.5], [1, 2, 3, 4])["value"].iloc[0] == pytest.approx(
        0.125
    )


# ---- uncertainty ----


@quick
@given(st.integers(2, 4), st.integers(0, 20), st.floats(0.2, 5))
def test_reweighing_and_cooling_can_be_undone(kinds, seed, temperature):
    draw = generator("reweigh", kinds, seed)
    scores, first, second = (
        draw.dirichlet(np.ones(kinds) * 3, 10),
        draw.dirichlet(np.ones(kinds) * 3),
        draw.dirichlet(np.ones(kinds) * 3),
    )
    np.testing.assert_allclose(
        reweigh(reweigh(scores, first, second), second, first), scores, atol=1e-9
    )
    np.testing.assert_allclose(
        cool(cool(scores, temperature), 1 / temperature), scores, atol=1e-5
    )


def test_prior_never_comes_from_the_patients_it_is_used_on():
    labels = np.arange(40) % 4 == 0
    one = made(labels, np.full(40, 0.5), folds=5)
    changed = one.table.copy()
    # fold 0 lies about its labels: its own scores stay as they were
    changed.loc[changed["fold"] == 0, "label"] = "mutant"
    first, second = (
        correct_prior(Predictions(table)).table.query("fold == 0")["score"].to_numpy()
        for table in (one.table, changed)
    )
    assert (first == second).all()
    assert correct_prior(one).table.query("`class` == 'mutant'")[
        "score"
    ].mean() == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ReproError, match="must name"):
        correct_prior(one, prior={"mut": 0.5})


def test_temperature_of_a_fold_ignores_its_labels():
    one = some(20, 40, folds=5)
    changed = one.table.copy()
    flip = {"mutant": "wildtype", "wildtype": "mutant"}
    changed.loc[changed["fold"] == 0, "label"] = changed.loc[
        changed["fold"] == 0, "label"
    ].map(flip)
    first, second = (
        scale_temperature(Predictions(table))[1].set_index("fold")["temperature"]
        for table in (one.table, changed)
    )
    assert first[0] == second[0] and first[1] != second[1]
    exact = generator("exact").random(4000)
    drawn = (generator("drawn").random(4000) < exact).astype(int)
    assert fit_temperature(drawn, np.c_[1 - exact, exact]) == pytest.approx(1, abs=0.1)
    with pytest.raises(ReproError, match="two classes"):
        scale_temperature(made([True] * 10, np.linspace(0.1, 0.9, 10), folds=5))


def test_conformal_sets_cover_and_know_their_limits():
    shares = [
        conformal_summary(conformal_sets(some(20, 40, seed=number, folds=5), 0.2))
        .query("`class` == 'all'")["coverage"]
        .item()
        for number in range(8)
    ]
    assert 0.76 < np.mean(shares) < 0.9
    noise = conformal_sets(made(np.arange(40) % 2 == 0, np.full(40, 0.5), folds=5))
    assert (noise["size"] == 2).all()  # knows nothing: both classes
    unknown = conformal_sets(
        made([None, *(np.arange(40) % 2 == 0)], np.linspace(0.1, 0.9, 41), folds=5)
    )
    assert (
        unknown["covered"].isna().sum() == 1
        and conformal_summary(unknown).query("`class` == 'all'")["n"].item() == 40
    )
    with pytest.raises(ReproError, match="alpha"):
        conformal_sets(some(), 1.5)


def test_published_scores_without_folds_are_dealt_out():
    one = some(20, 40)
    assert scale_temperature(one)[1]["temperature"].nunique() > 1
    found = uncertainty(concat([one, some(2, 40, target="mgmt")]))
    assert found["problems"]["target"].tolist() == ["mgmt"] and set(
        found["conformal"]["target"]
    ) == {"idh"}


def test_selective_accuracy_ends_with_everybody():
    points = scores_of(some(20, 40))
    curve = selective_accuracy(points)
    assert (
        curve["answered"].iloc[-1] == 60 and curve["coverage"].is_monotonic_increasing
    )
    assert selective_accuracy(
        Scored(
            np.array(["a", "b"]), np.array([0, 1]), np.full((2, 2), 0.5), ("no", "yes")
        )
    )["answered"].tolist() == [2]


def test_newcombe_and_bootstrap_agree_for_large_classes():
    one = scores_of(some(300, 300))
    value = auroc(one.positive, one.scores[:, 1])
    drawn = bootstrap_values(one, ["auroc"], 1000)["auroc"]
    assert newcombe_interval(value, 300, 300) == pytest.approx(
        bootstrap_interval(value, drawn)[:2], abs=0.01
    )
    assert auroc_interval(value, drawn.var(), 300, 300)[:2] == pytest.approx(
        bootstrap_interval(value, drawn)[:2], abs=0.01
    )
    assert calibration_line(one.positive, one.scores[:, 1])["slope"] == pytest.approx(
        1.5, abs=0.4
    )
