"""Which runs of a study count as finished: those of this configuration, and of these recordings."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from experiments import scaling
from experiments.configs.scaling import ScalingConfig
from experiments.scaling_study import grid
from experiments.scaling_study.grid import fingerprint_of_training, trials
from experiments.scaling_study.held_out import finished
from experiments.training import config_io
from experiments.training.errors import UsageError
from pipelines import open_dataset
from tests.pipelines.conftest import index_cache  # noqa: F401


def record(folder, number, samples=16_000):
  folder.mkdir(exist_ok=True)
  soundfile.write(folder / f"{number}.wav", np.zeros(samples), 16_000)


def run_of(trial, data):
  """The folder that a finished run leaves, as far as a study looks at it."""
  step = trial.folder / "checkpoints" / str(trial.steps)
  (step / "meta").mkdir(parents=True)
  (step / "state").mkdir()
  (step / "meta" / "metadata").write_text(json.dumps({"data": data}))
  (trial.folder / "summary.json").write_text(json.dumps({"steps": trial.steps}))
  (trial.folder / "config.json").write_text(json.dumps(config_io.to_dict(trial.config)))


def test_runs_of_other_recordings_are_refused(tmp_path, monkeypatch):
  for number in range(20):
    record(tmp_path / "audio", number)
  cfg = ScalingConfig(
    sizes=("w48",), shares=(1.0,), steps=(4,), holdout=0.2,
    source=(str(tmp_path / "audio"),), out=str(tmp_path / "study"),
  )  # fmt: skip
  (trial,) = trials(cfg)
  assert not finished(trial)
  data = fingerprint_of_training(trial.config)
  assert data.startswith(f"{len(open_dataset(trial.config.data, 'train'))} clips, ")
  run_of(trial, data)
  assert finished(trial)
  # Elsewhere, by other hands: the same recordings.
  (tmp_path / "audio").rename(tmp_path / "moved")
  moved = dataclasses.replace(cfg, source=(str(tmp_path / "moved"),))
  assert finished(trials(moved)[0])
  for number in range(20, 30):
    record(tmp_path / "moved", number)
  grid._training.cache_clear()
  match = rf"was trained on other recordings \({data}\) than --source has now \("
  with pytest.raises(UsageError, match=match) as error:
    finished(trials(moved)[0])
  assert "\n" not in str(error.value)
  monkeypatch.setattr(scaling, "run_cells", None)  # and before anything is run
  for collect in (False, True):
    with pytest.raises(UsageError, match="was trained on other recordings"):
      scaling.main(dataclasses.replace(moved, collect=collect))
