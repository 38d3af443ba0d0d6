"""The metrics and their tests need NumPy alone: they run where JAX is not installed."""

import pathlib
import subprocess
import sys

METRICS = pathlib.Path(__file__).parent
ROOT = METRICS.parent.parent
BLOCKED = ("jax", "jaxlib", "flax", "optax", "orbax", "clu")
PROGRAM = f"""
import sys
sys.modules |= dict.fromkeys({BLOCKED!r})  # an import of one of them raises ModuleNotFoundError
"""


def test_metrics_import_without_jax() -> None:
    modules = sorted(path.stem for path in (ROOT / "bt_jax" / "metrics").glob("*.py") if path.stem != "__init__")
    assert "classification" in modules
    program = PROGRAM + "\n".join(f"import bt_jax.metrics.{module}" for module in modules)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tests_of_the_metrics_load_without_jax() -> None:
    program = PROGRAM + f"import pytest; sys.exit(pytest.main(['-q', '--collect-only', '-n0', {str(METRICS)!r}]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "classification_test.py" in done.stdout
