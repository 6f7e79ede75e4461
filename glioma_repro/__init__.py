"""Radiogenomics of glioma: five studies rebuilt on public cohorts."""

import os

__version__ = "0.1.0"

# Keras reads its backend once, at its first import; there is no TensorFlow here.
os.environ.setdefault("KERAS_BACKEND", "torch")
