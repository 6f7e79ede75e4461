"""The classical models: what they may see, what they must refuse, and that they give
the same bytes.
"""

import numpy as np
import pandas as pd
import pytest

from glioma_repro.statistics.measures import auroc_within_folds
from glioma_repro.methods.classical import within_folds
from glioma_repro.patients.cohort import Split, patient_splits, site_splits
from glioma_repro.patients.core import TARGETS, Cohort, LeakError, ReproError, Samples
from glioma_repro.methods.classical import (
    Features,
    Retraining,
    baseline_methods,
    coefficients,
    fit_and_score,
    importances,
    known_splits,
    logistic,
)
from glioma_repro.methods.method import Majority, run_folds


class Columns(Features):
    "Every feature, or the named ones, in one group."

    def features(self, names):
        return {
            name: "all"
            for name in names
            if self.groups == ("all",) or name in self.groups
        }


def make(number=60, features=8, shift=3.0, seed=0):
    "A cohort and its samples; feature f0 follows IDH, the rest is noise."
    random = np.random.default_rng(seed)
    idh = np.where(np.arange(number) % 3 > 0, "mutant", "wildtype")
    grade = random.permutation(np.resize(["2", "3", "4"], number))
    inputs = random.normal(size=(number, features))
    inputs[:, 0] += shift * (idh == "mutant")
    ids = [f"sub-{n:03d}" for n in range(number)]
    cohort = Cohort(
        "toy",
        pd.DataFrame(
            dict(
                participant_id=ids,
                idh=idh,
                who_grade=grade.astype(int),
                site=random.choice(["A", "B", "C"], number),
            )
        ),
    )
    targets = pd.DataFrame(
        {"idh": pd.array(idh, dtype="string"), "grade": pd.array(grade, dtype="string")}
    )
    return cohort, Samples(
        inputs,
        pd.DataFrame({"participant_id": ids}),
        targets,
        tuple(f"f{n}" for n in range(features)),
    )


LINE, TREES = (
    Columns("line", groups=("all",)),
    Columns("trees", groups=("all",), learner="forest", trees=20),
)
METHODS = [Majority(), LINE, TREES]


def loop(cohort, samples, splits, targets, methods, **settings):
    "The one loop on these samples."
    given = dict(
        samples={one.name: samples for one in methods},
        jobs=1,
        description="",
        study="test",
    )
    return run_folds(methods, cohort, splits, targets, **given | settings)


def test_same_seed_same_bytes_on_any_number_of_processes(tmp_path):
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh", "grade"], 4, seed=3)
    written = [
        loop(cohort, samples, splits, ["idh"], METHODS, seed=3, jobs=jobs)
        .predictions.write(tmp_path / f"{jobs}.csv")
        .read_bytes()
        for jobs in (1, 2)
    ]
    assert written[0] == written[1]
    other, same = (
        loop(
            cohort, samples, splits[:1], ["idh"], [TREES], seed=seed
        ).predictions.table["score"]
        for seed in (4, 3)
    )
    assert (other != same).any()


def test_order_of_the_table_does_not_matter():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)[:2]
    turned = samples.take(np.arange(len(samples))[::-1])
    first, second = (
        loop(cohort, one, splits, ["idh"], [LINE]).predictions.table.set_index(
            ["participant_id", "class"]
        )["score"]
        for one in (samples, turned)
    )
    np.testing.assert_allclose(first.sort_index(), second.sort_index(), atol=1e-6)


def test_scaling_and_imputation_see_training_patients_only():
    _, samples = make()
    train, test = np.arange(50), np.arange(50, 60)
    words = samples.targets["idh"].to_numpy(object)
    samples.inputs[5, 1] = np.nan
    estimator = logistic(8)
    alone = np.vstack(
        [
            fit_and_score(
                estimator,
                samples.inputs[train],
                words[train],
                samples.inputs[[one]],
                TARGETS["idh"],
            )
            for one in test
        ]
    )
    wild = samples.inputs.copy()
    wild[55:] *= 1e4
    together = fit_and_score(
        estimator, wild[train], words[train], wild[test], TARGETS["idh"]
    )
    # five patients score the same whatever the other five look like
    np.testing.assert_allclose(alone[:5], together[:5], rtol=1e-12)


def test_unknown_labels_do_not_train():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    hidden, wild = samples.targets.copy(), samples.inputs.copy()
    hidden.loc[[0, 7], "idh"] = pd.NA
    wild[[0, 7]] = 1e4
    one, two = (
        loop(
            cohort,
            Samples(inputs, samples.table, hidden, samples.names),
            splits,
            ["idh"],
            [LINE],
        ).predictions.table
        for inputs in (samples.inputs, wild)
    )
    differs = one.loc[
        one["score"].to_numpy() != two["score"].to_numpy(), "participant_id"
    ]
    assert set(differs) <= {"sub-000", "sub-007"} and one["label"].isna().sum() == 4


def test_a_feature_that_is_unknown_for_everybody():
    cohort, samples = make()
    samples.inputs[:, 3] = np.nan
    splits = patient_splits(cohort, ["idh"], 4, seed=0)[:1]
    assert (
        loop(cohort, samples, splits, ["idh"], METHODS)
        .predictions.table["score"]
        .notna()
        .all()
    )


def test_three_classes():
    cohort, samples = make(200)
    samples.inputs[:, 1] += samples.targets["grade"].astype(int) * 1.5
    splits = patient_splits(cohort, ["grade"], 4, seed=0)
    predictions = loop(cohort, samples, splits, ["grade"], METHODS).predictions
    assert predictions.table["class"].nunique() == 3
    found = auroc_within_folds(predictions, 200).set_index("model")
    assert (
        found.loc["line", "low"] > 0.6
        and found.loc["majority", "auroc_within_folds"] == 0.5
    )
    with pytest.raises(ReproError, match="3 classes"):
        coefficients(samples, splits, "grade", LINE)


@pytest.mark.parametrize(
    "words, message",
    [
        (["mutant"] + ["wildtype"] * 59, "no training patient of this fold is mutant"),
        (["mutant"] * 60, "every patient with a known label is mutant"),
        ([None] * 60, "no patient has a known label"),
    ],
)
def test_a_target_that_cannot_be_tried_says_so_and_others_go_on(words, message):
    cohort, samples = make()
    splits = patient_splits(cohort, ["grade"], 4, seed=0)
    samples = Samples(
        samples.inputs,
        samples.table,
        samples.targets.assign(idh=pd.array(words, dtype="string")),
        samples.names,
    )
    found = loop(cohort, samples, splits, ["idh", "grade"], [Majority()])
    assert found.problems["problem"].str.contains(message).any() and set(
        found.problems["target"]
    ) == {"idh"}
    assert (
        found.predictions.table.query("target == 'grade'")["participant_id"].nunique()
        == 60
    )
    with pytest.raises(ReproError, match=message):
        known_splits(samples, splits, "idh")


def test_a_patient_on_both_sides_is_refused():
    cohort, samples = make()
    ids = tuple(samples.table["participant_id"])
    with pytest.raises(LeakError, match="both sides"):
        loop(cohort, samples, [Split(0, 0, "test", ids, ids[:5])], ["idh"], METHODS)


def test_leave_site_out():
    cohort, samples = make()
    table = loop(
        cohort, samples, site_splits(cohort), ["idh"], METHODS[:2]
    ).predictions.table
    assert table["fold"].nunique() == 3 and table["participant_id"].nunique() == 60


def test_external_patients():
    cohort, samples = make()
    other, outside = make(20, seed=5)
    other = Cohort(
        "other",
        other.participants.assign(
            participant_id="sub-x" + other.participants["participant_id"].str[4:]
        ),
    )
    outside.table["participant_id"] = "sub-x" + outside.table["participant_id"].str[4:]
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    given = dict(external=other, outside={one.name: outside for one in METHODS})
    predictions = loop(
        cohort, samples, splits, ["idh"], METHODS, **given
    ).predictions.select(subset="external")
    assert (
        set(predictions.table["cohort"]) == {"other"}
        and predictions.table["participant_id"].nunique() == 20
    )
    assert (
        auroc_within_folds(predictions, 200)
        .set_index("model")
        .loc["line", "auroc_within_folds"]
        > 0.75
    )
    low = samples.targets.assign(
        grade=samples.targets["grade"].where(samples.targets["grade"] != "4")
    )
    # a class that only external patients have
    less = Samples(samples.inputs, samples.table, low, samples.names)
    table = (
        loop(
            cohort,
            less,
            splits,
            ["grade"],
            [LINE],
            external=other,
            outside={"line": outside},
        )
        .predictions.select(subset="external")
        .table
    )
    assert (table.loc[table["class"] == "4", "score"] == 0).all()


def test_features_that_differ_are_refused():
    cohort, samples = make()
    _, other = make(20, seed=5)
    model = LINE.fit(samples)
    with pytest.raises(ReproError, match="f7"):
        model.predict(
            Samples(other.inputs[:, :7], other.table, other.targets, other.names[:7])
        )
    with pytest.raises(ReproError, match="no feature of"):
        Features("nothing", groups=("volume",)).fit(samples)
    with pytest.raises(ReproError, match="tuple of groups"):
        Features("volume", "volume")


def test_pooled_scores_of_nothing_lie_below_one_half_and_scores_within_folds_do_not():
    """A model that only knows the share of mutants in training: pooled it looks worse
    than chance.
    """
    pooled, within = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        label = np.where(np.arange(30) < 8, "mutant", "wildtype").astype(object)
        fold = random.permutation(np.arange(30) % 5)
        score = np.zeros((1, 30, 2))
        for one in range(5):
            score[0, fold == one, 1] = (label[fold != one] == "mutant").mean()
        score[..., 0] = 1 - score[..., 1]
        pooled.append(within_folds(np.zeros((1, 30)), label, score, TARGETS["idh"])[0])
        within.append(within_folds(fold[None], label, score, TARGETS["idh"])[0])
    assert np.mean(pooled) < 0.42 and np.unique(within).tolist() == [0.5]


def test_weights_repeat_patients():
    "Counting a patient twice is the same as having the patient twice."
    random = np.random.default_rng(0)
    label, fold, score = (
        np.resize(["mutant", "wildtype"], 12).astype(object),
        np.arange(12)[None] % 3,
        random.random((1, 12, 2)),
    )
    twice = np.r_[np.arange(12), 4, 4, 7]
    weights = np.bincount(twice, minlength=12)[None].astype(float)
    assert within_folds(fold, label, score, TARGETS["idh"], weights)[
        0
    ] == pytest.approx(
        within_folds(fold[:, twice], label[twice], score[:, twice], TARGETS["idh"])[0]
    )


def test_retraining_is_the_loop():
    cohort, samples = make(features=60)
    splits = patient_splits(cohort, ["idh"], 4, seed=1)
    for method in (LINE, TREES):
        retrain = Retraining(samples, splits, "idh", method, 1)
        direct = auroc_within_folds(
            loop(cohort, samples, splits, ["idh"], [method], seed=1).predictions, 2
        )["auroc_within_folds"].iloc[0]
        assert retrain(retrain.labels) == pytest.approx(direct, abs=2e-3)
    doubled = samples.take(np.r_[0, np.arange(len(samples))])
    with pytest.raises(ReproError, match="one row a patient"):
        Retraining(doubled, splits, "idh", LINE)


def test_permutation_p():
    from glioma_repro.statistics.comparison import permutation_test

    cohort, samples = make(seed=2)
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    for names, told in [(samples.names[:1], True), (samples.names[1:], False)]:
        retrain = Retraining(samples, splits, "idh", Columns("line", groups=names), 0)
        p = permutation_test(retrain, retrain.labels, 19, 0).p.iloc[0]
        assert (p == 0.05) if told else (p > 0.05)


def test_importances_find_the_feature():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    found = importances(
        samples,
        splits,
        "idh",
        LINE,
        {"rest": samples.names[1:], "first": samples.names[:1]},
        5,
        0,
    )
    assert found["group"].tolist() == ["first", "rest"] and found["drop"].iloc[0] > 0.1
    assert coefficients(samples, splits, "idh", LINE)["feature"].iloc[0] == "f0"
    with pytest.raises(ReproError, match="no coefficients"):
        coefficients(samples, splits, "idh", TREES)


def test_site_is_not_among_all_features():
    names = [
        "age",
        "site_A",
        "site_B",
        "size_volume_share",
        "shape_Sphericity",
        "location_x",
    ]
    names += [
        f"FLAIR_{kind}_{name}"
        for kind in ("raw", "z")
        for name in ("Mean", "Median", "Variance", "Skewness", "Kurtosis", "Entropy")
    ]
    methods = {method.name: method for method in baseline_methods(names, trees=10)}
    assert not [
        name
        for name in methods["all together"].features(names)
        if name.startswith("site")
    ]
    assert {
        "majority",
        "age",
        "site",
        "volume",
        "shape and location",
        "first-order raw",
        "first-order z, forest",
        "all together, forest",
    } <= set(methods)
    assert [*methods["site"].features(names)] == ["site_A", "site_B"] and methods[
        "volume"
    ].groups == ("volume",)
    assert "age" not in {
        method.name for method in baseline_methods(["size_volume_share"])
    }
