"""Two processes on this machine fine-tune as one does, and leave one report."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import soundfile

from experiments.training.metrics import read_metrics
from tests.faults.processes import free_port
from tests.pipelines.conftest import tone

ROOT = pathlib.Path(__file__).resolve().parents[3]
FLAGS = """
  --config own --model.width 0.1 --model.mel.mel_bins 32 --model.dropout 0
  --model.compute.kernels xla --data.crop_seconds 0.2 --augment.roll 100 --loop.epochs 3
  --loop.batch_size 4 --loop.log_every 1
"""


def start(audio, workdir, **more):
  command = [sys.executable, "-m", "tests.experiments.supervised.short_finetune", *FLAGS.split()]
  command += ["--data.source", f"folder={audio}", "--workdir", str(workdir)]
  variables = {
    **os.environ,
    **more,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1",
  }
  return subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)


def ended(processes):
  return [(p.communicate(timeout=600)[1], p.returncode) for p in processes]


@pytest.mark.slow
def test_two_processes_fine_tune_as_one(tmp_path):
  for part, count in (("train", 10), ("test", 5)):
    for n in range(count):
      path = tmp_path / "audio" / part / ("low", "high")[n % 2] / f"{n}.wav"
      path.parent.mkdir(parents=True, exist_ok=True)
      soundfile.write(path, tone(3 + 90 * (n % 2) + n, 0.25, 32_000), 32_000)
  audio, one, two = tmp_path / "audio", tmp_path / "one", tmp_path / "two"
  port = free_port()
  runs = ended([start(audio, one)])
  runs += ended(
    [
      start(
        audio,
        two,
        JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
        JAX_NUM_PROCESSES="2",
        JAX_PROCESS_ID=str(number),
      )
      for number in range(2)
    ]
  )
  assert [code for _, code in runs] == [0, 0, 0], [text[-2000:] for text, _ in runs]
  want, got = (list(read_metrics(folder / "metrics.jsonl")) for folder in (one, two))
  assert [(r["part"], r["step"]) for r in want] == [(r["part"], r["step"]) for r in got]
  for theirs, ours in zip(want, got, strict=True):
    for name in ("loss", "grad_norm", "accuracy", "log_loss"):
      if name in theirs:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (ours["step"], name)
  reports = [json.loads((folder / "report.json").read_text()) for folder in (one, two)]
  assert reports[1] == {
    name: x if isinstance(x, str) else pytest.approx(x, rel=1e-4) for name, x in reports[0].items()
  }
  assert (two / "export" / "model.safetensors").is_file()
