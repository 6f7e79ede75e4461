"""Radiogenomics of glioma: five studies rebuilt on public cohorts."""

import os
import threading
import time
from multiprocessing import current_process

__version__ = "0.1.0"

# Keras reads its backend once, at its first import; there is no TensorFlow here.
os.environ.setdefault("KERAS_BACKEND", "torch")


def _end_with_parent():
    """Starts a thread that ends this process when its parent is gone.

    A process that is killed cannot tell its children; joblib's workers would wait
    five minutes for more work, and Papermill's kernel would run to its end.
    """
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# joblib's workers, and a run's kernel; both import this package before they work
_WORKER = current_process().name.startswith("LokyProcess")
if _WORKER or os.environ.get("GLIOMA_PARENT") == str(os.getppid()):
    _end_with_parent()
