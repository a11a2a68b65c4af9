"""Timing arithmetic on a clock of our own, and the line on a terminal and in a file."""

import io

import pytest

from experiments.training import progress


class FakeClock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return FakeClock()


def make(clock, **kwargs):
  defaults = {"clips_per_step": 8, "seconds_per_clip": 10.0, "window": 4}
  return progress.Chrono(100, clock=clock, **(defaults | kwargs))


def test_nothing_is_known_before_the_first_step(clock):
  speed = make(clock).speed()
  assert (speed.clips_per_second, speed.idle_share, speed.eta_seconds) == (0.0, 0.0, None)


def test_compiling_is_counted_apart(clock):
  chrono = make(clock)
  with chrono.park("compile"):
    clock.now += 30
  for step in range(1, 11):
    clock.now += 2
    chrono.done(step, waited_seconds=0.5 * step)
  speed = chrono.speed()
  assert speed.compile_seconds == 30
  assert speed.parked_seconds == 0
  assert speed.elapsed_seconds == 50
  assert speed.clips_per_second == pytest.approx(8 / 2)
  assert speed.idle_share == pytest.approx(0.25)
  assert speed.eta_seconds == pytest.approx(90 * 2)
  assert speed.audio_hours == pytest.approx(10 * 8 * 10 / 3600)


def test_the_first_batch_counts_neither_as_idle_nor_for_the_eta(clock):
  chrono = make(clock)
  with chrono.park("start"):
    clock.now += 30
  for step in range(1, 11):
    clock.now += 2
    chrono.done(step)
  speed = chrono.speed()
  assert (speed.idle_share, speed.parked_seconds, speed.compile_seconds) == (0, 0, 0)
  assert speed.clips_per_second == pytest.approx(8 / 2)
  assert speed.eta_seconds == pytest.approx(90 * 2)


def test_parked_time_slows_the_eta_but_not_the_rate(clock):
  chrono = make(clock)
  for step in range(1, 5):
    clock.now += 1
    chrono.done(step)
    with chrono.park("validation"), chrono.park("compile"):
      clock.now += 1
  speed = chrono.speed()
  assert (speed.parked_seconds, speed.compile_seconds) == (4, 0)
  assert speed.clips_per_second == pytest.approx(8)
  assert speed.eta_seconds == pytest.approx(96 * 2)


def test_parked_time_counts_when_the_work_in_it_fails(clock):
  chrono = make(clock)

  def fail():
    with chrono.park("checkpoint"):
      clock.now += 3
      raise RuntimeError

  with pytest.raises(RuntimeError):
    fail()
  with chrono.park("checkpoint"):
    clock.now += 1
  assert chrono.speed().parked_seconds == 4


def test_rates_follow_the_latest_steps(clock):
  chrono = make(clock, window=2)
  for step, seconds in enumerate((10, 10, 1, 1), 1):
    clock.now += seconds
    chrono.done(step)
  assert chrono.speed().clips_per_second == pytest.approx(8)


def test_a_resumed_run_counts_on(clock):
  chrono = make(clock, start_step=50)
  clock.now += 4
  chrono.done(52)
  speed = chrono.speed()
  assert speed.clips_per_second == pytest.approx(4)
  assert speed.eta_seconds == pytest.approx(96)
  assert speed.audio_hours == pytest.approx(52 * 80 / 3600)


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(None, "-"), (0, "0:00"), (59.6, "1:00"), (3909, "1:05:09"), (4 * 86400 + 7200, "4d 02:00")],
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


def test_the_line_names_everything(clock):
  chrono = make(clock)
  with chrono.park("compile"):
    clock.now += 12
  clock.now += 2
  chrono.done(1, waited_seconds=0.1)
  text = progress.line(chrono.speed(), {"loss": 0.98765, "lr": 2e-4, "grad_norm": 1.0})
  assert text == (
    "step 1/100  loss 0.9877  lr 2.00e-04  4.0 clips/s  0.02 h audio  idle 5%  ETA 3:18  "
    "compile 0:12"
  )
  assert "loss" not in progress.line(chrono.speed(), {})


def test_a_file_gets_few_plain_lines_and_the_last(clock):
  stream = io.StringIO()
  shown = progress.ProgressLine(stream, plain_seconds=30, clock=clock)
  for i in range(100):
    shown.update(f"step {i}")
    clock.now += 1
  shown.message("saved")
  shown.close()
  assert stream.getvalue().split("\n") == [
    "step 0",
    "step 30",
    "step 60",
    "step 90",
    "saved",
    "step 99",
    "",
  ]


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_line_is_rewritten_and_never_wraps(clock, monkeypatch):
  monkeypatch.setenv("COLUMNS", "20")
  stream = Terminal()
  shown = progress.ProgressLine(stream, clock=clock)
  shown.update("x" * 50)
  shown.update("too soon")
  clock.now += 1
  shown.update("later")
  shown.message("saved")
  shown.close()
  start = "\r\x1b[K"
  assert stream.getvalue() == f"{start}{'x' * 19}{start}later{start}saved\n{start}later\n"


def test_closing_without_a_line_writes_nothing(clock):
  stream = Terminal()
  progress.ProgressLine(stream, clock=clock).close()
  assert stream.getvalue() == ""
