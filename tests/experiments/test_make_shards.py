import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from experiments import bench_pipeline, make_shards
from pipelines import DataConfig, DataError, index, open_dataset


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv(index.CACHE_VARIABLE, str(tmp_path / "cache"))
  (tmp_path / "set").mkdir()
  for i in range(6):
    wave = np.random.default_rng(i).normal(0, 0.1, 1600 + i)
    soundfile.write(tmp_path / f"set/{i}.flac", wave, 16_000)
  return tmp_path / "set"


def test_make_shards_from_the_shell(folder, tmp_path):
  command = [sys.executable, "-m", "experiments.make_shards", str(folder), str(tmp_path / "out")]
  done = subprocess.run([*command, "--kind", "tar"], capture_output=True, text=True, check=True)
  assert "1 shards, 1 made now (6 recordings" in done.stdout
  assert len(open_dataset(DataConfig(source=(str(tmp_path / "out"),))).ids) == 6
  failed = subprocess.run([*command, "--kind", "zip"], capture_output=True, text=True, check=False)
  assert failed.returncode == 2
  assert failed.stderr.count("\n") == 1
  assert "choose one of tfrecord, tar" in failed.stderr


def test_make_shards_needs_a_destination(folder):
  with pytest.raises(ValueError, match="needs a SOURCE and a DEST"):
    make_shards.main(make_shards.MakeShards(paths=(str(folder),)))
  with pytest.raises(DataError, match="no file or folder"):
    make_shards.main(make_shards.MakeShards(paths=(str(folder) + "x", "out")))


def test_bench_compares_the_pipeline_with_bare_decoding(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv(index.CACHE_VARIABLE, str(tmp_path / "cache"))
  out = tmp_path / "speed.json"
  cfg = bench_pipeline.BenchPipeline(
    clips=2, content="tones", seconds=0.01, rounds=1, batch_size=2, workers=(1,), json=str(out)
  )
  assert bench_pipeline.main(cfg) == 0
  assert "1 worker(s): pipeline" in capsys.readouterr().out
  result = json.loads(out.read_text())["results"][0]
  assert result["ratio"] == pytest.approx(result["pipeline"] / result["bare"])
