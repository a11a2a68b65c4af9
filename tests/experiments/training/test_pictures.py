"""Pictures: drawn without a display, of the right size, refused where there is nothing to draw."""

import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from experiments.training import pictures
from experiments.training.errors import UsageError

RNG = np.random.default_rng(0)


def shape_of(path):
  return matplotlib.image.imread(path).shape[:2]


def write_metrics(path, losses):
  rows = [{"step": i + 1, "part": "train", "loss": x} for i, x in enumerate(losses)]
  rows.append({"step": len(losses), "part": "validation", "loss": 0.7})
  path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')
  return path


def test_loss_curve_of_a_run(tmp_path):
  metrics = write_metrics(tmp_path / "metrics.jsonl", [1.0, "nan", 0.8] + [0.7] * 200)
  path = pictures.loss_curve(metrics, tmp_path / "new" / "loss.png")
  assert shape_of(path) == (520, 936)
  steps, values = pictures.read_curves(metrics)["train"]
  assert steps[:3].tolist() == [1, 2, 3]
  assert np.isnan(values[1])


def test_loss_curve_of_arrays(tmp_path):
  path = pictures.loss_curve({"a": (np.arange(3), np.ones(3))}, tmp_path / "a.png", chance=None)
  assert path.stat().st_size > 5_000


def test_nothing_to_draw(tmp_path):
  with pytest.raises(UsageError, match=r"metrics\.jsonl: no finite loss"):
    pictures.loss_curve(tmp_path / "metrics.jsonl", tmp_path / "a.png")
  with pytest.raises(UsageError, match="no finite loss"):
    pictures.loss_curve({"a": (np.arange(2), np.full(2, np.nan))}, tmp_path / "a.png")
  assert not (tmp_path / "a.png").exists()


def test_running_mean_keeps_a_line_and_smooths_noise():
  line = np.linspace(2, 1, 500)
  np.testing.assert_allclose(pictures._running_mean(line)[10:-10], line[10:-10], atol=1e-12)
  noise = RNG.standard_normal(2000)
  assert pictures._running_mean(noise)[50:-50].std() < 0.25


def test_compare_curves(tmp_path):
  ours = np.linspace(1.2, 0.9, 50)
  path = pictures.compare_curves(ours, ours * (1 + 1e-5), tmp_path / "c.png")
  assert shape_of(path) == (702, 936)
  with pytest.raises(ValueError, match="must be equal"):
    pictures.compare_curves(ours, ours[1:], tmp_path / "d.png")


def test_compare_variants(tmp_path):
  first = np.linspace(1.2, 0.9, 50)
  curves = {f"run {i}": first * (1 + i / 100) for i in range(7)}  # more than there are colours
  path = pictures.compare_variants(curves, tmp_path / "v.png")
  assert shape_of(path) == (780, 936)
  with pytest.raises(ValueError, match="must be equal"):
    pictures.compare_variants({"a": first, "b": first[1:]}, tmp_path / "w.png")


def test_reconstruction(tmp_path):
  target = RNG.uniform(-80, 0, (64, 203))
  hidden = np.arange(50) % 4 != 0
  path = pictures.reconstruction(target, hidden, target + 1, tmp_path / "r.png", title="clip")
  assert shape_of(path) == (858, 1170)
  with pytest.raises(ValueError, match="51 patches need 204 frames"):
    pictures.reconstruction(target, np.ones(51, bool), target, tmp_path / "r.png")


def test_mel_ticks_meet_the_filters():
  """The filter whose centre lies nearest to a frequency is the row where its tick stands."""
  from pipelines.mel import DASHENG_MEL, mel_filterbank

  bank = mel_filterbank(DASHENG_MEL)
  for hz in (500, 1000, 2000, 4000):
    row = pictures._mel_bin(hz, 64, 16_000)
    assert abs(row - bank[round(hz / 31.25)].argmax()) < 0.6


def test_matplotlib_is_loaded_only_to_draw():
  program = "import sys, experiments.training.pictures; sys.exit('matplotlib' in sys.modules)"
  subprocess.run([sys.executable, "-c", program], check=True)
