"""Model packages stay light: no TensorFlow, PyTorch or librosa, under a second beyond jax."""

import importlib.util
import json
import subprocess
import sys

import pytest

LIGHT = ("dasheng_jax", "mobile_jax", "pipelines", "pipelines.mel")
HEAVY = ("tensorflow", "torch", "librosa", "tensorflow_datasets", "sklearn", "matplotlib")
EXTRA_SECONDS = 1.0
ATTEMPTS = 4

PROBE = """
import json, sys, time
import jax, jax.numpy
start = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "loaded": sorted(m for m in sys.modules if "." not in m)}))
"""


def probe(module: str) -> dict:
  out = subprocess.run(
    [sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=True, timeout=120
  )
  return json.loads(out.stdout)


# A package is imported before its modules, so `pipelines.mel` tells of `pipelines` too.
@pytest.mark.parametrize(
  "module", [m if m != "pipelines" else pytest.param(m, marks=pytest.mark.slow) for m in LIGHT]
)
def test_import_is_light(module):
  best = None
  for _ in range(ATTEMPTS):  # a busy machine slows some tries, not all
    seen = probe(module)
    heavy = sorted(set(HEAVY) & set(seen["loaded"]))
    assert not heavy, f"import {module} pulls in {heavy}"
    best = seen["seconds"] if best is None else min(best, seen["seconds"])
    if best < EXTRA_SECONDS:
      return
  pytest.fail(f"import {module} takes {best:.2f} s beyond jax (best of {ATTEMPTS})")


def test_the_heavy_ones_are_installed():
  """The check above means nothing where TensorFlow cannot be imported at all."""
  assert importlib.util.find_spec("librosa")
  assert importlib.util.find_spec("tensorflow")
