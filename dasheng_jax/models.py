"""The published models: configuration, source of the weights, licence, reported figures."""

from __future__ import annotations

from typing import NamedTuple

from dasheng_jax.config import SIZES, DashengConfig, unknown_name
from dasheng_jax.errors import ConfigError


class PublishedModel(NamedTuple):
  """One line of the model table.

  sha256 and size (bytes) are None where no one could check the file yet. hear: the authors' HEAR
  averages over environment, speech and music tasks, in percent (README of the released code,
  without Beehive). elements: numbers in the state dict, buffers included (reference text, section
  7).
  """

  config: DashengConfig
  file: str
  url: str
  hub: str
  sha256: str | None
  licence: str
  hear: tuple[float, float, float]
  elements: int
  size: int | None = None


def _zenodo(file: str) -> str:
  return f"https://zenodo.org/records/11511780/files/{file}?download=1"


class _Models(dict[str, PublishedModel]):
  """A dict whose missing names answer with the nearest right ones."""

  def __missing__(self, name: str) -> PublishedModel:
    raise ConfigError(unknown_name("published model", name, self))


MODELS: dict[str, PublishedModel] = _Models(
  {
    "dasheng_base": PublishedModel(
      SIZES["dasheng_base"],
      "dasheng_base.pt",
      _zenodo("dasheng_base.pt"),
      "mispeech/dasheng-base",
      None,
      "Apache-2.0",
      (80.2, 72.5, 84.0),
      85_464_897,
    ),
    "dasheng_0_6b": PublishedModel(
      SIZES["dasheng_0_6b"],
      "dasheng_06b.pt",
      _zenodo("dasheng_06b.pt"),
      "mispeech/dasheng-0.6B",
      None,
      "Apache-2.0",
      (82.4, 74.9, 84.0),
      630_350_657,
    ),
    "dasheng_1_2b": PublishedModel(
      SIZES["dasheng_1_2b"],
      "dasheng_12b.pt",
      _zenodo("dasheng_12b.pt"),
      "mispeech/dasheng-1.2B",
      None,
      "Apache-2.0",
      (83.2, 75.7, 84.9),
      1_134_064_449,
    ),
  }
)


def published(name: str) -> PublishedModel:
  """A published model by name; a wrong name answers with the nearest right ones."""
  return MODELS[name]
