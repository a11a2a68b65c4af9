"""`experiments.finetune` with networks of two blocks, one with SE and a stride."""

from experiments.configs.finetune import EXPERIMENTS
from experiments.supervised.run import run
from experiments.training import cli
from mobile_jax import config

if __name__ == "__main__":
  config._TABLE = tuple(config._TABLE[i] for i in (0, 3))
  cli.run_main(run, EXPERIMENTS, prog="finetune")
