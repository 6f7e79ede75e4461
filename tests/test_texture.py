"Texture features and the greedy choice: invariances, bad input, determinism."

import numpy as np
import pandas as pd
import pytest

from glioma_repro.patients.core import ReproError, Samples
from glioma_repro.features.texture import (
    TEXTURE_GROUPS,
    boundary_features,
    chosen_features,
    fit_texture_svm,
    svm_scores,
    texture_features,
)

Y, X = np.indices((48, 48))
DISC = (X - 23) ** 2 + (Y - 25) ** 2 < 15**2


def _samples(number, informative=True, seed=0, masks=True):
    "Slices of two classes; the second is coarser where `informative`."
    from scipy import ndimage

    random, labels = np.random.default_rng(seed), np.arange(number) % 2
    pictures = [
        ndimage.gaussian_filter(
            random.normal(size=(48, 48)), 1.5 if label and informative else 0.7
        )
        * 3
        for label in labels
    ]
    return Samples(
        (np.stack(pictures) * DISC)[:, None].astype(np.float32),
        pd.DataFrame({"participant_id": [f"sub-{one}" for one in range(number)]}),
        pd.DataFrame({"idh": np.where(labels, "mutant", "wildtype")}),
        ("T2w",),
        np.stack([DISC] * number) if masks else None,
    )


def test_position_does_not_matter():
    "A tumour moved in its background has the same features."
    samples = _samples(4)
    moved = Samples(
        np.roll(samples.inputs, (6, -5), (2, 3)),
        samples.table,
        samples.targets,
        samples.names,
        np.roll(samples.masks, (6, -5), (1, 2)),
    )
    np.testing.assert_allclose(
        texture_features(moved).inputs, texture_features(samples).inputs, atol=1e-9
    )


def test_every_group_is_there_and_finite_for_tiny_and_flat_tumours():
    samples = _samples(3)
    tiny = np.zeros_like(samples.masks)
    tiny[:, 20:23, 20:24] = True
    flat = np.zeros_like(samples.inputs)
    for masks, inputs in ((tiny, samples.inputs), (samples.masks, flat)):
        found = texture_features(
            Samples(inputs, samples.table, samples.targets, samples.names, masks)
        )
        assert found.inputs.shape == (3, 40) and np.isfinite(found.inputs).all()
    assert len(TEXTURE_GROUPS) == 6


def test_without_masks():
    with pytest.raises(ReproError, match="needs masks"):
        texture_features(_samples(3, masks=False))


def test_inset_finds_the_contour_inside_a_dilated_mask():
    """Across the true contour the intensity jumps; five pixels away, at the edge of the
    dilated mask, it does not.
    """
    noise = np.random.default_rng(0).normal(0, 0.05, DISC.shape)
    picture = (((X - 23) ** 2 + (Y - 25) ** 2) < 10**2) + noise
    assert (
        boundary_features(picture, DISC, 5)["boundary slope"]
        > 1.5 * boundary_features(picture, DISC, 0)["boundary slope"]
    )
    assert (
        boundary_features(picture, DISC, 5)["boundary sharp share"]
        > 0.9
        > boundary_features(noise, DISC, 5)["boundary sharp share"]
    )


def test_choice_is_deterministic_and_learns_texture():
    train, test = texture_features(_samples(30)), texture_features(_samples(20, seed=1))
    labels, truth = np.arange(30) % 2, np.arange(20) % 2
    fitted = [
        fit_texture_svm(train.inputs, labels, np.arange(30), seed=4) for _ in range(2)
    ]
    assert (
        chosen_features(fitted[0], train.names)
        == chosen_features(fitted[1], train.names)
        and len(chosen_features(fitted[0], train.names)) == 7
    )
    scores = svm_scores(fitted[0], test.inputs)
    assert ((scores[:, 1] > 0.5) == truth).mean() > 0.85 and np.allclose(
        scores.sum(1), 1
    )
    assert ((scores[:, 1] > 0.5) == fitted[0].predict(test.inputs)).all()


def test_a_patient_is_not_split_by_the_inner_folds():
    """The choice sees whole patients: three slices of one patient never stand on both
    sides.
    """
    from glioma_repro.features.texture import _whole_groups

    groups, labels = np.repeat(np.arange(10), 3), np.repeat(np.arange(10) % 2, 3)
    for train, test in _whole_groups(labels, groups, 3, 0):
        assert not set(groups[train]) & set(groups[test])
    with pytest.raises(ReproError, match="one training patient only"):
        _whole_groups(labels * (groups == 1), groups, 3, 0)
    with pytest.raises(ReproError, match="training slices: every patient"):
        _whole_groups(labels * 0, groups, 3, 0)
