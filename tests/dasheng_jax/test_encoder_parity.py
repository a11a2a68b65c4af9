"""The encoder against recorded arrays of the released one: every intermediate, every input length.

Where the input is synthetic, the comparison starts at the recorded log-mel: the signals have cells
120 dB below their neighbours, in which float32 rounding of the spectrum alone moves the released
outputs by 1e-3 (its own float32 run against float64). From the wave such signals meet that floor,
and natural recordings meet the tolerance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasheng_jax import inference
from dasheng_jax.blocks import unstack_layers
from dasheng_jax.encoder import Encoder
from dasheng_jax.weights.load import load_encoder
from tests.dasheng_jax.conftest import TINY
from tests.dasheng_jax.fixtures import from_int16, golden, worst

TOLERANCE = 1e-4
# What rounding in the log-mel of the synthetic signals does to outputs of size 3.
ROUNDING_FLOOR = 2e-3


@pytest.fixture(scope="module")
def recorded():
  return golden("encoder")


@pytest.fixture(scope="module")
def front_end():
  return golden("frontend")


@pytest.fixture(scope="module")
def embed(tiny):
  return jax.jit(functools.partial(inference.embed, tiny[0], tiny[1]))


@pytest.fixture(scope="module")
def embed_log_mel(tiny):
  return jax.jit(functools.partial(inference.embed_log_mel, tiny[0], tiny[1]))


@pytest.fixture(scope="module")
def pieces(tiny):
  """f(log-mel) -> every intermediate by its recorded name, from the unscanned twin."""
  cfg = tiny[0].with_compute(scan=False)
  params = {**tiny[1]["params"], "blocks": unstack_layers(tiny[1]["params"]["blocks"])}
  encoder, variables = Encoder(cfg), {**tiny[1], "params": params}

  def run(log_mel):
    seen = {}

    def call(method, *inputs):
      out, caught = encoder.apply(
        variables, *inputs, method=method, capture_intermediates=True, mutable=["intermediates"]
      )
      seen.update(caught["intermediates"])
      return out

    patches = call("patches", log_mel)
    tokens = call("positioned", patches)
    out = call("encode", tokens)
    block = seen["blocks"]["layer_0"]
    return {
      "spec_bn": seen["init_bn"]["__call__"][0][:, None],
      "patch": patches.swapaxes(1, 2)[:, :, None],
      "tokens": tokens,
      "block1_attn": block["attn"]["__call__"][0],
      "block1": block["__call__"][0],
      "last_block": seen["blocks"]["layer_2"]["__call__"][0],
      "out": out,
    }

  return jax.jit(run)


def test_every_intermediate(pieces, recorded, front_end):
  ours = pieces(jnp.asarray(front_end["logmel_1s"]))
  errors = {name: worst(value, recorded[f"1s_{name}"]) for name, value in ours.items()}
  assert len(errors) == 7
  assert max(errors.values()) <= TOLERANCE, errors


def test_every_intermediate_of_longer_clips(pieces, dasheng_fixtures):
  recorded = np.load(dasheng_fixtures / "encoder.npz")
  front_end = np.load(dasheng_fixtures / "frontend.npz")
  checked = 0
  for clip in ("clip_3s", "10s"):
    for name, value in pieces(jnp.asarray(front_end[f"logmel_{clip}"])).items():
      if f"{clip}_{name}" in recorded:
        assert worst(value, recorded[f"{clip}_{name}"]) <= TOLERANCE, (clip, name)
        checked += 1
  assert checked == 7


def test_scanned_outputs_from_the_log_mel(embed_log_mel, recorded, front_end):
  for clip in ("1s", "10s"):
    out = embed_log_mel(jnp.asarray(front_end[f"logmel_{clip}"]))
    assert worst(out, recorded[f"{clip}_out"]) <= TOLERANCE, clip


def test_outputs_from_synthetic_waves(embed, recorded, front_end):
  waves = {
    "1s_out": front_end["wave_1s"],
    "10s_out": from_int16(front_end["wave_10s_i16"]),
    # 252 + 60 patches: two chunks.
    "12p5s_out": from_int16(recorded["12p5s_wave_i16"]),
  }
  for name, wave in waves.items():
    assert worst(embed(jnp.asarray(wave[None])), recorded[name]) <= ROUNDING_FLOOR, name


def test_lengths_can_mask_the_last_real_patch(embed, recorded):
  """16480 samples make 26 patches, but floor(16480 / 640) = 25: so released, so ours."""
  wave = jnp.asarray(recorded["offbyone_wave"][None])
  masked, plain = embed(wave, jnp.array([16480])), embed(wave)
  assert worst(masked, recorded["offbyone_out_with_x_length"]) <= ROUNDING_FLOOR
  assert worst(plain, recorded["offbyone_out_without_x_length"]) <= ROUNDING_FLOOR
  assert worst(masked, np.asarray(plain)) > 0.1


@pytest.mark.parametrize("rows", [125, 500])
def test_resized_time_table(tiny_file, recorded, front_end, rows):
  frames = 4 * rows
  embed, params = load_encoder(tiny_file, positions=rows)
  table = np.asarray(params["params"]["positions"]["time"]).T[None, :, None]
  assert worst(table, recorded[f"resize_time_pos_embed_tl{frames}"]) <= 1e-5
  cfg = embed.args[0]
  assert cfg.encoder.positions == rows
  out = jax.jit(functools.partial(inference.embed_log_mel, cfg))(
    params, jnp.asarray(front_end["logmel_1s"])
  )
  assert worst(out, recorded[f"resize_out_1s_tl{frames}"]) <= TOLERANCE


def test_real_recording_from_the_wave(embed, dasheng_fixtures):
  wave = np.load(dasheng_fixtures / "frontend.npz")["wave_clip_3s"]
  expected = np.load(dasheng_fixtures / "encoder.npz")["clip_3s_out"]
  assert worst(embed(jnp.asarray(wave[None])), expected) <= TOLERANCE


def test_batch_with_lengths(embed, dasheng_fixtures):
  """Rows 0 and 1 are synthetic, row 2 a recording; the second chunk of row 2 is padding alone."""
  recorded = np.load(dasheng_fixtures / "encoder.npz")
  wave = jnp.asarray(from_int16(recorded["batch_wave_i16"]))
  lengths = jnp.asarray(recorded["batch_x_length"], jnp.int32)
  out = np.asarray(embed(wave, lengths))
  expected = recorded["batch_out_with_x_length"]
  assert worst(out, expected) <= ROUNDING_FLOOR
  valid = inference.valid_tokens(TINY, lengths)
  assert valid.tolist() == recorded["batch_valid_patches"].tolist()
  assert worst(out[2, : int(valid[2])], expected[2, : int(valid[2])]) <= TOLERANCE
  without = np.asarray(embed(wave))[1]
  assert worst(without, recorded["batch_row1_out_without_x_length"]) <= ROUNDING_FLOOR


def test_hugging_face_variant_up_to_its_block_length(embed, dasheng_fixtures):
  """It agrees in the first 252 patches and is known to be wrong behind them."""
  wave = from_int16(np.load(dasheng_fixtures / "encoder.npz")["batch_wave_i16"][:1])
  theirs = np.load(dasheng_fixtures / "hf_variant.npz")
  out = np.asarray(embed(jnp.asarray(wave)))
  assert worst(out[:, :252], theirs["12p5s_out"][:, :252]) <= ROUNDING_FLOOR
  rest = float(np.abs(out[:, 252:] - theirs["12p5s_out"][:, 252:]).max())
  assert rest == pytest.approx(float(theirs["12p5s_rest_absdiff_vs_official"]), abs=ROUNDING_FLOOR)
