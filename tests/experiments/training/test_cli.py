"""The command line: what each way to write a flag gives, and the one line for each mistake."""

import dataclasses
import enum
import errno
import os
import pathlib
import subprocess
import sys
from typing import Literal

import pytest

from experiments.training import cli
from experiments.training.errors import RunError, UsageError
from pipelines.errors import DataError


class Colour(enum.Enum):
  RED = 1
  BLUE = 2


@dataclasses.dataclass(frozen=True)
class Ema:
  decay: float = 0.99


@dataclasses.dataclass(frozen=True)
class Optim:
  peak_lr: float = 1e-3  # reached after the warm-up
  name: Literal["adamw", "lion"] = "adamw"
  nesterov: bool = False
  clip: float | None = None
  betas: tuple[float, float] = (0.9, 0.95)
  table: tuple[tuple[str, float], ...] = ()

  def __post_init__(self):
    if self.peak_lr <= 0:
      raise ValueError(f"peak_lr={self.peak_lr} must be positive;\ntry 1e-3")


@dataclasses.dataclass(frozen=True)
class Data:
  # Folders, manifests or shards.
  # Several are mixed.
  source: tuple[str, ...] = ("synthetic",)
  weights: tuple[float, ...] = ()
  low: int = 1
  high: int = 2

  def __post_init__(self):
    if self.low >= self.high:
      raise ValueError("low must be under high")


@dataclasses.dataclass(frozen=True)
class Config:
  about: str = ""
  steps: int = 10
  workdir: pathlib.Path = pathlib.Path("runs/x")
  colour: Colour = Colour.RED
  shuffle: bool = True
  ema: Ema | None = None
  optim: Optim = Optim()
  data: Data = Data()


REGISTRY = {
  "demo": Config("three minutes on two cores"),
  "large": Config("a week on a pod", steps=10**6, ema=Ema(0.5)),
}


def parse(*argv, default="demo"):
  return cli.parse(argv, REGISTRY, prog="pretrain", default=default)


@pytest.mark.parametrize(
  ("argv", "path", "value"),
  [
    (["--steps", "7"], "steps", 7),
    (["--steps=1e6"], "steps", 1_000_000),
    (["--steps", "-3"], "steps", -3),
    (["--optim.peak_lr", "2e-4"], "optim.peak_lr", 2e-4),
    (["--optim.peak-lr=2e-4"], "optim.peak_lr", 2e-4),
    (["--optim.name", "lion"], "optim.name", "lion"),
    (["--optim.nesterov"], "optim.nesterov", True),
    (["--optim.nesterov", "--steps", "3"], "optim.nesterov", True),
    (["--optim.nesterov", "false"], "optim.nesterov", False),
    (["--shuffle=no"], "shuffle", False),
    (["--no-shuffle"], "shuffle", False),
    (["--optim.nesterov", "--optim.no-nesterov"], "optim.nesterov", False),
    (["--optim.nesterov", "--no-optim.nesterov"], "optim.nesterov", False),
    (["--optim.clip", "1"], "optim.clip", 1.0),
    (["--optim.clip", "1", "--optim.clip", "none"], "optim.clip", None),
    (["--optim.betas", "0.8", "0.9"], "optim.betas", (0.8, 0.9)),
    (["--data.source", "a b", "c", "--steps", "1"], "data.source", ("a b", "c")),
    (["--data.source=x-{000..099}.tar"], "data.source", ("x-{000..099}.tar",)),
    (["--data.weights", "1", "2.5"], "data.weights", (1.0, 2.5)),
    (["--data.weights", "1", "--data.weights"], "data.weights", ()),
    (["--data.low", "5", "--data.high", "6"], "data.low", 5),
    (["--colour", "BLUE"], "colour", Colour.BLUE),
    (["--workdir", "a/b"], "workdir", pathlib.Path("a/b")),
    (["--ema.decay", "0.9"], "ema.decay", 0.9),
    (["--config", "large"], "steps", 10**6),
    (["--steps", "4", "--config=large"], "steps", 4),
    (["--config", "large", "--ema", "none"], "ema", None),
  ],
)
def test_each_way_to_write_a_flag(argv, path, value):
  found = parse(*argv)
  for part in path.split("."):
    found = getattr(found, part)
  assert found == value
  assert type(found) is type(value)


def test_only_named_fields_change():
  assert parse() == REGISTRY["demo"]
  assert parse("--steps", "3") == dataclasses.replace(REGISTRY["demo"], steps=3)


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--config", "lagre"], "--config lagre: unknown; did you mean large?"),
    (["--config", "zzz"], "--config zzz: unknown; choose from demo, large"),
    (["--config"], "--config needs a name: one of demo, large"),
    (["--optim.peek_lr", "1"], "--optim.peek_lr: unknown; did you mean --optim.peak_lr?"),
    (["--peak_lr", "1"], "--peak_lr: unknown; did you mean --optim.peak_lr?"),
    (["--peek-lr", "1"], "--peek-lr: unknown; did you mean --optim.peak_lr?"),
    (["--qqqqqq", "1"], "--qqqqqq: unknown; see --help"),
    (["-steps", "1"], "-steps: unknown; did you mean --steps?"),
    (["--steps", "ten"], "--steps ten: expected INT"),
    (["--steps", "1.5"], "--steps 1.5: expected INT"),
    (["--steps"], "--steps: needs a value, INT"),
    (["--steps", "--shuffle"], "--steps: needs a value, INT"),
    (["--optim.clip", "much"], "--optim.clip much: expected FLOAT|none"),
    (["--optim.betas", "1"], "--optim.betas 1: expected FLOAT FLOAT"),
    (["--optim.name", "lino"], "--optim.name lino: unknown; did you mean lion?"),
    (["--colour", "green"], "--colour green: unknown; choose from RED, BLUE"),
    (["--shuffle=maybe"], "--shuffle maybe: expected true|false"),
    (["--no-shuffle=true"], "--no-shuffle: takes no value"),
    (["--no-steps"], "--no-steps: unknown; did you mean --steps?"),
    (["--optim", "x"], "--optim: is a group of fields; set one of them: --optim.peak_lr, "),
    (["--optim.table", "x"], "--optim.table: cannot be written on a command line; make a named"),
    (["extra"], "unexpected value 'extra'; every value follows a flag, see --help"),
    (["--steps", "1", "extra"], "unexpected value 'extra'"),
    (["--optim.peak_lr", "-1"], "optim: peak_lr=-1.0 must be positive"),
    (["--data.low", "9"], "data: low must be under high"),
  ],
)
def test_each_mistake_is_named(argv, message):
  with pytest.raises(UsageError) as caught:
    parse(*argv)
  assert str(caught.value).startswith(message)


def test_a_name_is_needed_without_a_default():
  with pytest.raises(UsageError, match="name a configuration: --config with one of demo, large"):
    parse(default=None)


def test_positional_values():
  @dataclasses.dataclass(frozen=True)
  class Tag:
    files: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
    top_k: int = 5

  tag = cli.parse(["a.wav", "--top-k", "3", "b.wav"], {"tag": Tag()}, prog="tag", default="tag")
  assert tag == Tag(("a.wav", "b.wav"), 3)
  tag = cli.parse(["--", "--odd.wav"], {"tag": Tag()}, prog="tag", default="tag")
  assert tag.files == ("--odd.wav",)


@dataclasses.dataclass(frozen=True)
class Embed:
  files: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
  features: tuple[str, ...] = ()
  sizes: tuple[int, ...] = ()


def embed(*argv):
  return cli.parse(argv, {"x": Embed()}, prog="embed", default="x")


def test_a_flag_of_several_values_ends_at_two_dashes():
  assert embed("--features", "a", "b", "--", "x.wav") == Embed(("x.wav",), ("a", "b"))
  assert embed("y.wav", "--features", "--", "x.wav", "--help") == Embed(
    ("y.wav", "x.wav", "--help")
  )
  with pytest.raises(SystemExit) as exit_:
    cli.run_main(
      lambda config: 7 if config.files == ("--debug", "--config") else 0,
      {"x": Embed()}, prog="embed", default="x",
      argv=["--features", "a", "--", "--debug", "--config"],
    )  # fmt: skip
  assert exit_.value.code == 7


def test_a_flag_that_took_the_files_is_named():
  assert cli.swallowed(embed()) == cli.swallowed(embed("--", "x.wav")) == ""
  told = cli.swallowed(embed("--features", "a", "x.wav"))
  assert told == "; all that follows --features belongs to it: FILES go before, or behind --"
  with pytest.raises(UsageError, match="--sizes 1 x.wav: expected INT ...; .*FILES go before"):
    embed("--sizes", "1", "x.wav")


def test_help_lists_configurations_and_fields(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "100")
  with pytest.raises(SystemExit) as caught:
    parse("--config", "large", "--help")
  assert caught.value.code == 0
  text = capsys.readouterr().out
  for needed in (
    "demo ",
    "three minutes on two cores",
    "large (shown)",
    "--steps INT",
    "[1000000]",
    "--optim.peak_lr FLOAT",
    "reached after the warm-up [0.001]",
    "--optim.name {adamw,lion}",
    "Folders, manifests or shards. Several are mixed. [synthetic]",
    "--colour {RED,BLUE}",
    "[runs/x]",
    "[true]",
    "--optim.table (in configurations only)",
    "--optim.clip FLOAT|none",
    "\noptim:\n",
    "\ndata:\n",
  ):
    assert needed in text
  assert max(map(len, text.splitlines())) <= 100


def run(main, *argv):
  with pytest.raises(SystemExit) as caught:
    cli.run_main(main, REGISTRY, prog="pretrain", default="demo", argv=argv)
  return caught.value.code


def stop(error):
  def main(config):
    raise error

  return main


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (DataError("no audio in x\n  at all"), 2, "no audio in x at all"),
    (UsageError("--a: no"), 2, "--a: no"),
    (RunError("loss is not finite"), 1, "loss is not finite"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.wav"), 2, "x.wav"),
    (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "Permission denied: out"),
    (OSError(errno.ENOSPC, "No space left on device", "out/ckpt"), 1, "disk is full"),
    (ValueError("UNKNOWN: write failed: No space left on device [p='/x']"), 1, "disk is full"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 1, "smaller batch"),
  ],
)
def test_foreseen_errors_are_one_line(error, code, line, capsys, monkeypatch):
  monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
  assert run(stop(error)) == code
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("pretrain: error: ")
  assert err.count("\n") == 1
  assert line in err


def test_exit_codes_of_the_rest(capsys):
  assert run(lambda config: None) == 0
  assert run(lambda config: 3) == 3
  assert run(stop(KeyboardInterrupt())) == 130
  assert run(lambda config: None, "--stepz", "1") == 2
  assert "did you mean --steps?" in capsys.readouterr().err


def test_bugs_and_debugging_keep_the_trace(monkeypatch):
  with pytest.raises(ZeroDivisionError):
    cli.run_main(stop(ZeroDivisionError()), REGISTRY, prog="pretrain", default="demo", argv=[])
  with pytest.raises(DataError):
    cli.run_main(stop(DataError("x")), REGISTRY, prog="p", default="demo", argv=["--debug"])
  monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
  with pytest.raises(DataError):
    cli.run_main(stop(DataError("x")), REGISTRY, prog="p", default="demo", argv=[])


def test_a_bug_while_handling_our_error_is_a_bug():
  def main(config):
    try:
      raise DataError("x")
    except DataError:
      return 1 // 0

  with pytest.raises(ZeroDivisionError):
    cli.run_main(main, REGISTRY, prog="pretrain", default="demo", argv=[])


def test_a_closed_pipe_is_quiet():
  script = (
    "from experiments.training import cli\n"
    "from tests.experiments.training.test_cli import REGISTRY\n"
    "cli.run_main(lambda c: print('x' * 10**6, flush=True), REGISTRY, prog='p', default='demo')\n"
  )
  done = subprocess.run(
    f'{sys.executable} -c "{script}" | true',
    shell=True,
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ | {"PYTHONPATH": os.getcwd()},
  )
  assert done.stderr == ""
