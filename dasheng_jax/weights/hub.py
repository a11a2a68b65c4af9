"""From a name to a file: what `dasheng_base`, `mn04_as` or `mispeech/dasheng-base` stand for.

    resolve("dasheng_base.pt", MODELS)          a path that exists is itself
    resolve("dasheng_base", MODELS)             a published name: in the cache folder, or downloaded
    resolve("mispeech/dasheng-base", MODELS)    a name on Hugging Face: a folder of config.json and
                                                .safetensors files

The cache folder is `DASHENG_JAX_CACHE`, or else `dasheng_jax/weights` in `XDG_CACHE_HOME` or
`~/.cache`. A file that somebody puts there is as good as one that was downloaded.
`DASHENG_JAX_OFFLINE=1` or `HF_HUB_OFFLINE=1` forbids every download.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from dasheng_jax.config import unknown_name
from dasheng_jax.errors import WeightsError
from dasheng_jax.weights.config_json import parsed_json
from dasheng_jax.weights.download import Wanted, by_hand, digest_of, download, record_of

CACHE = "DASHENG_JAX_CACHE"
OFFLINE = ("DASHENG_JAX_OFFLINE", "HF_HUB_OFFLINE")
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
# What is wanted of a repository on Hugging Face, at its top level.
HUB_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@runtime_checkable
class Published(Protocol):
  """What `resolve` reads of a line of `dasheng_jax.MODELS` or `mobile_jax.MODELS`.

  An empty url leaves the name on Hugging Face, an empty hub leaves none there.
  """

  @property
  def file(self) -> str:
    """The file's own name."""

  @property
  def url(self) -> str:
    """Where it is published."""

  @property
  def hub(self) -> str:
    """ORGANISATION/NAME on Hugging Face."""

  @property
  def sha256(self) -> str | None:
    """Hexadecimal digits, where they are known."""

  @property
  def size(self) -> int | None:
    """Bytes, where they are known."""


def resolve(source: str | os.PathLike, published: Mapping[str, Published]) -> Path:
  """The file or folder that a path, a published name or a name on Hugging Face stands for.

  In this order: a path that exists; a name of `published`; something that can only be a path, which
  is refused since it does not exist; ORGANISATION/NAME on Hugging Face. Files in the cache are
  verified against the published sha256, or else the one noted when they were downloaded.

  Raises WeightsError, in one line with the way out: a path that is not there, an unknown name, a
  file that cannot be had (then with the exact file to put at the exact path) or is damaged.
  """
  text = os.fspath(source)
  path = Path(text).expanduser()
  if not text:
    raise WeightsError("an empty name stands for no weight file; name a model, or a path")
  if path.exists():
    return path
  if text in published:
    return fetch(text, published[text])
  hubs = [model.hub for model in published.values() if model.hub]
  if text in hubs:
    return snapshot(text, hubs)
  if _is_path(text, path):
    raise WeightsError(f"{path}: no such weight file{_where(path, published)}")
  if HUB_NAME.fullmatch(text):
    return snapshot(text, hubs)
  if "/" in text:
    raise WeightsError(f"{path}: no such weight file")
  unknown = unknown_name("published model", text, published)
  raise WeightsError(f"{text}: no such weight file, and {unknown}")


def cache_folder() -> Path:
  """Where downloaded weights are kept; see the head of this file. It may not exist yet."""
  if named := os.environ.get(CACHE):
    return Path(named).expanduser().absolute()
  root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(root).expanduser().absolute() / "dasheng_jax" / "weights"


def place(model: Published) -> Path:
  """Where the cache keeps a published model, or would: a file, or a folder where it has no url."""
  return cache_folder() / model.file if model.url else hub_place(model.hub)


def hub_place(name: str) -> Path:
  """Where the files of ORGANISATION/NAME can be put by hand."""
  return cache_folder() / name.replace("/", "--")


def offline() -> str:
  """The environment variable that forbids downloads; "" for none."""
  for variable in OFFLINE:
    if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
      return variable
  return ""


def fetch(name: str, model: Published) -> Path:
  """A published model's file, out of the cache or off the web; verified."""
  if not model.url:
    return snapshot(model.hub)
  path = place(model)
  want = Wanted(model.url, path, model.sha256, model.size)
  if not path.is_file():
    if variable := offline():
      raise WeightsError(
        f"{name}: {path.name} is not in the cache and {variable} forbids downloads; {by_hand(want)}"
      )
    download(want)
  else:
    verify(path, model.sha256)
  return path


def verify(path: Path, sha256: str | None = None) -> None:
  """WeightsError where a file has another sha256 than the given one, or else the one noted with it.

  Reads the whole file, which takes seconds per GB. A file without either sum passes.
  """
  noted = record_of(path)
  if sha256 is not None:
    wanted, whose, out = sha256, "published", f"delete {path}"
  elif noted.is_file():
    wanted = noted.read_text(errors="replace").split(" ", 1)[0].strip()
    whose, out = "downloaded", f"delete {path} and {noted}"
  else:
    return
  found = digest_of(path)
  if found != wanted:
    raise WeightsError(
      f"{path}: damaged, or another file than was {whose} (its sha256 is {found}, not {wanted}); "
      f"{out} to have it downloaded again, or move it and pass its new path to use it as it is"
    )


def snapshot(name: str, known: Iterable[str] = ()) -> Path:
  """The folder with the configuration and the tensors of ORGANISATION/NAME on Hugging Face.

  From the cache folder where somebody put them there, else through `huggingface_hub` (the extra
  [hub]), which keeps them in its own cache. known: names to suggest where this one is unknown.
  """
  placed = hub_place(name)
  if placed.is_dir():
    if lack := _lack(placed):
      raise WeightsError(f"{placed}: {lack}; get it from https://huggingface.co/{name}")
    return placed
  instead = (
    f"get config.json and every .safetensors file from https://huggingface.co/{name} in another "
    f"way and put them into {placed}"
  )
  if near := [one for one in difflib.get_close_matches(name, list(known), 1, 0.6) if one != name]:
    instead = f"did you mean {near[0]}? Else {instead}"
  try:
    from huggingface_hub import snapshot_download
  except ImportError:
    raise WeightsError(
      f"{name}: not a path here, and names on Hugging Face need the extra [hub] (pip install "
      f"'dasheng-jax[hub]'); {instead}"
    ) from None
  variable = offline()
  try:
    # Nested folders hold other formats' copies of the same weights.
    found = snapshot_download(
      name, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"], local_files_only=bool(variable)
    )
  except Exception as problem:  # its releases raise errors of three different network libraries
    why = f"not in the cache and {variable} forbids downloads" if variable else _reason(problem)
    raise WeightsError(f"{name}: {why}; {instead}") from None
  folder = Path(found)
  if lack := _lack(folder):
    raise WeightsError(f"{name}: {lack} in {folder}; {instead}")
  return folder


def _lack(folder: Path) -> str:
  """What a folder of safetensors needs and has not; "" for nothing."""
  there = {path.name for path in folder.glob("*.safetensors")}
  if not there:
    return "no .safetensors file"
  for index in folder.glob("*.safetensors.index.json"):
    try:
      shards = set(parsed_json(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError):
      return f"{index.name} is no index of shards"
    if missing := sorted(map(str, shards - there)):
      return f"{len(missing)} of {len(shards)} shards are missing, {missing[0]} first"
  return ""


def _reason(problem: BaseException) -> str:
  """The first sentence of a foreign error."""
  lines = [" ".join(line.split()) for line in str(problem).splitlines() if line.strip()]
  first = lines[0].split(". ")[0].rstrip(".") if lines else type(problem).__name__
  return f"no download, {first}"


def _is_path(text: str, path: Path) -> bool:
  """Whether something that does not exist can only be meant as a path."""
  if path.is_absolute() or text.startswith(".") or path.suffix in SUFFIXES:
    return True
  return "/" in text and path.parent.is_dir()


def _where(path: Path, published: Mapping[str, Published]) -> str:
  """Where the published file of that name is to be had."""
  kinds = (
    lambda name, model: model.file == path.name,
    lambda name, model: name in (path.name, path.stem),
    lambda name, model: Path(model.file).stem in (path.name, path.stem),
  )
  for same in kinds:
    for name, model in published.items():
      if same(name, model):
        source = model.url or f"https://huggingface.co/{model.hub}"
        return f"; download {model.file} from {source}, or pass {name!r} to have that done"
  return ""
