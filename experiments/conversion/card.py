"""What stands beside every export: config.json for programs, a model card for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dasheng_jax.models import MODELS as DASHENG
from dasheng_jax.weights.files import official_config
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.record import OURS, make_record
from dasheng_jax.weights.tensors import itemsize
from experiments.conversion.overwrite import LIBRARY
from experiments.conversion.provenance import Origin
from mobile_jax.models import MODELS as MOBILE

TITLES = {
  "dasheng": "Dasheng",
  "mn": "MN (MobileNetV3 for audio)",
  "dymn": "DyMN (dynamic MobileNet)",
  "cp_mobile": "CP-Mobile (acoustic scenes)",
  "cp_resnet": "CP-ResNet (acoustic scenes)",
  "passt": "PaSST (patchout audio transformer)",
  "mobilenet_v2": "MobileNetV2 (weakly supervised audio tagger)",
  "efficientnet": "EfficientNet-B0 (weakly supervised audio tagger)",
}
_SCENES = (
  "Schmid et al., CP-JKU Submission to DCASE23: Efficient Acoustic Scene Classification with "
  "CP-Mobile, technical report of DCASE 2023"
)
_DECISION = (
  "Dinkel et al., An empirical study of weakly supervised audio tagging embeddings for general "
  "audio representations, 2022"
)
PAPERS = {
  "dasheng": "Dinkel et al., Scaling up masked audio encoder learning for general audio "
  "classification, Interspeech 2024, arXiv 2406.06992",
  "mn": "Schmid et al., Efficient Large-scale Audio Tagging via Transformer-to-CNN Knowledge "
  "Distillation, ICASSP 2023, arXiv 2211.04772",
  "dymn": "Schmid et al., Dynamic Convolutional Neural Networks as Efficient Pre-trained Audio "
  "Models, arXiv 2310.15648",
  "cp_mobile": _SCENES,
  "cp_resnet": _SCENES,
  "passt": "Koutini et al., Efficient Training of Audio Transformers with Patchout, "
  "Interspeech 2022, arXiv 2110.05069",
  "mobilenet_v2": _DECISION,
  "efficientnet": _DECISION,
}


def config_json(
  found: Found, about: Mapping[str, str], arrays: Mapping[str, list]
) -> dict[str, Any]:
  """config.json: the fields of the Hugging Face variant, and ours under their own key."""
  public: dict[str, Any] = {"model_type": found.family}
  if found.family == "dasheng":
    public |= {
      "name": found.name or "dasheng",
      "loss": "BCELoss",
      "encoder_kwargs": official_config(found.cfg),
    }
  record = make_record(found.family, found.cfg, found.name)
  return {**public, OURS: {**record, "source": dict(about), "arrays": dict(arrays)}}


def model_card(found: Found, dest: str, origin: Origin, kind: str, dtype: str) -> str:
  """README.md of an export, with the front matter that the hub reads.

  Licence, source and figures of a published model are those of its own unchanged weights, so they
  stand where `origin` says that these are.
  """
  known: Any = {**MOBILE, **DASHENG}[origin.name] if origin.name else None
  size = f" of the size of {found.name}" if found.name else ""
  what = f", {origin.name}" if origin.name else size
  lines = [
    "---",
    LIBRARY,
    f"license: {known.licence.lower() if known else 'unknown'}",
    "tags: [audio, jax, flax]",
    "---",
    "",
    f"# {dest}",
    "",
    f"{TITLES[found.family]}{what}, converted to {kind}"
    + (f" in {dtype}." if dtype != "float32" else "."),
    "",
    "| | |",
    "| --- | --- |",
    *(f"| {key} | {_cell(value)} |" for key, value in facts(found, known, origin.about, dtype)),
    "",
    "What the converter found:",
    "",
    *(f"- {sentence}" for sentence in found.said),
    "",
    "## Use",
    "",
    "```python",
    *_use(found, dest),
    "```",
    "",
    f"Paper: {PAPERS[found.family]}.",
    "",
  ]
  return "\n".join(lines)


def facts(
  found: Found, known: Any, about: Mapping[str, str], dtype: str = "float32"
) -> list[tuple[str, str]]:
  """Rows of the card's table; known: the line of the published model that these weights are."""
  count = sum(t.bytes // itemsize(t.dtype) for t in found.tensors.values())
  rows = [("parameters and statistics", f"{count:,}")]
  if not known:
    return [*rows, ("licence", "unknown: that of the source"), *about.items()]
  reported = ""
  if found.family == "dasheng":
    environment, speech, music = known.hear
    reported = f"HEAR {environment} / {speech} / {music} % (environment, speech, music)"
  elif known.mean_average_precision is not None:
    reported = f"{known.mean_average_precision:.1f} mAP on AudioSet"
  if reported:
    rounded = "" if dtype == "float32" else f", before these weights were rounded to {dtype}"
    rows.append(("reported by the authors", reported + rounded))
  return [*rows, ("published at", known.url), ("licence", known.licence), *about.items()]


def _cell(text: str) -> str:
  """Text that cannot end its cell of the table."""
  return " ".join(text.split()).replace("|", "\\|")


def _use(found: Found, dest: str) -> list[str]:
  if found.family == "dasheng":
    return [
      "import dasheng_jax",
      "",
      f'embed, params = dasheng_jax.load_encoder("{dest}")',
      "tokens = embed(params, wave)  # f32[b, s] at 16 kHz -> f32[b, t, d] at 25 Hz",
    ]
  return [
    "import mobile_jax",
    "",
    f'tag, variables = mobile_jax.load_model("{dest}")',
    "logits, features = tag(variables, wave)  # f32[b, s] at 32 kHz",
  ]
