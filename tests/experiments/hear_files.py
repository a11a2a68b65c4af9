"""Small weight files for `make test-hear`: python -m tests.experiments.hear_files FOLDER."""

import functools
import pathlib
import sys

import jax

import dasheng_jax.mae
import mobile_jax
from dasheng_jax.config import DashengConfig, EncoderConfig
from dasheng_jax.weights.files import write_encoder_file


def main(folder: pathlib.Path) -> None:
  """Writes mn.safetensors (mn01), dymn.safetensors (dymn04) and dasheng.safetensors."""
  folder.mkdir(parents=True, exist_ok=True)
  for family, size in (("mn", "mn01"), ("dymn", "dymn04")):
    cfg = mobile_jax.SIZES[size]
    variables = jax.jit(functools.partial(mobile_jax.init_variables, cfg))(jax.random.key(0))
    mobile_jax.write_model(folder / f"{family}.safetensors", cfg, variables)
  cfg = DashengConfig(encoder=EncoderConfig(64, 2, 2))
  start = jax.jit(functools.partial(dasheng_jax.mae.init_variables, cfg))(jax.random.key(0))
  encoder = {name: start[name]["encoder"] for name in ("params", "batch_stats")}
  write_encoder_file(folder / "dasheng.safetensors", cfg, encoder)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
