"""vandervoort2022: the network on several processes, the method among the others, and
the study as a user runs it.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from glioma_repro.methods.catalogue import METHODS
from glioma_repro.methods.multi_task_cnn import (
    UNKNOWN,
    JointLoss,
    MultiTaskCNN,
    train_network,
)
from glioma_repro.networks.multi_task_network import MultiTaskNetwork
from glioma_repro.networks.training import Training, share_of, shared
from glioma_repro.patients.core import ReproError, Samples, read_predictions
from glioma_repro.runs.execution import run

HEADS = {"idh": 2, "grade": 3}


def a_batch():
    """Four patients: labels and masks known here and there, unevenly over two
    processes.
    """
    chance = torch.Generator().manual_seed(1)
    masks = (torch.rand(4, 12, 13, 14, generator=chance) < 0.2).to(torch.uint8)
    masks[3] = UNKNOWN
    return dict(
        inputs=torch.randn(4, 4, 12, 13, 14, generator=chance),
        codes=torch.tensor([[0, 2], [1, 1], [1, 0], [0, 1]]),
        weights=torch.tensor([[1.5, 0.0], [0.5, 2.0], [0.0, 0.0], [1.0, 0.7]]),
        masks=masks,
    )


def gradients(rank, place, world):
    """Gradients of one step, written by the first process."""
    if world > 1:
        meeting = (Path(place) / "meeting").as_uri()
        torch.distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=world
        )
    network = MultiTaskNetwork(HEADS, width=2, levels=3, dropout=0.0, seed=2).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()  # frozen
    batch = a_batch()
    _, rows = share_of(np.arange(4))
    mine = {name: value[torch.from_numpy(rows)] for name, value in batch.items()}
    loss = JointLoss(("idh", "grade"), over="known")
    joined = shared(network)  # kept: what averages the gradients lives as long as it
    loss(joined(mine["inputs"]), mine).backward()
    if rank == 0:
        torch.save([one.grad for one in network.parameters()], f"{place}/{world}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    gradients(0, tmp_path, 1)
    torch.multiprocessing.spawn(gradients, (tmp_path, 2), nprocs=2)
    alone, together = (
        torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2)
    )
    assert len(alone) == len(together)
    for one, two in zip(alone, together):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert any(one.abs().max() > 0.01 for one in alone)


def test_a_training_on_two_processes_gives_one_network():
    batch = a_batch()
    people = Samples(
        batch["inputs"].numpy(),
        pd.DataFrame({"participant_id": list("abcd")}),
        pd.DataFrame({"idh": ["mutant", "wildtype", None, "mutant"]}, dtype="string"),
        ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"),
        batch["masks"].numpy(),
    )
    network = MultiTaskNetwork({"idh": 2}, width=1, levels=3)
    before = network.mask.weight.detach().clone()
    trained = train_network(
        network,
        people,
        {"idh": ("wildtype", "mutant")},
        Training(epochs=2, batch=4, learning_rate=1e-2, schedule="constant"),
        processes=2,
    )
    assert trained.history["epoch"].tolist() == [1, 2] and trained.stopped
    assert np.isfinite(trained.history["loss"]).all()
    assert not torch.equal(before, trained.lowered.mask.weight)
    assert trained.priors["idh"][1] == (1 / 3, 2 / 3)


def test_it_answers_to_the_papers_name():
    assert METHODS["vandervoort2022"] == MultiTaskCNN("vandervoort2022")


SMALL = dict(folds=2, epochs=1, width=1, levels=3, jobs=1, targets="idh")
COHORT = "phantom:patients=14,voxel_size=6"


def as_table(results, key):
    """A table of results.json."""
    one = results["tables"][key]
    return pd.DataFrame(one["rows"], columns=one["columns"])


def test_the_study_with_all_its_parts(tmp_path):
    folder = run(
        "vandervoort2022",
        COHORT,
        tmp_path,
        **SMALL,
        part="core,missing labels,learning curve,sequences",
    )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["phantom"] and (folder / "report.html").exists()
    gain = as_table(results, "joint_gain")
    assert gain["hidden"].tolist() == [0.0, 0.3, 0.6, 0.9] and gain["n"].eq(14).all()
    np.testing.assert_allclose(
        gain["difference"].astype(float),
        gain["joint"].astype(float) - gain["single"].astype(float),
    )
    curve = as_table(results, "learning_curve")
    assert len(curve) == 3 and curve["dice"].notna().all()
    assert len(as_table(results, "sequences")) == 4
    # every item of the checklist has its line
    items = as_table(results, "stated_assumed")["item"].astype(int).tolist()
    assert items == list(range(54, 93))
    assert {"ten_masks", "volumes", "segmentation", "roc", "saliency"} <= set(
        results["figures"]
    )
    masks = as_table(results, "segmentation").set_index("quantity")
    assert masks.at["dice", "n"] == 14 and masks.at["dice", "published"] == 0.84
    table = read_predictions(folder / "predictions.csv").select(model="multi-task CNN")
    assert table.table["participant_id"].nunique() == 14
    headline = {one["target"]: one for one in results["headline"]}
    assert headline["idh"]["published"] == 0.9 and headline["idh"]["n"] == 14
    assert (folder / "model").is_dir()
    assert "-p permutations 19" in results["statements"]["null"]


def test_unknown_parts_are_refused(tmp_path):
    with pytest.raises(ReproError, match="known are core"):
        run("vandervoort2022", COHORT, tmp_path, **SMALL, part="everything")
