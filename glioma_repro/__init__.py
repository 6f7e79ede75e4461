"""Radiogenomics of glioma: five studies rebuilt on public cohorts."""

import os
import threading
import time
from multiprocessing import current_process

__version__ = "0.1.0"

# Keras reads its backend once, at its first import; there is no TensorFlow here.
os.environ.setdefault("KERAS_BACKEND", "torch")


def _end_with_parent():
    """A process that we started ends when its parent was killed; joblib's workers would wait five minutes for more work."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if current_process().name.startswith("LokyProcess") or os.environ.get("GLIOMA_PARENT") == str(os.getppid()):
    _end_with_parent()
