"""The model step: features, guards, a backend, and an answer for each row."""

import os

# ONNX Runtime's wheels for Linux and macOS report to their maker (models' names and shapes among others) and keep an id
# on the disk, unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
