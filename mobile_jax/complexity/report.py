"""All figures of one model, and a table of several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dasheng_jax.errors import ConfigError
from mobile_jax.complexity.field import Extent, receptive_field
from mobile_jax.complexity.live import peak_elements
from mobile_jax.complexity.memory import efficient_elements, plain_elements
from mobile_jax.complexity.products import all_macs, products, tool_macs
from mobile_jax.complexity.trace import trace
from mobile_jax.config import DyMNConfig, MNConfig
from mobile_jax.families import Config, Decision, Tagger
from mobile_jax.network import infer, shapes, train_outputs
from mobile_jax.scene_config import SECONDS as SCENE_SECONDS
from mobile_jax.weights.names import buffers

SECONDS = 10.0
# Clips traced at once. More than one or two, for which dynamic kernels are mixed by sums that would
# not be seen as the matrix product they are.
CLIPS = 4


@dataclasses.dataclass(frozen=True)
class Complexity:
  """What one clip costs. Memory in kB of 1000 bytes, None where a rule is not defined.

  parameters: trainable ones. state_elements: numbers in a released state dict. macs: convolutions
  and matrix products of the network as it is defined. macs_tool: as the released counter adds them.
  macs_run: of the inference pass here, which may order linear steps more cheaply. memory_plain,
  memory_efficient: by the released tool's rules; memory_live: of the traced inference pass.
  receptive_field: (frequency bins, frames).
  """

  parameters: int
  state_elements: int
  macs: int
  macs_tool: int
  macs_run: int
  memory_plain: float | None
  memory_efficient: float | None
  memory_live: float
  receptive_field: tuple[Extent, Extent]


# Head of a column -> what stands in it.
COLUMNS: dict[str, Callable[[Complexity], Any]] = {
  "parameters": lambda c: c.parameters,
  "state dict": lambda c: c.state_elements,
  "MACs": lambda c: c.macs,
  "MACs (tool)": lambda c: c.macs_tool,
  "MACs (run)": lambda c: c.macs_run,
  "kB efficient": lambda c: c.memory_efficient,
  "kB plain": lambda c: c.memory_plain,
  "kB live": lambda c: c.memory_live,
  "receptive field": lambda c: c.receptive_field,
}


def measure(cfg: Config, *, frames: int | None = None, bits: int = 16) -> Complexity:
  """Of a configuration, for one clip of `frames` frames and numbers of `bits` bits.

  frames: None is 10 s for taggers and 1 s for scene models.

  Squeeze-and-excitation over time is built anew for that length, whatever `cfg.frames` says: pass
  `frames=cfg.frames` for a network of another one. Raises ConfigError for fewer than one frame or
  bit.
  """
  cfg = cfg.with_compute(kernels="xla")
  if frames is None:
    seconds = SECONDS if isinstance(cfg, Tagger | Decision) else SCENE_SECONDS
    frames = cfg.mel.frames(int(seconds * cfg.mel.sample_rate))
  if frames < 1 or bits < 1:
    raise ConfigError(f"frames is {frames} and bits is {bits}; both must be at least 1")
  if isinstance(cfg, MNConfig):
    cfg = dataclasses.replace(cfg, frames=frames)
  variables = shapes(cfg)

  # The form of training is the network as it is defined: no norm folded in, no step moved.
  def defined(variables: Any, log_mel: jax.Array) -> tuple:
    outputs, _ = train_outputs(cfg, variables, log_mel, None)
    return outputs.logits, outputs.features

  def run(variables: Any, log_mel: jax.Array) -> jax.Array:
    return infer(cfg, variables, log_mel).logits

  log_mel = jax.ShapeDtypeStruct((CLIPS, cfg.mel.mel_bins, frames), jnp.float32)
  found = measure_function(defined, variables, log_mel, inference=run, clips=CLIPS, bits=bits)
  if isinstance(cfg, Decision):
    constants = sum(x.size for x in buffers(cfg).values())
    return dataclasses.replace(found, state_elements=found.state_elements + constants)
  if not isinstance(cfg, Tagger):  # the released tool does not know them
    return found
  return dataclasses.replace(
    found,
    state_elements=found.state_elements + _buffers(cfg, variables),
    memory_plain=plain_elements(cfg, frames) * bits / 8000,
    memory_efficient=efficient_elements(cfg, frames) * bits / 8000,
  )


def measure_function(
  forward: Callable,
  variables: Any,
  *inputs: Any,
  inference: Callable | None = None,
  clips: int = 1,
  bits: int = 16,
) -> Complexity:
  """Of any `forward(variables, *inputs)` on arrays or shapes.

  variables: a tree, or Flax's {"params": ..., "batch_stats": ...}, of which the first alone counts
  as parameters. inference: another form of the same function, of which run-time figures are taken.
  clips: the batch of the inputs, by which MACs and memory are divided. Raises OpaqueProgram where a
  kernel of another compiler hides what is computed.
  """
  defined = trace(forward, variables, *inputs)
  run = defined if inference is None else trace(inference, variables, *inputs)
  found = products(defined)
  collections = isinstance(variables, Mapping) and "params" in variables
  return Complexity(
    parameters=elements(variables["params"] if collections else variables),
    state_elements=elements(variables),
    macs=all_macs(found) // clips,
    macs_tool=tool_macs(found, defined.paths) // clips,
    macs_run=all_macs(products(run)) // clips,
    memory_plain=None,
    memory_efficient=None,
    memory_live=peak_elements(run) * bits / 8000 / clips,
    receptive_field=receptive_field(defined),
  )


def elements(tree: Any) -> int:
  """Numbers in a tree of arrays or shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _buffers(cfg: Tagger, variables: Any) -> int:
  """Constants of Dy-ReLU, which released state dicts carry and our variables do not."""
  if not isinstance(cfg, DyMNConfig):
    return 0
  paths = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
  relus = sum("coefficients" in str(path) and "bias" in str(path[-1]) for path, _ in paths)
  return relus * 4 * cfg.pieces


def table(rows: Mapping[str, Complexity]) -> str:
  """A markdown table, a row for each name."""
  lines = [["model", *COLUMNS]]
  lines += [[name, *(show(cell(row)) for cell in COLUMNS.values())] for name, row in rows.items()]
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  texts = [
    "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
    for line in lines
  ]
  # Numbers stand to the right.
  rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
  texts.insert(1, "|" + "|".join(rules) + "|")
  return "\n".join(texts)


def show(value: Any) -> str:
  """A figure as people read it: thousands apart, "-" for none, both axes only where they differ."""
  if isinstance(value, tuple):
    return show(value[0]) if len(set(value)) == 1 else " x ".join(map(show, value))
  if value is None:
    return "-"
  if isinstance(value, float) and not math.isinf(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
  return "whole clip" if isinstance(value, float) else f"{value:,}"
