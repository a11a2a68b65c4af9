"""The published models: what each name implies, its file, and the figure its authors report.

Reference texts of MN and DyMN, section 8, and of the scene models, section 2.3. Hop, mel bands,
head, strides and dynamic blocks follow from the name here; in the released code the caller has to
know and pass them.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from dasheng_jax.config import unknown_name
from dasheng_jax.errors import ConfigError
from mobile_jax.config import SIZES
from mobile_jax.families import Config
from mobile_jax.scene_config import SCENE_SIZES

RELEASE = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
SCENES_RELEASE = "https://raw.githubusercontent.com/fschmid56/cpjku_dcase23/main/DCASE23_Task1/"
# ImageNet weights of DyMN need the temperature that their training ended with.
IMAGENET_TEMPERATURE = 30.0
# Reference text, section 7, by size, then by the option that changes it.
ELEMENTS = {
  "mn01": 126_402,
  "mn02": 329_733,
  "mn04": 993_485,
  "mn05": 1_443_637,
  "mn10": 4_901_277,
  "mn20": 17_958_133,
  "mn30": 39_159_613,
  "mn40": 68_524_949,
  "mn10 fully_convolutional": 3_504_139,
  "dymn04": 1_972_124,
  "dymn10": 10_575_124,
  "dymn20": 40_019_252,
  "dymn04 replace_se": 1_839_821,
  "dymn10 replace_se": 9_859_909,
  "cp_mobile_32": 131_153,
}


class PublishedModel(NamedTuple):
  """One line of the model table.

  mean_average_precision: on AudioSet's evaluation set, in percent; None for ImageNet weights and
  scene models.
  sha256 and size (bytes) are None where no one could check the file yet. note: what the figure or
  the file hides. hub: the name on Hugging Face, "" for none. elements: numbers in a state dict of
  the configuration.
  """

  config: Config
  file: str
  url: str
  mean_average_precision: float | None
  sha256: str | None = None
  licence: str = "MIT"
  note: str = ""
  hub: str = ""
  elements: int = 0
  size: int | None = None


class _Models(dict[str, PublishedModel]):
  """A dict whose missing names answer with the nearest right ones."""

  def __missing__(self, name: str) -> PublishedModel:
    raise ConfigError(unknown_name("published model", name, self))


def _model(
  size: str,
  file: str,
  figure: float | None,
  *,
  sha256: str | None = None,
  size_bytes: int | None = None,
  note: str = "",
  **changes,
) -> PublishedModel:
  config = dataclasses.replace(SIZES[size], **changes)
  # A blank before a name and brackets in it are part of the address.
  url = RELEASE + file.replace("(", "%28").replace(")", "%29")
  variant = " ".join([size, *(changes[key] for key in ("head", "dynamic") if key in changes)])
  return PublishedModel(
    config, file, url, figure, sha256, note=note, elements=ELEMENTS[variant], size=size_bytes
  )


def _front_end(**changes) -> dict:
  return {"mel": dataclasses.replace(SIZES["mn10"].mel, **changes)}


def _audioset() -> dict[str, PublishedModel]:
  plain = {"mn01": 298, "mn02": 378, "mn04": 432, "mn05": 443}
  plain |= {"mn10": 471, "mn20": 478, "mn30": 482, "mn40": 484}
  # The one file that could be checked.
  checked: dict[str, dict] = {
    "mn04": {
      "sha256": "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
      "size_bytes": 4_066_513,
    }
  }
  table = {
    f"{size}_as": _model(size, f"{size}_as_mAP_{figure}.pt", figure / 10, **checked.get(size, {}))
    for size, figure in plain.items()
  }
  for name, files in {
    "mn40_as": {"(2)": "483", "(3)": "483(2)"},
    "mn40_as_no_im_pre": {"": "483", "(2)": "483(2)", "(3)": "482"},
    "mn40_as_ext": {"": "487", "(2)": "486", "(3)": "485"},
  }.items():
    for run, ending in files.items():
      note = "no ImageNet pre-training" if "no_im" in name else ""
      note = "300 epochs" if "ext" in name else note
      file = f"{name}_mAP_{ending}.pt"
      table[name + run] = _model("mn40", file, int(ending[:3]) / 10, note=note)
  for ms, figure in {5: 475, 15: 463, 20: 456, 25: 447}.items():
    file = f"mn10_as_hop_{ms}_mAP_{figure}.pt"
    table[f"mn10_as_hop_{ms}"] = _model("mn10", file, figure / 10, **_front_end(hop_length=32 * ms))
  for bands, score in {40: 453, 64: 461, 256: 474}.items():
    file = f"mn10_as_mels_{bands}_mAP_{score}.pt"
    table[f"mn10_as_mels_{bands}"] = _model("mn10", file, score / 10, **_front_end(mel_bins=bands))
  for name, (score, strides) in {
    "mn10_as_fc": (465, (2, 2, 2, 2)),
    "mn10_as_fc_s2221": (466, (2, 2, 2, 1)),
    "mn10_as_fc_s2211": (466, (2, 2, 1, 1)),
  }.items():
    table[name] = _model(
      "mn10",
      f"{name}_mAP_{score}.pt",
      score / 10,
      head="fully_convolutional",
      strides=strides,
    )
  return table


def _dynamic() -> dict[str, PublishedModel]:
  table = {
    f"{size}_im": _model(size, f"{size}_im.pt", None, temperature=IMAGENET_TEMPERATURE)
    for size in ("dymn04", "dymn10", "dymn20")
  }
  table["dymn04_as"] = _model("dymn04", "dymn04_as.pt", 45.0)
  table["dymn10_as"] = _model("dymn10", "dymn10_as.pt", 47.7)
  note = "49.3 by the file's name, 49.1 in the authors' table, 49.0 in the paper"
  table["dymn20_as"] = _model("dymn20", "dymn20_as_mAP_493.pt", 49.3, note=note)
  table["dymn20_as(1)"] = _model("dymn20", "dymn20_as.pt", None, note="no figure published")
  table["dymn20_as(2)"] = _model("dymn20", "dymn20_as_mAP_489.pt", 48.9)
  table["dymn20_as(3)"] = _model("dymn20", "dymn20_as_mAP_490.pt", 49.0)
  for size in ("dymn04", "dymn10"):
    name = f"{size}_replace_se_as"
    table[name] = _model(size, f"{name}.pt", None, dynamic="replace_se", note="no figure published")
  return table


MODELS: dict[str, PublishedModel] = _Models(
  {
    "mn10_im_pytorch": _model(
      "mn10",
      "mn10_im_pytorch.pt",
      None,
      note="torchvision's ImageNet weights for one channel; the 527 outputs are random",
    ),
    **{
      f"{size}_im": _model(size, f"{size}_im.pt", None) for size in SIZES if size.startswith("mn")
    },
    **_audioset(),
    **_dynamic(),
    "cp_mobile_dcase23": PublishedModel(
      SCENE_SIZES["cp_mobile_32"],
      "cp_mobile_dcase23.ckpt",
      SCENES_RELEASE + "c0a7nzin/checkpoints/epoch%3D149-step%3D81900.ckpt",
      None,
      sha256="41a1ff72cadb90f6ce0345ed961822f7d0a77ab92b5fcafe9e07d00d891ce118",
      licence="none stated",
      note="ten acoustic scenes (mobile_jax.SCENES), one-second clips; the student of DCASE 2023",
      elements=ELEMENTS["cp_mobile_32"],
      size=1_637_055,
    ),
  }
)


def published(name: str) -> PublishedModel:
  """A published model by name; a wrong name answers with the nearest right ones."""
  return MODELS[name]
