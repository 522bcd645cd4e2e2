"""The model's runtime as our code starts it."""

import os
import subprocess
import sys
from pathlib import Path

MODEL = Path(__file__).parents[2] / "config" / "models" / "weather-severity" / "1.0.0" / "model.onnx"


def test_the_runtime_keeps_no_identity_and_reports_to_nobody(tmp_path: Path) -> None:
    """Its uploader, where it runs, first writes an id of the machine and a queue below the home folder."""
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    code = f"import streams.model.onnx, onnxruntime; onnxruntime.InferenceSession({str(MODEL)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []
