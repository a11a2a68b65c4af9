"""The command that tables complexity: variants by flags, three ways to print, errors in a line."""

import csv
import dataclasses
import io
import json

import pytest

from experiments import complexity as command
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax import complexity
from mobile_jax.config import SIZES, DyMNConfig, MNConfig

ROW = complexity.Complexity(1, 2, 3, 4, 5, 6.0, None, 7.5, (595, float("inf")))


@pytest.fixture
def asked(monkeypatch):
  """The configurations that were measured, with frames and bits."""
  seen = []

  def measure(cfg, *, frames, bits):
    seen.append((cfg, frames, bits))
    return ROW

  monkeypatch.setattr(complexity, "measure", measure)
  return seen


def run(*argv):
  table = {"table": command.ComplexityConfig()}
  command.main(cli.parse(argv, table, prog="complexity", default="table"))


def test_variants_by_flags(asked, capsys):
  variant = "--strides 2 2 2 1 --se none --frames 500 --mel_bins 64"
  run("mn10", "mn10_as_hop_5", *variant.split())
  (first, frames, bits), (second, _, _) = asked
  assert (first.strides, first.se, first.mel.mel_bins) == ((2, 2, 2, 1), "none", 64)
  assert (second.mel.hop_length, second.mel.mel_bins) == (160, 64)
  assert (frames, bits) == (500, 16)
  assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == [
    "mn10",
    "mn10_as_hop_5",
  ]


def test_every_option_of_both_families_is_a_flag(asked):
  variant = {
    "convs": ("expand", "project"), "relus": (), "attention": "coordinate",
    "attention_axes": "time", "kernels": 2, "pieces": 3, "context": "per_use",
    "sequences": "concatenated", "context_ratio": 8, "min_context": 16, "max_context": 64,
    "dynamic": "last", "width": 0.5, "strides": (2, 2, 1, 1), "classes": 10,
  }  # fmt: skip
  run("dymn10", *words(variant))
  assert asked[-1][0] == dataclasses.replace(SIZES["dymn10"], **variant)
  others = {
    "reduced_tail": True, "dilated": False, "head": "attention", "attention_heads": 2, "se": "ft",
    "se_aggregate": "min", "se_reduction": 8,
  }  # fmt: skip
  run("mn10", *words(others))
  assert asked[-1][0] == dataclasses.replace(SIZES["mn10"], **others)
  known = {f.name for family in (MNConfig, DyMNConfig) for f in dataclasses.fields(family)}
  assert known == {*variant, *others, *command.NO_OPTIONS}
  # A switch that the model has on can be switched off, and "none" is a value.
  run("dymn10", "--attention", "none", "--dynamic", "none")
  assert (asked[-1][0].attention, asked[-1][0].dynamic) == ("none", "none")


def words(options):
  """Flags for fields."""
  for name, value in options.items():
    yield from (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))


def test_help_tells_every_option(capsys):
  with pytest.raises(SystemExit):
    run("--help")
  told = capsys.readouterr().out
  for text in (
    "--attention_axes {both,frequency,time}",
    "--context_ratio INT",
    "[as named]",
    "(DyMN)",
  ):
    assert text in told


def test_without_flags_a_model_is_as_named(asked):
  run("all")
  assert [cfg for cfg, _, _ in asked] == list(SIZES.values())
  assert asked[0][1] is None


def test_json_and_csv(asked, capsys):
  run("mn10", "--json")
  (record,) = json.loads(capsys.readouterr().out)
  assert (record["model"], record["macs"], record["memory_efficient"]) == ("mn10", 3, None)
  assert (record["receptive_field_bins"], float(record["receptive_field_frames"])) == (
    595,
    float("inf"),
  )
  run("mn10", "mn04", "--csv")
  rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  assert [row["model"] for row in rows] == ["mn10", "mn04"]
  assert len(rows[0]) == len(dataclasses.fields(complexity.Complexity)) + 2


@pytest.mark.parametrize(
  ("argv", "error", "words"),
  [
    ((), UsageError, "name a model"),
    (("mn11",), UsageError, "mn10"),
    (("dymn10", "--se", "f"), UsageError, "--se: dymn10 has no such option"),
    (("mn10", "--dynamic", "all"), UsageError, "--dynamic: mn10"),
    (("mn10", "--json", "--csv"), UsageError, "choose one"),
    (("mn10", "--frames", "-3"), UsageError, "--frames -3"),
    (("mn10", "--se", "x"), UsageError, "--se: se is 'x'"),
    (("mn10", "--width", "1", "--classes", "0"), UsageError, "^--classes: classes is 0"),
    (("mn10", "--mel_bins", "-1"), UsageError, "--mel_bins: "),
    (("mn10", "--se", "t", "--dilated"), UsageError, "--dilated, --se: dilated=True works"),
    (("mn10", "--strides", "2", "3", "2", "2"), UsageError, "--strides: strides"),
    (("mn10", "--head", "mpl"), UsageError, "--head mpl: unknown; did you mean mlp"),
    (("mn10", "--pieces", "3"), UsageError, "--pieces: mn10 has no such option"),
    (("dymn10", "--kernels", "0"), UsageError, "--kernels: kernels is 0"),
    (("dymn10", "--convs", "none"), UsageError, "--convs: convs is .*expand, depthwise, project"),
    (("--convs", "expand", "dymn10"), UsageError, "--convs belongs to it: MODELS go before"),
    (("--strides", "2", "2", "2", "1", "mn10"), UsageError, "--strides .*: MODELS go before"),
  ],
)
def test_mistakes_are_one_line(asked, unchecked, argv, error, words):
  with pytest.raises(error, match=words) as caught:
    run(*argv)
  assert "\n" not in str(caught.value)
  assert not asked
