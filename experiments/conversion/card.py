"""What stands beside every export: config.json for programs, a model card for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dasheng_jax.models import MODELS as DASHENG
from dasheng_jax.weights.files import official_config
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.record import OURS, make_record
from dasheng_jax.weights.tensors import itemsize
from mobile_jax.models import MODELS as MOBILE

TITLES = {
  "dasheng": "Dasheng",
  "mn": "MN (MobileNetV3 for audio)",
  "dymn": "DyMN (dynamic MobileNet)",
}
PAPERS = {
  "dasheng": "Dinkel et al., Scaling up masked audio encoder learning for general audio "
  "classification, Interspeech 2024, arXiv 2406.06992",
  "mn": "Schmid et al., Efficient Large-scale Audio Tagging via Transformer-to-CNN Knowledge "
  "Distillation, ICASSP 2023, arXiv 2211.04772",
  "dymn": "Schmid et al., Dynamic Convolutional Neural Networks as Efficient Pre-trained Audio "
  "Models, arXiv 2310.15648",
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


def model_card(found: Found, dest: str, about: Mapping[str, str], kind: str) -> str:
  """README.md of an export, with the front matter that the hub reads."""
  known: Any = None
  if found.family == "dasheng":
    known = DASHENG.get(found.name)
  elif found.name in MOBILE:
    known = MOBILE[found.name]
  licence = known.licence if known else "unknown"
  lines = [
    "---",
    "library_name: dasheng-jax",
    f"license: {licence.lower() if known else 'other'}",
    "tags: [audio, jax, flax]",
    "---",
    "",
    f"# {dest}",
    "",
    f"{TITLES[found.family]}{f', {found.name}' if found.name else ''}, converted to {kind}.",
    "",
    "| | |",
    "| --- | --- |",
    *(f"| {key} | {value} |" for key, value in facts(found, known, about)),
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


def facts(found: Found, known: Any, about: Mapping[str, str]) -> list[tuple[str, str]]:
  """Rows of the card's table."""
  count = sum(t.bytes // itemsize(t.dtype) for t in found.tensors.values())
  rows = [("parameters and statistics", f"{count:,}")]
  if known and found.family == "dasheng":
    environment, speech, music = known.hear
    reported = f"HEAR {environment} / {speech} / {music} % (environment, speech, music)"
    rows.append(("reported by the authors", reported))
  elif known and known.mean_average_precision is not None:
    rows.append(("reported by the authors", f"{known.mean_average_precision:.1f} mAP on AudioSet"))
  if known:
    rows += [("published at", known.url), ("licence", known.licence)]
  return [*rows, *about.items()]


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
