"""The command that lists published checkpoints: what it knows, three ways to print it, mistakes."""

import csv
import dataclasses
import functools
import io
import json
import subprocess
import sys

import jax
import pytest

import dasheng_jax
import mobile_jax
from dasheng_jax.weights import hub
from dasheng_jax.weights.load import encoder_shapes
from dasheng_jax.weights.names import FRONT_END, front_end_buffers
from experiments import models as command
from experiments.training import cli
from experiments.training.errors import UsageError
from mobile_jax.network import shapes
from mobile_jax.weights.names import buffers

# Section 7 of the reference text; a state dict holds two buffers of the front end beside these.
PARAMETERS = {
  "dasheng_base": 85_447_808,
  "dasheng_0_6b": 630_333_568,
  "dasheng_1_2b": 1_134_047_360,
}
# Counted in every run; the others by the marker "slow".
QUICK = ("mn04_as", "dymn04_replace_se_as")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv(hub.CACHE, str(tmp_path))
  return tmp_path


def run(capsys, *argv):
  registry = {"list": command.ModelsConfig()}
  command.main(cli.parse(argv, registry, prog="models", default="list"))
  return capsys.readouterr().out


def listed(text):
  """The rows of a table, by column."""
  lines = [line for line in text.splitlines() if line.startswith("|")]
  assert len({len(line) for line in lines}) == 1
  assert set(lines[1]) <= set("|-:")
  head, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
  return [dict(zip(head, row, strict=True)) for row in rows[1:]]


def test_every_published_model_is_listed(capsys):
  rows = listed(run(capsys))
  assert [row["name"] for row in rows] == [*dasheng_jax.MODELS, *mobile_jax.MODELS]
  families = [row["family"] for row in rows]
  assert {family: families.count(family) for family in families} == {
    "dasheng": 3,
    "mn": 35,
    "dymn": 11,
    "cp_mobile": 1,
  }


def test_what_a_row_says(capsys, cache):
  (cache / "dasheng_base.pt").touch()
  dasheng, mn = listed(run(capsys, "dasheng_base", "mn04_as"))
  assert dasheng == {
    "family": "dasheng",
    "name": "dasheng_base",
    "file": "dasheng_base.pt",
    "source": "zenodo.org/records/11511780/files",
    "sha256": "-",
    "size": "~341.9 MB",
    "licence": "Apache-2.0",
    "figure": "80.2 / 72.5 / 84.0 HEAR",
    "cached": "yes",
    "note": "also mispeech/dasheng-base on Hugging Face",
  }
  assert mn["sha256"] == mobile_jax.MODELS["mn04_as"].sha256[:12]
  assert (mn["size"], mn["figure"], mn["cached"]) == ("4.1 MB", "43.2 mAP", "-")
  assert mn["source"] == "github.com/fschmid56/EfficientAT/releases/download/v0.0.1"


def test_the_legend_explains_what_is_shown(capsys, cache):
  text = run(capsys, "mn04_as")
  assert "mAP: " in text
  assert "HEAR" not in text
  assert "computed" not in text  # its size is known
  assert text.endswith(f"cached: in {cache}.\n")
  assert "~: computed" in run(capsys, "dasheng_base")


def test_filters(capsys):
  rows = listed(run(capsys, "--family", "dymn"))
  assert all(row["name"].startswith("dymn") for row in rows)
  rows = listed(run(capsys, "mn20_as", "mn10_as", "mn20_as", "--family", "mn"))
  assert [row["name"] for row in rows] == ["mn20_as", "mn10_as"]


def test_json(capsys, cache):
  (cache / "mn04_as_mAP_432.pt").touch()
  known, no_figure = json.loads(run(capsys, "mn04_as", "dymn04_im", "--json"))
  model = mobile_jax.MODELS["mn04_as"]
  assert (known["url"], known["sha256"]) == (model.url, model.sha256)
  assert (known["bytes"], known["bytes_computed"]) == (4_066_513, False)
  assert (known["figure"], known["unit"]) == ([43.2], "mAP")
  assert known["cached"] == str(cache / "mn04_as_mAP_432.pt")
  assert (no_figure["figure"], no_figure["unit"], no_figure["cached"]) == ([], "", None)
  assert (no_figure["bytes"], no_figure["bytes_computed"]) == (4 * 1_972_124, True)


def test_csv(capsys):
  rows = list(csv.DictReader(io.StringIO(run(capsys, "--csv"))))
  assert len(rows) == len(dasheng_jax.MODELS) + len(mobile_jax.MODELS)
  assert rows[0]["figure"] == "80.2 / 72.5 / 84.0"
  assert rows[-2]["figure"] == rows[-2]["sha256"] == rows[-1]["figure"] == ""


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (("mn4_as",), "mn04_as"),
    (("dasheng-base",), "did you mean dasheng_base"),
    (("mn04_as", "--family", "dymn"), "--family dymn: mn04_as is of mn"),
    (("--family", "dasheng_base"), "did you mean dasheng"),
    (("--json", "--csv"), "choose one"),
  ],
)
def test_mistakes_are_one_line(capsys, argv, words):
  with pytest.raises(UsageError, match=words) as caught:
    run(capsys, *argv)
  assert "\n" not in str(caught.value)


def test_help_does_without_jax():
  """Which is what makes it fast."""
  program = [sys.executable, "-X", "importtime", "-m", "experiments.models", "--help"]
  done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
  assert "--family {dasheng,mn,dymn,cp_mobile,cp_resnet}" in done.stdout
  loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
  assert "experiments.training.cli" in loaded
  assert not {"jax", "numpy", "dasheng_jax", "mobile_jax"} & loaded


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_numbers_of_a_dasheng(name):
  model = dasheng_jax.MODELS[name]
  cfg = model.config.encoder
  counted = cfg.depth * (12 * cfg.width**2 + 13 * cfg.width) + 512 * cfg.width + 128
  assert counted == PARAMETERS[name]
  front_end = sum(front_end_buffers(model.config)[key].size for key in FRONT_END.values())
  statistics = 2 * model.config.mel.mel_bins + 1
  assert model.elements == counted + front_end + statistics
  if name == "dasheng_base":
    assert count(encoder_shapes(model.config)) == counted + statistics


@functools.cache
def numbers(cfg):
  """In a state dict of the released code, counters of steps aside."""
  return count(shapes(cfg)) + sum(x.size for x in buffers(cfg).values())


def without_input(cfg):
  """The configuration with the usual front end, on which no weight depends."""
  return dataclasses.replace(cfg, mel=type(cfg)().mel)


@pytest.mark.parametrize("name", QUICK)
def test_numbers_of_a_mobile_model(name):
  model = mobile_jax.MODELS[name]
  assert model.elements == numbers(model.config)


@pytest.mark.slow
def test_numbers_of_every_mobile_model():
  found = {name: numbers(without_input(model.config)) for name, model in mobile_jax.MODELS.items()}
  assert found == {name: model.elements for name, model in mobile_jax.MODELS.items()}


def test_a_computed_size_is_near_the_true_one():
  """The one file whose size is known: beside its numbers it holds their names and places."""
  model = mobile_jax.MODELS["mn04_as"]
  assert 1 <= model.size / (4 * model.elements) < 1.05
