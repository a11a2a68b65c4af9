"""A small task with all that a real one has: scanned layers, batch statistics, noise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.task import Task

D, M, H, LAYERS, ROWS = 16, 32, 8, 2, 16

PARAM_AXES = (
  (r"blocks/up/kernel$", ("embed", "mlp")),
  (r"blocks/down/kernel$", ("mlp", "embed")),
  (r"head/kernel$", ("embed", "heads")),
  (r"(bias|scale|mask_token)$", ()),
)


def init(key):
  # One draw for all: each call of the generator costs a second of compile time.
  up, down, head = jnp.split(jax.random.normal(key, (LAYERS, D, 2 * M + H)), (M, 2 * M), axis=2)
  params = {
    "blocks": {
      "up": {"kernel": up / 4, "bias": jnp.zeros((LAYERS, M))},
      "down": {"kernel": down.swapaxes(1, 2) / 6},
    },
    "head": {"kernel": head[0] / 4},
    "norm": {"scale": jnp.ones((D,)), "bias": jnp.zeros((D,))},
    "mask_token": jnp.full((D,), 0.1),
  }
  return {"params": params, "model_state": {"norm": {"mean": jnp.zeros((D,))}}}


def loss(params, model_state, batch, key, train, *, noise=0.1, statistics=True):
  x = batch["wave"]
  mean = model_state["norm"]["mean"]
  if train and statistics:
    batch_mean = jnp.mean(x, axis=0)
    model_state = {"norm": {"mean": 0.9 * mean + 0.1 * batch_mean}}
    mean = batch_mean
  x = (x - mean[None]) * params["norm"]["scale"][None] + params["norm"]["bias"][None]
  draw = jax.random.normal(key, x.shape)
  x = x + noise * draw + params["mask_token"][None]

  def block(x, p):
    hidden = jnp.tanh(x @ p["up"]["kernel"] + p["up"]["bias"][None])
    return x + hidden @ p["down"]["kernel"], None

  x, _ = jax.lax.scan(block, x, params["blocks"])
  per_row = jnp.mean((x @ params["head"]["kernel"] - batch["target"]) ** 2, axis=1)
  weight = batch.get("mask", jnp.ones(per_row.shape, bool)).astype(jnp.float32)
  weight = weight * batch.get("valid", jnp.ones(per_row.shape, jnp.int32))
  counted = jnp.sum(weight)
  value = jnp.sum(per_row * weight) / jnp.maximum(counted, 1)
  return value, (model_state, {"draw": jnp.mean(draw), "counted": counted})


TASK = Task(init, loss, PARAM_AXES)
# The same loss however the batch is cut.
SMOOTH = Task(init, partial(loss, noise=0.0, statistics=False), PARAM_AXES)


def batch(step, rows=ROWS):
  """The batch of a step: a pure function of it, on the host."""
  rng = np.random.default_rng(step)
  wave = rng.standard_normal((rows, D), np.float32) + 0.5
  return {"wave": wave, "target": np.tanh(wave[:, :H] - wave[:, H:])}
