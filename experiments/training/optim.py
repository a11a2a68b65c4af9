"""Optimisers and learning rates as tables: AdamW in 32 and 8 bits, the published schedule, others.

The learning rate is a pure function of `TrainState.step`: a resumed run needs no schedule state.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.training.adamw_8bit import in_8_bits
from experiments.training.errors import UsageError
from experiments.training.paths import leaves_by_path, look_up, map_by_path
from experiments.training.rounding import PARAMS, widen
from experiments.training.task import ParamAxes, Tree


@dataclass(frozen=True)
class OptimConfig:
  """Optimiser and schedule; the defaults are Dasheng's published recipe, with moments in float32.

  0 switches clip_norm and ema off. `name` is a row of `DIRECTIONS` (adamw_8bit has the published
  moments), `decay` one of `DECAY`, `schedule` of `SCHEDULES`, `params` of `rounding.PARAMS`.
  """

  name: str = "adamw"
  peak_lr: float = 3e-4
  schedule: str = "dasheng"
  warmup_steps: int = 45_000
  final_fraction: float = 0.1
  beta1: float = 0.9
  beta2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.01
  # add it to the gradient, so that Adam scales it too (torch.optim.Adam), in place of decoupling it
  coupled_decay: bool = False
  decay: str = "everything"
  clip_norm: float = 0.0
  accumulate: int = 1
  ema: float = 0.0
  params: str = "float32"  # how they are stored: float32, bfloat16, bfloat16_master
  # each "PATTERN=SHARE" of the learning rate, by parameter path, the first that matches; 0 freezes
  layer_rates: tuple[str, ...] = ()

  def __post_init__(self):
    for field, table in (
      ("name", DIRECTIONS),
      ("schedule", SCHEDULES),
      ("decay", DECAY),
      ("params", PARAMS),
    ):
      if getattr(self, field) not in table:
        raise UsageError(f"optim.{field}={getattr(self, field)!r} is not one of {', '.join(table)}")
    for field, low, high in (
      ("peak_lr", 0.0, np.inf),
      ("weight_decay", 0.0, np.inf),
      ("clip_norm", 0.0, np.inf),
      ("eps", 0.0, np.inf),
      ("warmup_steps", 0, np.inf),
      ("accumulate", 1, np.inf),
      ("final_fraction", 0.0, 1.0),
    ):
      value = getattr(self, field)
      if not (low <= value <= high and np.isfinite(value)):
        bounds = f"from {low} to {high}" if np.isfinite(high) else f"finite, and at least {low}"
        raise UsageError(f"optim.{field}={value} must be {bounds}")
    for rule in self.layer_rates:
      parse_layer_rate(rule)
    for field in ("beta1", "beta2", "ema"):
      if not 0 <= getattr(self, field) < 1:
        raise UsageError(f"optim.{field}={getattr(self, field)} must be at least 0 and below 1")


# --- learning rate: (i, warm-up, total, final fraction, numpy or jnp) -> share of the peak ---


def _dasheng(i: Any, warmup: int, total: int, final: float, xp: ModuleType) -> Any:
  """The published curve: the first update has rate 0 and the peak falls on i = warmup - 1.

  The cosine's period is the TOTAL length although it starts after the warm-up, so a run ends
  before the cosine does.
  """
  start = max(warmup - 1, 0)
  decayed = final + (1 - final) * (1 + xp.cos(np.pi * (i - start) / total)) / 2
  return xp.where(i < start, i / max(start, 1), decayed)


def _after_warmup(curve: Callable[[Any, float, ModuleType], Any]):
  """Plain curves: update n = i + 1 warms up as n / warmup; the last update has progress 1."""

  def factor(i: Any, warmup: int, total: int, final: float, xp: ModuleType) -> Any:
    progress = xp.clip((i + 1 - warmup) / max(total - warmup, 1), 0.0, 1.0)
    return xp.where(i + 1 < warmup, (i + 1) / max(warmup, 1), curve(progress, final, xp))

  return factor


SCHEDULES: dict[str, Callable[..., Any]] = {
  "dasheng": _dasheng,
  "cosine": _after_warmup(lambda p, final, xp: final + (1 - final) * (1 + xp.cos(np.pi * p)) / 2),
  "linear": _after_warmup(lambda p, final, xp: 1 - (1 - final) * p),
  "constant": _after_warmup(lambda p, final, xp: xp.ones_like(p)),
}


def learning_rate(cfg: OptimConfig, steps: int) -> Callable[[Any], Any]:
  """Step (from 0; an int, array or traced) -> learning rate.

  NumPy and Python numbers are computed in float64, JAX arrays in float32. `steps` is the length
  of the whole run.
  """
  if steps < 1:
    raise UsageError(f"--loop.steps {steps}: a schedule needs at least 1")
  if cfg.warmup_steps > steps:
    raise UsageError(
      f"optim.warmup_steps={cfg.warmup_steps} is longer than the run ({steps} steps); lower it"
    )
  curve = SCHEDULES[cfg.schedule]

  def rate(step: Any) -> Any:
    if isinstance(step, jax.Array):
      return cfg.peak_lr * curve(
        step.astype(jnp.float32), cfg.warmup_steps, steps, cfg.final_fraction, jnp
      )
    i = np.asarray(step, np.float64)
    return cfg.peak_lr * curve(i, cfg.warmup_steps, steps, cfg.final_fraction, np)

  return rate


# --- weight decay: which parameters, by path ---

DECAY: dict[str, tuple[tuple[str, bool], ...]] = {
  # Published: one parameter group, so biases, norms, positions and the mask token decay too.
  "everything": ((r"", True),),
  # Common practice: weights of linear and convolution layers alone.
  "matrices": (
    (r"(^|/|_)(bias|scale)$", False),
    (r"(pos_embed|positions/(time|freq)|token)$", False),
    (r"(^|/|_)(kernel|embedding)$", True),
  ),
}


def decay_mask(cfg: OptimConfig, params: Tree) -> Tree:
  """True where weight decay acts."""
  rules = look_up(DECAY[cfg.decay], list(leaves_by_path(params)), f"the decay table {cfg.decay!r}")
  return map_by_path(lambda path, _: rules[path], params)


# --- shares of the learning rate: which parameters learn slower, or not at all ---


def parse_layer_rate(rule: str) -> tuple[re.Pattern[str], float]:
  """(pattern, share) of "PATTERN=SHARE"; UsageError where it is none."""
  pattern, equals, text = rule.rpartition("=")
  try:
    share = float(text)
    if equals and 0 <= share < np.inf:
      return re.compile(pattern), share
  except (ValueError, re.error):
    pass
  raise UsageError(
    f"optim.layer_rates {rule!r}: write PATTERN=SHARE, a regular expression over parameter paths "
    "and a number from 0, such as ^blocks/=0.1"
  )


def layer_shares(cfg: OptimConfig, params: Tree) -> Tree:
  """The share of the learning rate of every parameter; UsageError where a rule fits none."""
  rules = [parse_layer_rate(rule) for rule in cfg.layer_rates]
  paths = list(leaves_by_path(params))
  for (pattern, _), rule in zip(rules, cfg.layer_rates, strict=True):
    if not any(pattern.search(path) for path in paths):
      raise UsageError(
        f"optim.layer_rates {rule!r} fits no parameter; paths look like {paths[0]} and {paths[-1]}"
      )

  def share(path: str, _: Any) -> float:
    return next((share for pattern, share in rules if pattern.search(path)), 1.0)

  return map_by_path(share, params)


def _scale_by_layer(cfg: OptimConfig) -> optax.GradientTransformation:
  def update(directions: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
    shares = layer_shares(cfg, params)
    return jax.tree.map(lambda d, share: d * share, directions, shares), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# --- the optimiser: gradients -> direction to be scaled by the learning rate and subtracted ---


def bias_corrections(count: jax.Array, b1: float, b2: float) -> tuple[jax.Array, jax.Array]:
  """1 - b1**count and 1 - b2**count, f32[], right to float32 rounding.

  `optax.scale_by_adam` takes 1 - 0.999**count in float32, which is off by 1e-5 in the first steps;
  PyTorch takes it in float64, and so a recorded step is met only this way.
  """
  first, second = (
    -jnp.expm1(count * np.log(b)) if b else jnp.ones((), jnp.float32) for b in (b1, b2)
  )
  return first, second


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam's direction; shares the state of `optax.scale_by_adam` (see `bias_corrections`)."""

  def update(grads: Tree, state: optax.ScaleByAdamState, params: Tree = None) -> tuple[Tree, Any]:
    del params
    count = state.count + 1
    first, second = bias_corrections(count, b1, b2)
    mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
    scale = jnp.sqrt(second)
    direction = jax.tree.map(lambda m, v: m / first / (jnp.sqrt(v) / scale + eps), mu, nu)
    return direction, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


def _adam(cfg: OptimConfig, param_axes: ParamAxes) -> optax.GradientTransformation:
  del param_axes
  return scale_by_adam(cfg.beta1, cfg.beta2, cfg.eps)


def _adam_8bit(cfg: OptimConfig, param_axes: ParamAxes) -> optax.GradientTransformation:
  return in_8_bits(_adam(cfg, param_axes), param_axes)


DIRECTIONS: dict[str, Callable[[OptimConfig, ParamAxes], optax.GradientTransformation]] = {
  "adamw": _adam,
  "adamw_8bit": _adam_8bit,
}


def _direction(cfg: OptimConfig, param_axes: ParamAxes = ()) -> optax.GradientTransformation:
  """Clipping by the global norm, if on, then Adam, then a decoupled decay.

  The decay is scaled by the learning rate, as in torch.optim.AdamW. One that is coupled comes
  before Adam, as in torch.optim.Adam, and behind the clipping.
  """
  parts = [optax.clip_by_global_norm(cfg.clip_norm)] if cfg.clip_norm else []
  adam = DIRECTIONS[cfg.name](cfg, param_axes)
  decay = optax.add_decayed_weights(cfg.weight_decay, mask=lambda params: decay_mask(cfg, params))
  adamw = optax.chain(decay, adam) if cfg.coupled_decay else optax.chain(adam, decay)
  scaled = [_scale_by_layer(cfg)] if cfg.layer_rates else []
  return optax.chain(*parts, adamw, *scaled)


@dataclass(frozen=True)
class Optimiser:
  """A configured optimiser: `direction` maps gradients, `rate` maps the step to a learning rate.

  Both work in float32, whatever the parameters are stored in. `kernels` is "auto" where AdamW may
  use those of the CPU (see `update`), and "xla" where not; it is the model's, where that has one.
  """

  cfg: OptimConfig
  direction: optax.GradientTransformation
  rate: Callable[[Any], Any]
  kernels: str = "auto"

  def init(self, params: Tree, param_axes: ParamAxes) -> Tree:
    """The state of `direction` before the first step.

    param_axes: the task's; blocks of 8-bit moments are laid so that meshes do not cut them.
    """
    return _direction(self.cfg, param_axes).init(widen(params))


def make_optimiser(cfg: OptimConfig, steps: int, kernels: str = "auto") -> Optimiser:
  """The optimiser of a run of `steps` steps; `kernels` as in `ComputeConfig`."""
  return Optimiser(cfg, _direction(cfg), learning_rate(cfg, steps), kernels)


def apply_direction(params: Tree, direction: Tree, lr: jax.Array) -> Tree:
  """One update, params - lr * direction, in the dtype of the parameters."""
  return jax.tree.map(lambda p, d: (p - lr * d).astype(p.dtype), params, direction)


def update_ema(ema: Tree, params: Tree, decay: float) -> Tree:
  """The average decay * ema + (1 - decay) * params, written so that equal trees stay equal."""
  return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
