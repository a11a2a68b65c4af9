"""Candidates of one program: against PyTorch, against each other, and when they stop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation.hear import network
from experiments.evaluation.hear.grid import Grid, Point
from experiments.evaluation.hear.looks import _inside
from experiments.evaluation.hear.predictor import Data, fit, predict
from experiments.training.errors import UsageError

RNG = np.random.default_rng(0)
GRID = Grid(hidden=8, dropout=0.0, batch_size=64, check_every=3, patience=2, max_epochs=12)
KEYS = [jax.random.key(i) for i in range(3)]
INITIAL = jax.jit(network.initial, static_argnums=1)


def data(train=41, valid=20, width=6, labels=3):
  classes = [np.arange(n) % labels for n in (train, valid)]
  x = [RNG.standard_normal((len(c), width)) + 5 * np.eye(width)[c] for c in classes]
  y = [np.eye(labels)[c] for c in classes]
  return Data(*(jnp.float32(part) for part in (x[0], y[0], x[1], y[1])))


DATA = data()


def test_the_points_are_those_of_the_public_package():
  """Its shuffle of the sixteen, as its run records them."""
  points = Grid().drawn(8)
  assert len(set(points)) == 8
  assert set(Grid().drawn(16)) == set(Grid().points)
  assert points[:2] == (Point(1, "normal", 1e-4), Point(2, "uniform", 1e-3))
  assert points[-1] == Point(2, "uniform", 3.2e-3)
  with pytest.raises(UsageError, match="17"):
    Grid().drawn(17)


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_training_is_pytorch_s(torch, depth, tags):
  """Batch norm, its running statistics, the loss, Adam and the order of the batches."""
  grid = dataclasses.replace(GRID, max_epochs=3, batch_size=16)  # twice, and 9 rows
  point = Point(depth, "uniform", 1e-3)
  (best,) = fit([point], grid, DATA, _inside("loss", tags), tags, KEYS[:1])
  sizes = (6, *[8] * depth, 3)
  begin, _ = INITIAL(jax.random.fold_in(KEYS[0], 0), sizes, jnp.array(True))
  layers = []
  for i, layer in enumerate(begin):
    linear = torch.nn.Linear(*layer["kernel"].shape)
    linear.weight.data = torch.tensor(np.asarray(layer["kernel"]).T.copy())
    linear.bias.data = torch.tensor(np.array(layer["bias"]))
    layers.append(linear)
    if i < depth:
      linear.bias.requires_grad_(False)  # batch norm takes it out: its gradient is rounding
      layers += [torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.0), torch.nn.ReLU()]
  model = torch.nn.Sequential(*layers)
  adam = torch.optim.Adam(model.parameters(), lr=1e-3)
  x, y, valid = (torch.tensor(np.array(a)) for a in (DATA.train_x, DATA.train_y, DATA.valid_x))
  for _ in range(3):
    for at in range(0, 41, 16):
      logits = model(x[at : at + 16])
      if tags:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[at : at + 16])
      else:
        loss = torch.nn.functional.cross_entropy(logits, y[at : at + 16].argmax(1))
      adam.zero_grad()
      loss.backward()
      adam.step()
  model.eval()
  with torch.no_grad():
    expected = model(valid).numpy()
  # nine steps of Adam; within its division by small second moments
  np.testing.assert_allclose(predict(best, DATA.valid_x, 16), expected, atol=1e-4)


def test_initial_values():
  params, stats = INITIAL(KEYS[0], (300, 200, 5), jnp.array(True))
  first, last = (np.asarray(layer["kernel"]) for layer in params)
  assert np.abs(first).max() == pytest.approx(np.sqrt(6 / 500), rel=0.01)
  assert last.std() == pytest.approx(np.sqrt(2) * np.sqrt(2 / 205), rel=0.1)
  assert np.abs(params[0]["bias"]).max() <= 1 / np.sqrt(300)
  assert "scale" not in params[1]
  normal = np.asarray(INITIAL(KEYS[0], (300, 200, 5), jnp.array(False))[0][0]["kernel"])
  assert normal.std() == pytest.approx(np.sqrt(2 / 500), rel=0.02)
  assert np.abs(normal).max() > 3 * normal.std()
  assert len(stats) == 1


def test_dropout_drops_its_share_in_training_alone():
  params, stats = INITIAL(KEYS[0], (6, 400, 400), jnp.array(True))
  params[1]["kernel"], params[1]["bias"] = jnp.eye(400), jnp.zeros(400)
  params[0]["shift"] = jnp.full(400, 10.0)  # above zero, whatever comes
  x = jnp.float32(RNG.standard_normal((50, 6)))
  train = jax.jit(network.train, static_argnums=4)
  dropped, kept = (train(params, stats, x, KEYS[0], share)[0] for share in (0.1, 0.0))
  zero = np.asarray(dropped) == 0
  assert zero.mean() == pytest.approx(0.1, abs=0.01)
  np.testing.assert_allclose(dropped[~zero], np.asarray(kept)[~zero] / 0.9, rtol=1e-5)
  assert (network.infer(params, stats, x) > 0).all()


POINTS = [Point(1, "uniform", 1e-2), Point(1, "normal", 1e-3)]
ONE = POINTS[:1]


def test_company_changes_nothing():
  """Side by side, or one by one."""
  grid = dataclasses.replace(GRID, dropout=0.1)
  look = _inside("loss", False)
  together = fit(POINTS, grid, DATA, look, False, KEYS)
  apart = fit(POINTS, grid, DATA, look, False, KEYS, 1)
  for a, b in zip(together, apart, strict=True):
    assert (int(a.look), int(a.looks)) == (int(b.look), int(b.looks))
    # within the float32 noise of twelve steps
    assert float(a.score) == pytest.approx(float(b.score), abs=1e-4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a.params, b.params)
  assert float(together[0].score) != float(together[1].score)


def test_a_candidate_learns_until_the_end():
  grid = dataclasses.replace(GRID, max_epochs=30)
  (best,) = fit(ONE, grid, DATA, _inside("loss", False), False, KEYS[:1])
  assert int(best.looks) == 10
  assert (predict(best, DATA.valid_x, 7).argmax(1) == DATA.valid_y.argmax(1)).mean() > 0.9


def test_patience_counts_looks_without_a_better_score():
  grid = dataclasses.replace(GRID, max_epochs=300)

  def same(logits, targets):
    return jnp.float32(1.0), jnp.int32(5)

  (best,) = fit(ONE, grid, DATA, same, False, KEYS[:1])
  assert (int(best.look), int(best.looks), int(best.choice)) == (0, 3, 5)

  def nothing(logits, targets):
    return jnp.float32(jnp.nan), jnp.int32(0)

  assert int(fit(ONE, grid, DATA, nothing, False, KEYS[:1])[0].looks) == 1


def test_the_best_look_is_kept():
  """What is kept answers as it did at that look, though training went on."""
  grid = dataclasses.replace(GRID, max_epochs=300, patience=5)

  def near(logits, targets):
    return -jnp.abs(jnp.std(logits) - 1.0), jnp.int32(0)

  (best,) = fit(ONE, grid, DATA, near, False, KEYS[:1])
  assert 0 < int(best.look) == int(best.looks) - 6
  logits = predict(best, DATA.valid_x, 16)
  assert -abs(float(np.std(logits)) - 1.0) == pytest.approx(float(best.score), abs=1e-5)


def test_a_single_row_at_the_end_of_an_epoch_is_left_out():
  grid = dataclasses.replace(GRID, max_epochs=3)
  odd = dataclasses.replace(grid, batch_size=32)
  (best,) = fit(ONE, odd, data(train=33), _inside("loss", False), False, KEYS[:1])
  assert np.isfinite(float(best.score))
