r"""Retraces a recorded training run of the PyTorch original, loss by loss.

    python -m experiments.retrace_curve --fixtures FOLDER --out retrace.png

Starts from the recorded weights and takes the recorded clips, masks and learning rates. What
remains is arithmetic, so the losses have to agree until rounding drives the two runs apart.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dasheng_jax.config import BatchNormGradient, DashengConfig, DecoderConfig, EncoderConfig
from dasheng_jax.loss import masked_mse
from dasheng_jax.mae import init_variables, reconstruct
from dasheng_jax.masking import mask_from_noise
from dasheng_jax.weights.names import autoencoder_rules
from dasheng_jax.weights.table import from_torch
from experiments.training import cli
from experiments.training.errors import UsageError
from experiments.training.optim import OptimConfig, apply_direction, make_optimiser
from experiments.training.pictures import compare_curves
from pipelines.mel import log_mel

# How far float32 and float64 runs of the original itself stay together (README of the recording).
COMPARABLE_STEPS = 50


@dataclasses.dataclass(frozen=True)
class RetraceConfig:
  """Which recording to retrace, and how."""

  fixtures: str = "../shared/fixtures/dasheng/curve"  # folder with curve.npz and the clips
  out: str = ""  # picture of both curves; empty: none
  steps: int = 100  # of the recording's 100
  bn_gradient: BatchNormGradient = "torch_cpu"  # "exact" shows what the original's defect does


@dataclasses.dataclass(frozen=True)
class Retraced:
  """Losses before each step: ours in float32, recorded in float32 and in float64."""

  ours: np.ndarray
  recorded: np.ndarray
  recorded_f64: np.ndarray

  def worst(self, steps: int = COMPARABLE_STEPS) -> float:
    """Largest relative difference to the float32 recording over the first steps."""
    return float(np.max(np.abs(self.ours / self.recorded - 1)[:steps]))


def retrace(folder: Path, steps: int, bn_gradient: BatchNormGradient) -> Retraced:
  """Runs the recorded steps. Raises UsageError where the recording is absent."""
  import soundfile
  from safetensors.numpy import load_file

  if not (folder / "curve.npz").is_file():
    raise UsageError(f"--fixtures {folder}: holds no curve.npz; name the folder of the recording")
  record = np.load(folder / "curve.npz")
  cfg = DashengConfig(
    encoder=EncoderConfig(64, 4, 4), decoder=DecoderConfig(48, 2, 4), bn_gradient=bn_gradient
  )
  shapes = jax.eval_shape(lambda key: init_variables(cfg, key), jax.random.key(0))
  state = load_file(folder / "initial.safetensors")
  # The recording holds float arrays only, so the counter of batches starts anew.
  state.setdefault("encoder.init_bn.1.num_batches_tracked", np.zeros((), np.int64))
  rules = autoencoder_rules(cfg)
  tree = from_torch(state, rules, shapes, ignore=(r"encoder\.front_end\..*",), source=str(folder))
  variables = jax.tree.map(jnp.asarray, tree)
  names = sorted(folder.glob("clip*.flac"))
  clips = np.stack([soundfile.read(n, dtype="int16")[0].astype(np.float32) / 32767 for n in names])
  optimiser = make_optimiser(OptimConfig(schedule="constant", warmup_steps=0), steps)

  def loss_of(params: Any, stats: Any, wave: jax.Array, noise: jax.Array) -> tuple[jax.Array, Any]:
    spectrum = log_mel(wave, cfg.mel)
    patches = spectrum.shape[2] // cfg.patch_frames
    masking = mask_from_noise(noise, patches, cfg.mask_ratio, cfg.mask_group)
    both = {"params": params, "batch_stats": stats}
    pred, target, stats = reconstruct(cfg, both, spectrum, masking, train=True)
    return masked_mse(pred, target, masking.hidden), stats

  @jax.jit
  def step(carry: Any, wave: jax.Array, noise: jax.Array, rate: jax.Array) -> tuple[Any, jax.Array]:
    params, stats, opt_state = carry
    value = jax.value_and_grad(loss_of, has_aux=True)
    (loss, stats), grads = value(params, stats, wave, noise)
    direction, opt_state = optimiser.direction.update(grads, opt_state, params)
    return (apply_direction(params, direction, rate), stats, opt_state), loss

  params = variables["params"]
  carry = (params, variables["batch_stats"], optimiser.direction.init(params))
  losses = []
  for i in range(steps):
    noise = jnp.asarray(record["noise"][i], jnp.float32)
    rate = jnp.float32(record["lr"][i])
    carry, loss = step(carry, jnp.asarray(clips[record["order"][i]]), noise, rate)
    losses.append(float(loss))
  return Retraced(np.array(losses), record["loss"][:steps], record["loss_f64"][:steps])


def main(cfg: RetraceConfig) -> None:
  """Prints the differences and draws the picture."""
  result = retrace(Path(cfg.fixtures), cfg.steps, cfg.bn_gradient)
  own = np.max(np.abs(result.recorded / result.recorded_f64 - 1)[:COMPARABLE_STEPS])
  print(f"largest relative difference of the loss over the first {COMPARABLE_STEPS} steps")
  print(f"  ours to the recording (float32):          {result.worst():.2e}")
  print(f"  the recording's own float32 to float64:   {own:.2e}")
  if cfg.out:
    shown = Retraced(*(x[:COMPARABLE_STEPS] for x in dataclasses.astuple(result)))
    print(f"  picture: {compare_curves(shown.ours, shown.recorded, cfg.out)}")


if __name__ == "__main__":
  cli.run_main(
    main,
    {"curve": RetraceConfig()},
    prog="retrace_curve",
    default="curve",
    description=(__doc__ or "").split("\n")[0],
  )
