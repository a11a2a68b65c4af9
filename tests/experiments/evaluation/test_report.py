"""Tables and files of results."""

import csv
import json

import pytest

from experiments.evaluation import report
from experiments.training.errors import UsageError

RECORDS = [
  {"features": "a", "accuracy": 0.5, "per_group": {"x": 0.25}},
  {"features": "b", "accuracy": 0.75, "per_group": {"y": 1.0}},
]


def test_markdown_table():
  table = report.markdown_table(("name", "n"), [("long name", "1"), ("x|y", "22")])
  assert table.split("\n") == [
    "| name      | n  |",
    "|-----------|----|",
    "| long name | 1  |",
    r"| x\|y      | 22 |",
  ]


def test_json_csv_and_markdown(tmp_path):
  for suffix in report.SUFFIXES:
    report.write_report(tmp_path / "new" / f"r{suffix}", RECORDS, "| t |")
  assert json.loads((tmp_path / "new" / "r.json").read_text()) == RECORDS
  rows = list(csv.DictReader((tmp_path / "new" / "r.csv").open()))
  assert rows[1] == {"features": "b", "accuracy": "0.75", "per_group.x": "", "per_group.y": "1.0"}
  assert (tmp_path / "new" / "r.md").read_text() == "| t |\n"
  with pytest.raises(UsageError, match=r"r\.xlsx: end the name in \.json"):
    report.write_report(tmp_path / "r.xlsx", RECORDS, "")
