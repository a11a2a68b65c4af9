"""Writes tests/golden/dasheng_*.npz from the complete fixtures.

    python -m tests.dasheng_jax.make_golden ../shared/fixtures/dasheng

Only arrays of random weights and synthetic signals are taken, which may be passed on. Whatever
comes from other people's recordings stays out; the tests that need it read the complete fixtures.
"""

import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"

FRONTEND = (
  *("wave_1s", "melpower_1s", "logmel_1s", "logmel_1s_f64", "wave_10s_i16", "logmel_10s"),
  *("wave_quiet_1s", "logmel_quiet_alone", "logmel_batch_1s_and_quiet", "window", "mel_fb"),
  *("frame_count_n_samples", "frame_count_n_frames"),
  *("wave_n257", "logmel_n257", "wave_n1119", "logmel_n1119"),
)
ENCODER = (
  *("1s_spec_bn", "1s_patch", "1s_tokens", "1s_block1_attn", "1s_block1", "1s_last_block"),
  *("1s_out", "10s_out", "12p5s_out"),
  *("offbyone_wave", "offbyone_out_with_x_length", "offbyone_out_without_x_length"),
  *("resize_time_pos_embed_tl500", "resize_out_1s_tl500"),
  *("resize_time_pos_embed_tl2000", "resize_out_1s_tl2000"),
  *("length_table_n_samples", "length_table_n_out"),
)
MAE = (
  *("noise", "ids_shuffle", "ids_restore", "mask", "random_noise", "random_mask"),
  *("random_ids_restore", "group5_noise", "group5_mask", "group5_ids_restore"),
  *("group2_ratio08_mask", "group2_ratio08_ids_restore"),
  *("flat_pred", "flat_target", "flat_mask", "flat_loss", "flat_loss_f64"),
)


def main(source: pathlib.Path) -> None:
  """Selects, narrows the integers, compresses."""
  encoder = np.load(source / "encoder.npz")
  weights = load_file(source / "tiny_encoder.safetensors")
  front_end = [name for name in weights if name.startswith("front_end")]
  for name in front_end:  # stored once, with the front end's arrays
    del weights[name]
  picked = {
    "frontend": _pick(np.load(source / "frontend.npz"), FRONTEND),
    "encoder": {
      **_pick(encoder, ENCODER),
      # Row 0 is synthetic; its embeddings alone are 12p5s_out.
      "12p5s_wave_i16": encoder["batch_wave_i16"][0],
      **{f"weights/{name}": value for name, value in weights.items()},
    },
    "mae": _pick(np.load(source / "mae.npz"), MAE),
  }
  for name, arrays in picked.items():
    np.savez_compressed(GOLDEN / f"dasheng_{name}.npz", **arrays)


def _pick(arrays, names) -> dict[str, np.ndarray]:
  narrow = {name: arrays[name] for name in names}
  return {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in narrow.items()}


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
