"""What may be changed on the way: the length of the time table, the number of classes."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.found import Found
from dasheng_jax.weights.positions import check_rows, resize_time_table
from dasheng_jax.weights.table import check_headers, flatten, unflatten
from dasheng_jax.weights.tensors import LONGEST_AXIS, Tensor, held
from mobile_jax.network import shapes
from mobile_jax.weights.load import fresh_head
from mobile_jax.weights.names import rules as mobile_rules

_TIME = "time_pos_embed"


def adjusted(
  found: Found, *, positions: int = 0, classes: int = 0, seed: int = 0, source: str = "state dict"
) -> Found:
  """The source with another time table or another number of classes; 0 leaves it as it is.

  positions: of Dasheng, cut to its first rows or stretched (reference text, section 8). classes:
  of MN and DyMN; another number than found drops the last layer of the mlp head, or the complete
  head of the others, and draws it anew (reference text, section 6).
  """
  if positions and found.family != "dasheng":
    raise WeightsError(f"--positions is of Dasheng's time table; this is {found.family}")
  if classes and found.family == "dasheng":
    raise WeightsError("--classes is of MN and DyMN; Dasheng's classifier is converted as it is")
  if classes > LONGEST_AXIS:
    raise WeightsError(f"--classes {classes}: give at most {LONGEST_AXIS:,}")
  if positions or classes:
    # What is replaced here must have been right too.
    check_headers(found.tensors, found.rules, found.target, ignore=found.ignore, source=source)
  if positions:
    found = _with_positions(found, positions)
  if classes and classes != found.cfg.classes:
    found = _with_classes(found, classes, seed)
  return found


def _with_positions(found: Found, rows: int) -> Found:
  before = found.cfg.encoder.positions
  check_rows(rows)
  if rows == before:
    return found
  if any(rule.ours.startswith("params/decoder/") for rule in found.rules):
    raise WeightsError(
      "--positions cannot change a complete autoencoder, whose decoder has a table of its own; "
      "convert the encoder alone"
    )
  source = found.tensors[_TIME]
  width = found.cfg.encoder.width

  def read() -> np.ndarray:
    table = np.asarray(source.read()).astype(np.float32).reshape(width, -1).T
    return resize_time_table(table, rows).T.reshape(1, width, 1, rows)

  encoder = dataclasses.replace(found.cfg.encoder, positions=rows)
  flat = dict(flatten(found.target))
  flat["params/positions/time"] = jax.ShapeDtypeStruct((rows, width), np.float32)
  way = "cut" if rows < before else "stretched"
  return found._replace(
    cfg=dataclasses.replace(found.cfg, encoder=encoder),
    tensors={**found.tensors, _TIME: Tensor((1, width, 1, rows), "float32", read)},
    target=unflatten(flat),
    said=(*found.said, f"time table: {way} from {before} to {rows} positions"),
  )


def _with_classes(found: Found, classes: int, seed: int) -> Found:
  cfg = dataclasses.replace(found.cfg, classes=classes)
  drawn = jax.jit(functools.partial(fresh_head, cfg))(jax.random.key(seed))
  rules = mobile_rules(cfg)
  by_path = {rule.ours: rule for rule in rules}
  tensors = dict(found.tensors)
  for path, array in drawn.items():
    rule = by_path[path]
    tensors[rule.torch] = held(np.asarray(rule.transform.to_torch(np.asarray(array)), order="C"))
  return found._replace(
    cfg=cfg,
    tensors=tensors,
    rules=rules,
    target=shapes(cfg),
    said=(*found.said, f"classes: {found.cfg.classes} replaced by {classes}, drawn with {seed}"),
  )
