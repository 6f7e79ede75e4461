"""Runs lessons as `nbdev_test` does, some at a time, each in a process of its own that
begins with the slow imports done (they cost more than most lessons).

    python tests/lessons.py [nbs/images/brain.ipynb ...]

Studies are not lessons: tests/ runs them as a user does, on a phantom small enough.
"""

import multiprocessing
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# nbdev's own workers share a process, and wait at their end for what a lesson started
PROCESSES = multiprocessing.get_context("forkserver")
SLOW = ["glioma_repro.methods.catalogue", "glioma_repro.runs.study", "nbdev.test"]


def run_cells(path):
    """One lesson, in this process; nbdev's error goes to the terminal."""
    from joblib.externals.loky import get_reusable_executor
    from nbdev.config import get_config
    from nbdev.test import test_nb

    flags = get_config().tst_flags.split()
    passed, _ = test_nb(path, skip_flags=flags, basepath=ROOT)
    # a forked process waits at its end for joblib's idle workers: five minutes
    pool = get_reusable_executor(reuse=True)
    # joblib's own, which also removes its folder
    getattr(pool, "terminate", pool.shutdown)(kill_workers=True)
    sys.exit(0 if passed else 1)


def run_lesson(path):
    """One lesson in a process of its own; whether it passed."""
    begun = time.time()
    process = PROCESSES.Process(target=run_cells, args=(path,))
    process.start()
    process.join()
    word = "" if process.exitcode == 0 else ": FAILED"
    seconds = time.time() - begun
    print(f"   {path.relative_to(ROOT)} ({seconds:.0f} s){word}", flush=True)
    return process.exitcode == 0


def lessons():
    """All notebooks but the studies and what an editor keeps beside them."""
    paths = sorted((ROOT / "nbs").rglob("*.ipynb"))
    places = [path.relative_to(ROOT / "nbs").parts for path in paths]
    return [
        path
        for path, parts in zip(paths, places)
        if parts[0] != "studies" and not any(part.startswith(".") for part in parts)
    ]


def main():
    from glioma_repro.patients.core import cores

    asked = [Path(one).resolve() for one in sys.argv[1:]] or lessons()
    PROCESSES.set_forkserver_preload(SLOW)
    with ThreadPool(cores()) as pool:
        passed = list(pool.imap_unordered(run_lesson, asked))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
