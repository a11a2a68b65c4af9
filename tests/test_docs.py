"""The documents name what is there: links, pictures, commands, configurations, make targets."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
PICTURES = (".png", ".jpg", ".svg")


def found(pattern):
  """Every (document, first group) of a pattern, as test parameters."""
  seen = {(p, m[1]): None for p in DOCUMENTS for m in re.finditer(pattern, p.read_text("utf-8"))}
  return [pytest.param(p, x, id=f"{p.relative_to(ROOT)}-{x}") for p, x in seen]


def test_the_documents_are_found():
  assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {p.name for p in DOCUMENTS}
  assert found(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_figure_is_left_to_fill_in(document):
  assert not re.findall(r"@[A-Z_]+@", document.read_text("utf-8"))


# An address with a scheme leads out of the repository.
@pytest.mark.parametrize(("document", "link"), found(r"\]\((?![a-z]+:)([^)\s]+)\)"))
def test_links_and_pictures_lead_somewhere(document, link):
  path, _, heading = link.partition("#")
  target = (document.parent / path) if path else document
  assert target.exists(), f"{document.name} links to {path}"
  if target.suffix in PICTURES:
    assert target.stat().st_size > 1000
  if heading:
    lines = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
    assert heading in anchors


def test_every_picture_is_shown():
  shown = "".join(p.read_text("utf-8") for p in DOCUMENTS)
  for picture in (ROOT / "docs").rglob("*"):
    if picture.suffix in PICTURES:
      assert picture.name in shown, picture


# NAME and the like stand for a name.
@pytest.mark.parametrize(("document", "module"), found(r"-m (experiments\.[a-z]\w*)"))
def test_commands_exist(document, module):
  path = ROOT.joinpath(*module.split("."))
  assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize(
  ("document", "named"), found(r"experiments\.((?:pretrain|finetune|distill) --config [a-z]\w*)")
)
def test_configurations_exist(document, named):
  command, name = named.split(" --config ")
  registry = importlib.import_module(f"experiments.{command}").EXPERIMENTS
  assert name in registry


@pytest.mark.parametrize(("document", "target"), found(r"(?m)(?:^|`)make ([a-z][a-z-]*)"))
def test_make_targets_exist(document, target):
  assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


OURS = r"[`\s(]((?:dasheng_jax|experiments|mobile_jax|pipelines|tests|docs)/[a-z0-9_/]+\.\w+)\b"


@pytest.mark.parametrize(("document", "path"), found(OURS))
def test_files_exist(document, path):
  assert (ROOT / path).exists()
