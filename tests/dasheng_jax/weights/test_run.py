"""The encoder of a run without an export: what its checkpoints hold, and what is refused."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax.blocks import unstack_layers
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.files import write_encoder_file
from dasheng_jax.weights.load import load_encoder, read_encoder
from dasheng_jax.weights.run import newest_step, read_autoencoder
from experiments.training import config_io
from experiments.training.checkpoint import Checkpoints
from experiments.training.dasheng_task import encoder_of
from experiments.training.state import TrainState
from tests.experiments.tiny_pretrain import MODEL, drawn_variables, quick_compiles


def state_at(step, model, ema):
  """A state like that of a run: other numbers at every step, in parameters and their average."""
  start = drawn_variables()
  add = lambda x, by: jnp.asarray(np.asarray(x) + np.asarray(by, x.dtype))  # noqa: E731
  moved = functools.partial(jax.tree.map, add)
  params = start["params"]
  if not model.compute.scan:
    params = {k: v | {"blocks": unstack_layers(v["blocks"])} for k, v in params.items()}
  same = lambda tree, by: moved(tree, jax.tree.map(lambda _: by, tree))  # noqa: E731
  count = jnp.int32(step)
  return TrainState(
    step=count,
    params=same(params, 0.01 * step),
    model_state=same(start["batch_stats"], step),
    opt_state={"moment": same(params, -1.0)},
    ema=same(params, 0.003 * step) if ema else None,
    skipped=count,
    skipped_in_row=count,
  )


def write_run(folder, model=MODEL, ema=True):
  """A run that was killed after its checkpoints of steps 2 and 10, and the encoder of the last."""
  config = {"model": config_io.to_dict(model)}
  with Checkpoints(folder / "checkpoints", config=config, seed=0, keep=9) as checkpoints:
    for step in (2, 10):
      checkpoints.save(state_at(step, model, ema), wait=True)
  return encoder_of(state_at(10, model, ema))


def assert_same_tree(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  """(folder, encoder of its newest checkpoint)."""
  folder = tmp_path_factory.mktemp("killed")
  return folder, write_run(folder)


def test_a_run_without_an_export_gives_what_it_would_export(killed, tmp_path):
  folder, encoder = killed
  write_encoder_file(tmp_path / "encoder.safetensors", MODEL, encoder)
  wave = 0.1 * jax.random.normal(jax.random.key(0), (1, 6400))
  with quick_compiles():
    outputs = []
    for path in (folder, tmp_path):
      embed, params = load_encoder(path)
      outputs.append(jax.jit(embed)(params, wave))
      assert_same_tree(params, encoder)
  np.testing.assert_array_equal(*outputs)
  assert read_encoder(folder)[0].encoder == MODEL.encoder


def test_any_folder_of_a_run_will_do(killed):
  folder, newest = killed
  checkpoints = folder / "checkpoints"
  for path in (checkpoints, checkpoints / "10"):
    assert_same_tree(read_encoder(path)[1], newest)
  older = read_encoder(checkpoints / "2")[1]
  assert_same_tree(older, encoder_of(state_at(2, MODEL, True)))
  assert (older["params"]["norm"]["scale"] != newest["params"]["norm"]["scale"]).any()


def test_the_way_a_run_computes_is_not_the_models(tmp_path):
  """Unscanned layers, bfloat16, no moving average: the same encoder in the usual form."""
  model = dataclasses.replace(MODEL, target_norm="global")
  model = model.with_compute(scan=False, dtype="bfloat16", remat="block", attention="cudnn")
  encoder = write_run(tmp_path, model, ema=False)
  cfg, variables = read_encoder(tmp_path)
  assert_same_tree(variables, encoder)
  assert cfg == dataclasses.replace(MODEL, target_norm="global")
  cfg, variables = read_encoder(tmp_path, heads=2, positions=5)
  assert variables["params"]["positions"]["time"].shape == (cfg.encoder.positions, 32) == (5, 32)
  with pytest.raises(WeightsError, match="has 2 heads; leave heads=4 out"):
    read_encoder(tmp_path, heads=4)


@pytest.mark.parametrize("scan", [True, False])
def test_the_whole_model_is_read_for_its_loss(tmp_path, scan):
  model = MODEL.with_compute(scan=scan)
  encoder = write_run(tmp_path, model, ema=False)
  cfg, variables = read_autoencoder(newest_step(tmp_path))
  state = state_at(10, MODEL, False)
  assert cfg == MODEL
  assert_same_tree(variables, {"params": state.params, "batch_stats": state.model_state})
  assert_same_tree({kind: halves["encoder"] for kind, halves in variables.items()}, encoder)


def test_a_checkpoint_still_being_written_is_not_there(killed, tmp_path):
  shutil.copytree(killed[0] / "checkpoints" / "10", tmp_path / "12.orbax-checkpoint-tmp-3")
  with pytest.raises(WeightsError, match=r"neither encoder.safetensors nor a checkpoint; pass the"):
    read_encoder(tmp_path)


def change_meta(step, change):
  path = step / "meta" / "metadata"
  meta = json.loads(path.read_text())
  change(meta)
  path.write_text(json.dumps(meta))


def flip(step):
  """Another number where the checksum says so."""
  key = "ema/encoder/norm/scale"
  change_meta(step, lambda m: m["arrays"][key].__setitem__(2, m["arrays"][key][2] ^ 1))


def blank(step):
  for path in (step / "state").rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (flip, r"damaged checkpoint: checksum of ema/encoder/norm/scale \(1 arrays\); pass .*/2 inst"),
    (blank, "damaged checkpoint: .*; pass .*/2 instead"),
    (lambda s: (s / "meta" / "metadata").write_text('{"config": '), "meta/metadata: .*; pass .*/2"),
    (lambda s: (s / "meta" / "metadata").write_text("[]"), "meta/metadata is no json object"),
    (
      lambda s: change_meta(s, lambda m: m["config"].pop("model")),
      "no checkpoint of a Dasheng run",
    ),
    (
      lambda s: change_meta(s, lambda m: m["config"]["model"]["encoder"].update(rotary=1)),
      "model.encoder was saved by another version .* knows rotary",
    ),
    (
      lambda s: change_meta(s, lambda m: m["config"]["model"]["encoder"].update(width="32")),
      "model.encoder.width is '32', not a int",
    ),
    (
      lambda s: change_meta(s, lambda m: m["config"]["model"]["encoder"].update(width=48)),
      r"its ema/encoder/.* is not that of the model it names",
    ),
    (
      lambda s: change_meta(s, lambda m: m["config"]["model"]["encoder"].update(heads=5)),
      "width 32 is not divisible by 5 heads",
    ),
  ],
)
def test_damaged_and_foreign_checkpoints_are_refused(killed, tmp_path, damage, message):
  run = tmp_path / "run"
  shutil.copytree(killed[0], run)
  damage(run / "checkpoints" / "10")
  with pytest.raises(WeightsError, match=message) as caught:
    read_encoder(run)
  assert str(caught.value).startswith(str(run / "checkpoints" / "10"))
  assert "\n" not in str(caught.value)
