"""The classical models: what they may see, what they must refuse, and that they give
the same bytes.
"""

import numpy as np
import pandas as pd
import pytest

from glioma_repro.methods.classical import (
    Model,
    Retraining,
    baseline_models,
    check_splits,
    coefficients,
    cross_validate,
    fit_and_score,
    forest,
    importances,
    logistic,
    majority,
    score_external,
)
from glioma_repro.statistics.measures import auroc_within_folds, within_folds
from glioma_repro.patients.cohort import Split, patient_splits, site_splits
from glioma_repro.patients.core import TARGETS, Cohort, ReproError, Samples, concat


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


def models_of(samples):
    return [
        Model("majority", (), majority()),
        Model("line", samples.names, logistic(len(samples.names))),
        Model("trees", samples.names, forest(20)),
    ]


FIELDS = dict(study="test", cohort="toy", protocol="patients")


def test_same_seed_same_bytes_on_any_number_of_processes(tmp_path):
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh", "grade"], 4, 2, seed=3)
    written = [
        cross_validate(samples, splits, "idh", models_of(samples), 3, jobs, **FIELDS)
        .write(tmp_path / f"{jobs}.csv")
        .read_bytes()
        for jobs in (1, 2)
    ]
    assert written[0] == written[1]
    other = cross_validate(
        samples, splits, "idh", models_of(samples)[2:], 4, 1, **FIELDS
    ).table["score"]
    same = cross_validate(
        samples, splits, "idh", models_of(samples)[2:], 3, 1, **FIELDS
    ).table["score"]
    assert (other != same).any()


def test_order_of_the_table_does_not_matter():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    line = models_of(samples)[1:2]
    first = cross_validate(
        samples, splits, "idh", line, 0, 1, **FIELDS
    ).table.set_index(["participant_id", "class"])["score"]
    turned = cross_validate(
        samples.take(np.arange(len(samples))[::-1]), splits, "idh", line, 0, 1, **FIELDS
    ).table.set_index(["participant_id", "class"])["score"]
    np.testing.assert_allclose(first.sort_index(), turned.sort_index(), atol=1e-6)


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


def test_unknown_labels_neither_train_nor_are_scored():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    hidden = samples.targets.copy()
    hidden.loc[[0, 7], "idh"] = pd.NA
    less = Samples(samples.inputs, samples.table, hidden, samples.names)
    table = cross_validate(
        less, splits, "idh", models_of(less)[:2], 0, 1, **FIELDS
    ).table
    assert (
        not {"sub-000", "sub-007"} & set(table["participant_id"])
        and table["participant_id"].nunique() == 58
    )


def test_a_feature_that_is_unknown_for_everybody():
    cohort, samples = make()
    samples.inputs[:, 3] = np.nan
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    table = cross_validate(
        samples, splits, "idh", models_of(samples), 0, 1, **FIELDS
    ).table
    assert table["score"].notna().all()


def test_three_classes():
    cohort, samples = make(60)
    samples.inputs[:, 1] += samples.targets["grade"].astype(int) * 1.5
    splits = patient_splits(cohort, ["grade"], 4, seed=0)
    predictions = cross_validate(
        samples, splits, "grade", models_of(samples), 0, 1, **FIELDS
    )
    assert predictions.table["class"].nunique() == 3
    found = auroc_within_folds(predictions, 200).set_index("model")
    assert (
        found.loc["line", "low"] > 0.6
        and found.loc["majority", "auroc_within_folds"] == 0.5
    )
    with pytest.raises(ReproError, match="3 classes"):
        coefficients(samples, splits, "grade", models_of(samples)[1])


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["mutant"] * 3 + ["wildtype"] * 57,
            "only 3 patients are mutant, fewer than the 4 folds",
        ),
        (["mutant"] * 60, "all 60 known patients are mutant"),
        ([None] * 60, "no patient has a known label"),
    ],
)
def test_a_target_that_cannot_be_tried_says_so_and_others_go_on(words, message):
    cohort, samples = make()
    splits = patient_splits(cohort, ["grade"], 4, seed=0)
    targets = samples.targets.assign(idh=pd.array(words, dtype="string"))
    samples = Samples(samples.inputs, samples.table, targets, samples.names)
    with pytest.raises(ReproError, match=message):
        cross_validate(samples, splits, "idh", models_of(samples), 0, 1)
    assert len(cross_validate(samples, splits, "grade", models_of(samples)[:1], 0, 1))


def test_a_patient_on_both_sides_is_refused():
    _, samples = make()
    labels = samples.targets["idh"].set_axis(samples.table["participant_id"])
    ids = tuple(samples.table["participant_id"])
    with pytest.raises(ReproError, match="in training and in test"):
        check_splits(
            [Split(0, 0, "test", ids, ids[:5]), Split(0, 1, "test", ids[5:], ids[:5])],
            labels,
            "idh",
        )


def test_leave_site_out():
    cohort, samples = make()
    table = cross_validate(
        samples, site_splits(cohort), "idh", models_of(samples)[:2], 0, 1, **FIELDS
    ).table
    assert table["fold"].nunique() == 3 and table["participant_id"].nunique() == 60


def test_external_patients():
    _, samples = make()
    _, other = make(20, seed=5)
    predictions = score_external(
        samples,
        other,
        "idh",
        models_of(samples),
        0,
        1,
        study="test",
        cohort="other",
        protocol="patients",
    )
    assert (
        set(predictions.table["subset"]) == {"external"}
        and predictions.table["participant_id"].nunique() == 20
    )
    assert (
        auroc_within_folds(predictions, 200)
        .set_index("model")
        .loc["line", "auroc_within_folds"]
        > 0.75
    )
    different = Samples(
        other.inputs[:, :7], other.table, other.targets, other.names[:7]
    )
    with pytest.raises(ReproError, match="f7"):
        score_external(samples, different, "idh", models_of(samples), 0, 1)


def test_a_class_that_only_external_patients_have():
    _, samples = make()
    _, other = make(20, seed=5)
    low = samples.targets.assign(
        grade=samples.targets["grade"].where(samples.targets["grade"] != "4")
    )
    predictions = score_external(
        Samples(samples.inputs, samples.table, low, samples.names),
        other,
        "grade",
        models_of(samples)[1:2],
        0,
        1,
        study="test",
        cohort="other",
        protocol="patients",
    )
    assert (
        predictions.table.loc[predictions.table["class"] == "4", "score"] == 0
    ).all()


def test_unknown_feature_and_two_models_of_one_name():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    with pytest.raises(ReproError, match="f99"):
        cross_validate(
            samples, splits, "idh", [Model("line", ("f99",), logistic(1))], 0, 1
        )
    with pytest.raises(ReproError, match="same name"):
        cross_validate(samples, splits, "idh", models_of(samples)[:1] * 2, 0, 1)


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


def test_retraining_is_cross_validation():
    cohort, samples = make(features=60)
    splits = patient_splits(cohort, ["idh"], 4, 2, seed=1)
    for model in models_of(samples):
        retrain = Retraining(samples, splits, "idh", model, 1)
        direct = auroc_within_folds(
            cross_validate(samples, splits, "idh", [model], 1, 1, **FIELDS), 2
        )["auroc_within_folds"].iloc[0]
        assert retrain(retrain.labels) == pytest.approx(direct, abs=2e-3)
    doubled = samples.take(np.r_[0, np.arange(len(samples))])
    with pytest.raises(ReproError, match="one row a patient"):
        Retraining(doubled, splits, "idh", models_of(samples)[1])


def test_permutation_p():
    from glioma_repro.statistics.comparison import permutation_test

    cohort, samples = make(seed=2)
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    for names, told in [(samples.names[:1], True), (samples.names[1:], False)]:
        retrain = Retraining(
            samples, splits, "idh", Model("line", names, logistic(len(names))), 0
        )
        p = permutation_test(retrain, retrain.labels, 19, 0).p.iloc[0]
        assert (p == 0.05) if told else (p > 0.05)


def test_importances_find_the_feature():
    cohort, samples = make()
    splits = patient_splits(cohort, ["idh"], 4, seed=0)
    found = importances(
        samples,
        splits,
        "idh",
        models_of(samples)[1],
        {"rest": samples.names[1:], "first": samples.names[:1]},
        5,
        0,
    )
    assert found["group"].tolist() == ["first", "rest"] and found["drop"].iloc[0] > 0.1
    assert (
        coefficients(samples, splits, "idh", models_of(samples)[1])["feature"].iloc[0]
        == "f0"
    )
    with pytest.raises(ReproError, match="no coefficients"):
        coefficients(samples, splits, "idh", models_of(samples)[2])


def test_site_is_not_among_all_features():
    groups = {
        "age": ["age"],
        "site": ["site_A", "site_B"],
        "volume": ["v"],
        "shape": ["s"] * 1,
        "location": ["l"],
        "first-order raw": [f"r{n}" for n in range(9)],
        "first-order z": [f"z{n}" for n in range(9)],
    }
    models = {model.name: model for model in baseline_models(groups, trees=10)}
    assert not [
        name for name in models["all together"].features if name.startswith("site")
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
    } <= set(models)
    assert "age" not in {model.name for model in baseline_models({"volume": ["v"]})}


def test_targets_can_be_joined():
    cohort, samples = make(60)
    splits = patient_splits(cohort, ["idh", "grade"], 4, seed=0)
    joined = concat(
        cross_validate(samples, splits, one, models_of(samples)[:2], 0, 1, **FIELDS)
        for one in ("idh", "grade")
    )
    assert set(auroc_within_folds(joined, 2)["target"]) == {"idh", "grade"}
