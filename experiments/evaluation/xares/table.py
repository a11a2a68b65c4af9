"""The clip-level tasks of X-ARES as one table: where their audio lies, and how they are scored.

Facts of the package `xares` 0.1.3 (Apache-2.0), its `TaskConfig` and the files of its tasks. Zhang
et al. 2025, "X-ARES: A Comprehensive Framework for Assessing Audio Encoder Performance". The
four that need more than one vector for a clip are in `NOT_HERE`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Metric = Literal["accuracy", "mAP"]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a head is trained and told good.

  Attributes:
    metric: accuracy of clips with one class, or mean average precision of clips with tags.
    epochs, batch_size: of the training.
    learning_rate: of Adam at the first epoch; a half cosine takes it to a tenth, epoch by epoch.
    knn: whether k-NN is run too.
  """

  metric: Metric = "accuracy"
  epochs: int = 10
  batch_size: int = 32
  learning_rate: float = 1e-3
  knn: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
  """One task.

  Attributes:
    title: as the package's tables call it.
    key: of the label in a clip's .json member.
    weight: in the overall average.
    parts: name of each part -> pattern of its tar files. Parts "train", "valid" and "test" are
      used as such; any others are folds, each of which is the test part once.
    recipe: see there.
    crop_seconds: clips are cut into pieces so long, each of which counts as a clip; 0 leaves them.
  """

  title: str
  key: str
  weight: int
  parts: dict[str, str]
  recipe: Recipe = Recipe()
  crop_seconds: int = 0


def _splits(train: str = "train", valid: str = "valid", test: str = "test") -> dict[str, str]:
  return {"train": f"{train}*.tar", "valid": f"{valid}*.tar", "test": f"{test}*.tar"}


def _folds(pattern: str, numbers: range) -> dict[str, str]:
  return {f"fold{n}": pattern.format(n) for n in numbers}


_WDS = _splits("wds-audio-train", "wds-audio-valid", "wds-audio-test")
_LIBRI = _splits("train-clean-100", "dev-clean", "test-clean")
_BATCH_64 = Recipe(batch_size=64)
_LONG = Recipe(epochs=20)


def _private(name: str, title: str, key: str, recipe: Recipe = _LONG) -> Row:
  parts = _splits(f"{name}_train", f"{name}_test", f"{name}_test")
  return Row(title, key, 5000, parts, recipe)


TASKS: dict[str, Row] = {
  "asvspoof2015": Row(
    "ASV2015",
    "binary_spoof",
    2000,
    _splits("asvspoof_train", "asvspoof_valid", "asvspoof_eval"),
    Recipe(epochs=5, batch_size=64),
  ),
  "cremad": Row("CREMA-D", "label", 1116, _WDS),
  "esc50": Row("ESC-50", "label", 400, _folds("wds-audio-fold-{}-*.tar", range(1, 6))),
  "fluentspeechcommands": Row(
    "Fluent Speech Commands",
    "transcription",
    2000,
    _splits(*(f"fluentspeechcommands_{part}" for part in ("train", "valid", "test"))),
  ),
  "freemusicarchive": Row(
    "Free Music Archive Small",
    "genre",
    800,
    _splits("fma_small_train", "fma_small_valid", "fma_small_test"),
    Recipe(epochs=3),
    crop_seconds=10,
  ),
  "fsd50k": Row(
    "FSD50k",
    "soundevent",
    2000,
    _splits("fsd50k_train", "fsd50k_validation", "fsd50k_eval"),
    Recipe("mAP", batch_size=64, knn=False),
    crop_seconds=10,
  ),
  "fsdkaggle2018": Row(
    "FSD18-Kaggle",
    "sound",
    1600,
    _splits("fsd18_train", "fsd18_test", "fsd18_test"),
    Recipe(epochs=3, batch_size=64, knn=False),
  ),
  "gtzan_genre": Row("GTZAN Genre", "genre", 100, _folds("gtzan_fold_{}_0000000.tar", range(10))),
  "libricount": Row(
    "LibriCount", "num_speakers", 1144, _folds("libricount_fold{:02d}.tar", range(5)), _BATCH_64
  ),
  "librispeechmalefemale": Row("LibriSpeech-MF", "gender", 2620, _LIBRI, crop_seconds=5),
  "nsynthinstument": Row(
    "NSynth-Instruments",
    "instrument_family_str",
    2000,
    _splits("nsynth_train", "nsynth_valid", "nsynth_test"),
  ),
  "ravdess": Row("RAVDESS", "emotion", 360, _folds("ravdess_fold_{}_0000000.tar", range(4))),
  "speechcommandsv1": Row("Speech Commands V1", "labels", 2000, _WDS, _BATCH_64),
  "urbansound8k": Row(
    "UrbanSound 8k", "soundevent", 873, _folds("urbansound_fold{}_0000000.tar", range(1, 11))
  ),
  "vocalimitations": Row(
    "Vocal Imitation",
    "imitation",
    1867,
    _folds("vocal_imitations_fold{:02d}_0000000.tar", range(3)),
    _LONG,
  ),
  "vocalsound": Row("VocalSound", "label", 2000, _splits()),
  "voxceleb1": Row(
    "VoxCeleb1",
    "speakerid",
    2000,
    _splits("voxceleb1_train", "voxceleb1_valid", "voxceleb1_test"),
    crop_seconds=6,
  ),
  "voxlingua33": Row(
    "VoxLingua33", "labels", 1609, _splits("train_subset", "dev", "dev"), _BATCH_64, 10
  ),
  # The audio of these is not published.
  "finger_snap": _private("finger_snap", "Finger snap sound", "tag"),
  "inside_outside_car": _private("inside_outside_car", "Inside/outside car", "position"),
  "key_scratching": _private("key_scratching", "Key scratching car", "tag"),
  "liveenv": _private("liveenv", "Live Env", "soundevent", Recipe(epochs=50, knn=False)),
  # All three parts are one, as released: its score is of clips that were trained on.
  "subway_broadcast": Row(
    "Subway broadcast",
    "broadcasting",
    5000,
    _splits("subway_broadcast", "subway_broadcast", "subway_broadcast"),
    _LONG,
  ),
}

# What these are scored by, and why they are not run here.
NOT_HERE: dict[str, str] = {
  "clotho": "recall at 1 of captions: trains a text model",
  "desed": "segment F1: labels over time",
  "maestro": "segment F1: labels over time",
  "librispeech": "word error rate: trains with a language model",
}
# Of a local task: the defaults of the package.
LOCAL = Recipe()
TAG_SEPARATOR = ";"
