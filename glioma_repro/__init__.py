"""Radiogenomics of glioma: five studies rebuilt on public cohorts."""

import os
import sys
import threading
import time

__version__ = "0.1.0"

# Keras reads its backend once, at its first import; there is no TensorFlow here.
os.environ.setdefault("KERAS_BACKEND", "torch")


def end_with(
    parent: int,  # process id of whoever started this process
):
    """Starts a thread that ends this process when its parent is gone, even if that was
    before we looked.

    A process that is killed cannot tell its children; joblib's workers would wait
    five minutes for more work, and Papermill's kernel would run to its end.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# a run's kernel; joblib's workers are given `end_with` as their first call
if "GLIOMA_PARENT" in os.environ and "ipykernel_launcher" in sys.orig_argv:
    end_with(int(os.environ["GLIOMA_PARENT"]))
