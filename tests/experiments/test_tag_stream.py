"""A stream from standard input: the ring, its lines, and how it ends."""

import contextlib
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from experiments import tag
from experiments.tagging import stream
from experiments.training import cli
from pipelines import decode
from pipelines.errors import BadAudio
from tests.experiments.tag_models import Measure, measuring, noise

RATE = 32_000
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Trickle(io.RawIOBase):
  """Bytes that come in portions of odd sizes, as from a pipe; at the end an error, if given."""

  def __init__(self, data, sizes=(1, 4095, 7, 1000), error=None):
    self._data, self._at, self._sizes, self._error = data, 0, itertools.cycle(sizes), error

  def read1(self, most):
    size = min(most, next(self._sizes))
    self._at += size
    part = self._data[self._at - size : self._at]
    if not part and self._error:
      raise self._error
    return part


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("fmt", "kind"), [("s16le", "<i2"), ("f32le", "<f4")])
def test_pcm_becomes_the_wave_that_it_was(fmt, kind, channels):
  wave = noise(0.3, channels=channels)
  wave = np.round(wave * 32768) / 32768
  data = (wave * (32768 if kind == "<i2" else 1)).astype(kind).tobytes() + b"\0"
  found = np.concatenate(list(stream.pcm_waves(Trickle(data), fmt, channels, RATE, RATE)))
  np.testing.assert_array_equal(found, decode.mono(wave.astype(np.float32)))


def test_other_rates_are_resampled_as_files_are():
  wave = noise(0.5, rate=44_100)[:, 0]
  source = Trickle(wave.astype("<f4").tobytes(), (40, 4000))
  found = np.concatenate(list(stream.pcm_waves(source, "f32le", 1, 44_100, RATE)))
  np.testing.assert_array_equal(found, decode.resample(wave, 44_100, RATE))


def test_samples_that_are_not_finite_end_it():
  data = np.array([0.0, np.nan], "<f4").tobytes()
  with pytest.raises(BadAudio, match="NaN"):
    list(stream.pcm_waves(io.BytesIO(data), "f32le", 1, RATE, RATE))


@pytest.mark.parametrize("bad", [np.nan, 1e30])
def test_a_stream_of_another_format_is_told_where_to_look(monkeypatch, capsys, bad):
  """Samples that are not finite, and finite ones of which the tags are not."""
  wave = noise(1.5)[:, 0]
  wave[40_000] = bad
  standard_input(monkeypatch, io.BytesIO(wave.astype("<f4").tobytes()))
  measure = Measure.logits
  overflowing = lambda self, waves: measure(self, waves) * np.where(waves.max() > 1e20, np.nan, 1)  # noqa: E731
  monkeypatch.setattr(Measure, "logits", overflowing)
  assert run(monkeypatch, "--format", "f32le", "--window", "1", "--hop", "1") == 2
  out, err = capsys.readouterr()
  assert len(out.splitlines()) == 1
  last = err.splitlines()[-1]
  assert last.startswith("tag: error: standard input: ")
  assert "not finite" in last or "NaN" in last
  assert "check --format" in last


@pytest.mark.parametrize("pushes", [(1, 2, 3), (4, 4, 4), (25,), (10, 3), (7, 7)])
def test_the_ring_holds_what_came_last(pushes):
  ring, wave = stream.Ring(10), np.arange(1.0, 101.0, dtype=np.float32)
  at = 0
  for size in pushes:
    ring.push(wave[at : at + size])
    at += size
  heard = wave[max(0, at - 10) : at]
  np.testing.assert_array_equal(ring.window(), np.resize(heard, 10))


def lines_of(wave, sizes, **given):
  seen = []

  def probabilities(window):
    seen.append(window[0].copy())
    return np.array([[window.mean()]])

  parts = np.split(wave, np.cumsum(sizes))
  settings = {"rate": 10, "window": 20, "hop": 5} | given
  return list(stream.tag_stream(parts, probabilities, **settings)), seen


def test_a_line_for_every_hop_and_one_for_the_rest():
  wave = np.arange(33, dtype=np.float32)
  lines, seen = lines_of(wave, [1, 2, 19])
  spans = [(0, 0.5), (0, 1), (0, 1.5), (0, 2), (0.5, 2.5), (1, 3), (1.3, 3.3)]
  np.testing.assert_allclose([(line.start, line.end) for line in lines], spans)
  np.testing.assert_array_equal(seen[0], np.resize(wave[:5], 20))
  np.testing.assert_array_equal(seen[3], wave[:20])
  np.testing.assert_array_equal(seen[-1], wave[13:])
  assert len(lines_of(wave[:30], [30])[0]) == 6


def test_no_audio_at_all():
  with pytest.raises(BadAudio, match="no audio came"):
    lines_of(np.zeros(0, np.float32), [])


@pytest.mark.parametrize(("took", "times"), [(0.4, 0), (0.6, 1), (2.0, 1)])
def test_falling_behind_is_said_once(took, times):
  ticks = (n * took for n in itertools.count())
  said = []
  lines_of(np.ones(100, np.float32), [40], clock=lambda: next(ticks), slow=said.append)
  assert len(said) == times


def standard_input(monkeypatch, source):
  monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=source, isatty=lambda: False))


def run(monkeypatch, *argv):
  """The exit code of the command with weights that measure."""
  opened = lambda *settings: (measuring(), [])  # noqa: E731
  monkeypatch.setattr(tag, "open_tagger", opened)
  with pytest.raises(SystemExit) as exit_:
    cli.run_main(
      tag.main,
      {"default": tag.TagConfig()},
      prog="tag",
      default="default",
      argv=["--stream", *argv],
    )
  return exit_.value.code


def test_lines_and_files(monkeypatch, tmp_path, capsys):
  pcm = (noise(2.5)[:, 0] * 32768).astype("<i2").tobytes()
  standard_input(monkeypatch, Trickle(pcm))
  path = tmp_path / "out.json"
  assert run(monkeypatch, "--window", "1", "--hop", "1", "--json", str(path)) == 0
  first, *others = capsys.readouterr().out.splitlines()
  assert first.startswith("   0:01.0  0.73 class 3, ")
  assert [line.split()[0] for line in others] == ["0:02.0", "0:02.5"]
  records = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(r["start"], r["end"]) for r in records] == [(0, 1), (1, 2), (1.5, 2.5)]
  assert len(records[0]["tags"]) == 5
  standard_input(monkeypatch, Trickle(pcm))
  assert run(monkeypatch, "--json", "-") == 0
  assert [json.loads(line)["end"] for line in capsys.readouterr().out.splitlines()] == [2, 2.5]


def test_an_interrupt_ends_it_without_a_trace(monkeypatch, capsys):
  pcm = (noise(1.2)[:, 0] * 32768).astype("<i2").tobytes()
  standard_input(monkeypatch, Trickle(pcm, error=KeyboardInterrupt()))
  assert run(monkeypatch, "--hop", "1") == 130
  out, err = capsys.readouterr()
  assert len(out.splitlines()) == 1
  assert err.splitlines()[-1] == "tag: interrupted"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ((), "no audio came"),
    (("--window", "0.01"), "--window"),
    (("--whole",), "--whole is one pass"),
  ],
)
def test_mistakes(monkeypatch, capsys, argv, message):
  standard_input(monkeypatch, io.BytesIO())
  assert run(monkeypatch, *argv) == 2
  assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_terminal_is_no_stream(monkeypatch, capsys):
  monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
  assert run(monkeypatch) == 2
  assert "arecord" in capsys.readouterr().err


PROCESS = """
from experiments import tag
from experiments.training import cli
from tests.experiments.tag_models import measuring

tag.open_tagger = lambda *settings: (measuring(), [])
argv = ["--stream", "--window", "0.5", "--hop", "0.25", "--format", "f32le"]
cli.run_main(tag.main, {"default": tag.TagConfig()}, prog="tag", default="default", argv=argv)
"""


def test_lines_come_at_once_and_a_closed_pipe_ends_it():
  hop = noise(0.25)[:, 0].astype("<f4").tobytes()
  with subprocess.Popen(
    [sys.executable, "-c", PROCESS], cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  ) as process:  # fmt: skip
    for n in (1, 2, 3):
      process.stdin.write(hop)
      process.stdin.flush()
      # A line that is held back would let this wait for ever.
      assert process.stdout.readline().decode().split()[0] == f"0:00.{25 * n}"
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      for _ in range(50):
        process.stdin.write(hop)
        process.stdin.flush()
    assert process.wait(300) == 141
    errors = process.stderr.read().decode()
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()
  assert "Traceback" not in errors
  assert "no label list" in errors
