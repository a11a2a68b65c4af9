"""Labelled sets for training, one small file per kind: `open_set("esc50=FOLDER", cfg, "1")`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.sets.base import Objective, RecordingDevices, TrainingSet
from pipelines.sets.dcase20 import dcase20
from pipelines.sets.esc import esc10, esc50
from pipelines.sets.fluent import fluent_speech_commands
from pipelines.sets.fsdkaggle import fsdkaggle2018, fsdkaggle2019_curated, fsdkaggle2019_noisy
from pipelines.sets.msos import msos
from pipelines.sets.nsynth import nsynth
from pipelines.sets.openmic import openmic
from pipelines.sets.own import folder, table
from pipelines.sets.ravdess import ravdess
from pipelines.sets.speech_commands import (
  speech_commands_v1,
  speech_commands_v1_30,
  speech_commands_v2,
)
from pipelines.sets.spoken_digits import spoken_digits
from pipelines.sets.tagged import audioset, audioset_balanced, audioset_weak, fsd50k
from pipelines.sets.tau22 import tau22, tau22_joined
from pipelines.sets.urbansound import urbansound8k
from pipelines.sets.voxceleb import voxceleb1
from pipelines.sets.voxlingua import voxlingua107

SETS: dict[str, Callable[[str, DataConfig, str], TrainingSet]] = {
  "audioset": audioset,
  "audioset_weak": audioset_weak,
  "audioset_balanced": audioset_balanced,
  "openmic": openmic,
  "fsd50k": fsd50k,
  "esc50": esc50,
  "esc10": esc10,
  "dcase20": dcase20,
  "tau22": tau22,
  "tau22_joined": tau22_joined,
  "spoken_digits": spoken_digits,
  "urbansound8k": urbansound8k,
  "fsdkaggle2018": fsdkaggle2018,
  "fsdkaggle2019_curated": fsdkaggle2019_curated,
  "fsdkaggle2019_noisy": fsdkaggle2019_noisy,
  "nsynth": nsynth,
  "msos": msos,
  "ravdess": ravdess,
  "speech_commands_v1": speech_commands_v1,
  "speech_commands_v1_30": speech_commands_v1_30,
  "speech_commands_v2": speech_commands_v2,
  "fluent_speech_commands": fluent_speech_commands,
  "voxceleb1": voxceleb1,
  "voxlingua107": voxlingua107,
  "folder": folder,
  "table": table,
}

__all__ = ["SETS", "Objective", "RecordingDevices", "TrainingSet", "open_set"]


def open_set(spec: str, cfg: DataConfig, fold: str = "") -> TrainingSet:
  """Opens "NAME=PATH" and indexes its audio.

  Args:
    spec: a name of `SETS` and where the set lies.
    cfg: for workers, and `holdout` for sets that nobody has split.
    fold: the part left out where a set has folds: "1" to "5", or a speaker's name.

  Raises:
    DataError: an unknown name or fold, files that are absent, damaged or of another layout.
  """
  name, _, path = spec.partition("=")
  if name not in SETS:
    near = difflib.get_close_matches(name, SETS, n=1)
    hint = f"did you mean {near[0]}=PATH?" if near else f"write NAME=PATH with {', '.join(SETS)}"
    raise DataError(f"data set {spec!r}: unknown; {hint}")
  return SETS[name](path, cfg, fold)
