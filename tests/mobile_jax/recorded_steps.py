"""What both networks check of a recorded training step and of six steps of an optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dasheng_jax.weights.table import to_torch
from mobile_jax.weights.names import rules
from tests.mobile_jax.fixtures import Recorded, quick, stage_errors, worst

OPTIMISERS = {
  "sgd": ("sgd_lr1e-3", optax.sgd(1e-3)),
  "adam": ("adam_lr1e-4", optax.adam(1e-4)),
}


def named(step, recorded: Recorded) -> dict[str, np.ndarray]:
  """Gradients and new statistics under the original's names."""
  tree = {"params": step.gradients, "batch_stats": step.batch_stats}
  return to_torch(tree, rules(recorded.cfg))


def statistics(step, recorded: Recorded) -> dict[str, np.ndarray]:
  """New statistics under the original's names."""
  table = [rule for rule in rules(recorded.cfg) if rule.ours.startswith("batch_stats/")]
  return to_torch({"batch_stats": step.batch_stats}, table)


def check_step(step, recorded: Recorded) -> None:
  """Loss, logits, maps and new running statistics of the first step."""
  arrays = recorded.arrays
  assert abs(float(step.loss) - float(arrays["train/loss"])) <= 1e-5
  assert worst(step.outputs.logits, arrays["train/logits"]) <= 1e-4
  assert worst(step.outputs.features, arrays["train/features"]) <= 1e-4
  assert max(stage_errors(step.outputs.stages, arrays, "train/")) <= 1e-4
  found = statistics(step, recorded)
  full = [name for name in arrays if name.startswith("train/running:")]
  assert len(full) == 6
  for name in full:
    assert worst(found[name.split(":")[1]], arrays[name]) <= 1e-5, name
  names = [str(name) for name in arrays["train/running_names"]]
  assert {n for n in found if "running" in n} == set(names)
  for name, total in zip(names, arrays["train/running_sums"], strict=True):
    assert abs(found[name].astype(np.float64).sum() - total) <= 1e-5 * max(1, abs(total)), name
  for name, value in found.items():
    if name.endswith("num_batches_tracked"):
      assert value == recorded.state[name] + 1


def check_gradients(step, recorded: Recorded) -> None:
  """The norm of every gradient, and some gradients number by number."""
  arrays, found = recorded.arrays, named(step, recorded)
  names = [str(name) for name in arrays["train/grad_names"]]
  state = ("running_", "num_batches_tracked")
  assert {n for n in found if not any(s in n for s in state)} == set(names)
  checked = 0
  for name, norm in zip(names, arrays["train/grad_norms"], strict=True):
    ours = np.linalg.norm(found[name].astype(np.float64))
    if np.isnan(norm):  # not used in the original either
      assert ours == 0, name
    elif norm > 1e-6:  # below that the true gradient is zero (reference text, section 0, point 16)
      assert abs(ours - norm) <= 1e-3 * norm, name
      checked += 1
    else:
      assert ours <= 1e-5, name
  assert checked > 0.8 * len(names)
  full = [name for name in arrays if name.startswith("train/grad:")]
  assert len(full) >= (8 if getattr(recorded.cfg, "head", "mlp") == "mlp" else 3)
  for name in full:
    theirs = arrays[name]
    difference = np.linalg.norm((found[name.split(":")[1]] - theirs).astype(np.float64))
    assert difference <= 1e-3 * np.linalg.norm(theirs), name


def check_optimiser_steps(
  name: str,
  optimiser: str,
  train_step,
  inferred,
  recorded: Recorded,
  variables,
  *,
  losses: float,
  steps: int = 6,
) -> None:
  """The loss before each step; after six of plain SGD also what the network then infers."""
  label, rule = OPTIMISERS[optimiser]

  @quick
  def update(gradients, state, params):
    updates, state = rule.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  state, found = rule.init(variables["params"]), []
  for _ in range(steps):
    step = train_step(name, variables)
    found.append(float(step.loss))
    params, state = update(step.gradients, state, variables["params"])
    variables = {"params": params, "batch_stats": step.batch_stats}
  theirs = recorded.arrays[f"steps/{name}_{label}_losses"][:steps]
  np.testing.assert_allclose(found, theirs, rtol=0, atol=losses)
  assert np.abs(np.diff(theirs)).min() > 100 * losses or optimiser == "adam"
  if optimiser == "sgd" and steps == 6:
    out = inferred(name, jax.tree.map(jnp.asarray, variables), 1.0)
    assert worst(out.logits, recorded.arrays[f"steps/{name}_{label}_eval_logits_after"]) <= 2e-4
