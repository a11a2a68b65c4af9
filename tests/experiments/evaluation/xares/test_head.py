"""The linear protocol: steps beside PyTorch's, rounds side by side, which epoch is taken."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation.xares import head
from experiments.evaluation.xares.head import Rounds, Rows
from experiments.evaluation.xares.table import Recipe

CLASSES, WIDTH, COUNT = 3, 6, 57
RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=0.05)


@functools.cache
def problem():
  """Embeddings f32[n, d] whose classes overlap, and the classes i32[n]."""
  draw = np.random.default_rng(0)
  labels = draw.integers(0, CLASSES, COUNT).astype(np.int32)
  centres = draw.normal(size=(CLASSES, WIDTH))
  x = centres[labels] + 1.5 * draw.normal(size=(COUNT, WIDTH))
  return x.astype(np.float32), labels


def rounds_of(*parts):
  """One round for each (train, valid, test)."""
  return Rounds(
    *(Rows.of([np.asarray(part) for part in column]) for column in zip(*parts, strict=True))
  )


SPLIT = (np.arange(30), np.arange(30, 40), np.arange(40, COUNT))


def first(rounds):
  return jax.tree.map(lambda part: jnp.asarray(part[0]), rounds)


@pytest.mark.torch
@pytest.mark.parametrize("metric", ["accuracy", "mAP"])
def test_steps_are_those_of_pytorch(torch, metric):
  """The same start and the same batches through torch's layers, losses and Adam."""
  x, labels = problem()
  targets = labels if metric == "accuracy" else np.eye(CLASSES, dtype=np.float32)[labels]
  recipe = dataclasses.replace(RECIPE, metric=metric)
  parts, key = first(rounds_of(SPLIT)), jax.random.key(3)
  _, last, _ = head.fit_head(
    jnp.asarray(x), jnp.asarray(targets), parts, key, recipe=recipe, classes=CLASSES
  )
  start, order = jax.random.split(key)
  params = head.initial(start, WIDTH, CLASSES)
  norm, linear = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, CLASSES)
  with torch.no_grad():
    linear.weight.copy_(torch.from_numpy(np.array(params["kernel"].T)))
    linear.bias.copy_(torch.from_numpy(np.array(params["bias"])))
  adam = torch.optim.Adam([*norm.parameters(), *linear.parameters()], lr=1.0)
  for epoch in range(recipe.epochs):
    # ignite's CosineAnnealingScheduler from the rate to a tenth, once before every epoch.
    turn = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
    adam.param_groups[0]["lr"] = 0.005 + 0.045 * turn
    batches = head.shuffled(jax.random.fold_in(order, epoch), parts.train, recipe.batch_size)
    for index, real in zip(*map(np.asarray, batches), strict=True):
      rows = index[real]
      found = linear(norm(torch.from_numpy(x[rows])))
      if metric == "accuracy":
        loss = torch.nn.CrossEntropyLoss()(found, torch.from_numpy(labels[rows]).long())
      else:
        loss = torch.nn.BCEWithLogitsLoss()(found, torch.from_numpy(targets[rows]))
      adam.zero_grad()
      loss.backward()
      adam.step()
  want = linear(norm(torch.from_numpy(x))).detach().numpy()
  np.testing.assert_allclose(head.logits(last, jnp.asarray(x)), want, atol=1e-4)


def test_a_head_learns_and_seeds_differ():
  x, labels = problem()
  tags = np.eye(CLASSES, dtype=np.float32)[labels]
  recipe = dataclasses.replace(RECIPE, metric="mAP", epochs=6)
  found = head.train_heads(x, tags, rounds_of(SPLIT), recipe, CLASSES, seeds=3)
  assert found.best.shape == found.last.shape == found.best_epoch.shape == (1, 3)
  assert found.last.mean() > 0.5  # a third by chance
  assert len(set(found.last[0])) == 3
  assert set(found.best_epoch[0]) <= set(range(1, 7))


def test_an_epoch_is_every_real_row_once():
  train = Rows.of([np.arange(30), np.arange(40, COUNT)])
  short = jax.tree.map(lambda part: jnp.asarray(part[1]), train)
  orders = []
  for epoch in range(2):
    batches = head.shuffled(jax.random.key(epoch), short, RECIPE.batch_size)
    at, real = np.asarray(batches.at), np.asarray(batches.real)
    assert at.shape == real.shape == (4, 8)
    assert sorted(at[real]) == list(range(40, COUNT))
    assert not real[3].any()  # 17 rows are three batches of 8
    orders.append(at[real].tolist())
  assert orders[0] != orders[1]


def test_empty_batches_change_nothing():
  x, labels = problem()
  parts = first(rounds_of((np.arange(8), np.arange(30, 40), np.arange(40, COUNT))))
  longer = Rows(jnp.pad(parts.train.at, (0, 16)), jnp.pad(parts.train.real, (0, 16)))
  recipe = dataclasses.replace(RECIPE, epochs=1)
  fit = functools.partial(
    head.fit_head, jnp.asarray(x), jnp.asarray(labels), recipe=recipe, classes=CLASSES
  )
  # One batch holds all eight rows, so their order decides nothing.
  _, want, _ = fit(parts, jax.random.key(1))
  _, found, _ = fit(parts._replace(train=longer), jax.random.key(1))
  for name in want:
    np.testing.assert_allclose(found[name], want[name], atol=1e-6)


def test_the_earliest_best_epoch_is_taken():
  x, labels = problem()
  x = 10 * np.eye(CLASSES, WIDTH, dtype=np.float32)[labels] + 0.1 * x
  recipe = Recipe(epochs=5, batch_size=8, learning_rate=0.1)
  found = head.train_heads(x, labels, rounds_of(SPLIT), recipe, CLASSES)
  assert found.best[0, 0] == found.last[0, 0] == 1
  assert found.best_epoch[0, 0] < 5
  # The validation part contradicts the training: none of its rows is right, in any epoch.
  wrong = labels.copy()
  wrong[30:40] = (labels[30:40] + 1) % CLASSES
  found = head.train_heads(x, wrong, rounds_of(SPLIT), recipe, CLASSES)
  assert found.best_epoch[0, 0] == 1


def test_rates():
  recipe = Recipe(epochs=4, learning_rate=1.0)
  want = [1, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2, 0.55]
  np.testing.assert_allclose([head.rate_of_epoch(recipe, n) for n in range(3)], want, rtol=1e-6)
  assert head.rate_of_epoch(Recipe(epochs=1), 0) == pytest.approx(1e-3)
