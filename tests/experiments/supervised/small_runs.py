"""What tests of whole supervised runs share: two classes of tones, and programs that are kept."""

import contextlib
import functools

import jax
import pytest
import soundfile

from experiments.supervised import prepare, run
from experiments.training import loop
from experiments.training.mesh import make_mesh
from experiments.training.step import compile_eval_step, compile_train_step
from tests.experiments.tiny_pretrain import quick_compiles
from tests.pipelines.conftest import tone


@contextlib.contextmanager
def compiled_once():
  """Runs on one device, of which alike ones compile once; yields what undoes more patches."""
  with quick_compiles(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, "make_mesh", lambda cfg: make_mesh(cfg, jax.devices()[:1]))
    patch.setattr(prepare, "supervised_task", functools.cache(prepare.supervised_task))
    patch.setattr(prepare, "_optimiser", functools.cache(prepare._optimiser))
    patch.setattr(loop, "compile_train_step", functools.cache(compile_train_step))
    patch.setattr(loop, "compile_eval_step", functools.cache(compile_eval_step))
    yield patch


def two_tones(folder):
  """Ten and four clips of a quarter second, low and high, as a folder for each part and class."""
  for part, count in (("train", 10), ("test", 4)):
    for n in range(count):
      path = folder / part / ("low", "high")[n % 2] / f"{n}.wav"
      path.parent.mkdir(parents=True, exist_ok=True)
      soundfile.write(path, tone(3 + 90 * (n % 2) + n, 0.25, 32_000), 32_000)
  return folder
