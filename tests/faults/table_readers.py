"""Manifests, which have no checksum, so a damaged row may say something else; stored logits."""

import json
import pathlib
import zipfile

import numpy as np
import soundfile

from pipelines import DataConfig, index
from pipelines.errors import DataError
from pipelines.sources import open_source
from pipelines.torch_tensor import read_tensor
from tests.faults.damage import Damage
from tests.faults.readers import Reader, assert_refusal
from tests.mobile_jax.fixtures import GOLDEN

ROWS = 5


class Manifest(Reader):
  """Rows before the damage are as they were; the others are refused, unusable, or sound rows."""

  suffixes = (".csv", ".tsv", ".jsonl")

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    self.frames = {}
    for i in range(ROWS):
      wave = np.random.default_rng(i).uniform(-0.5, 0.5, 16_000 + 100 * i)
      soundfile.write(folder / f"recording {i}.wav", wave, 16_000)
      self.frames[f"recording {i}.wav"] = len(wave)
    rows = [
      {"path": f"recording {i}.wav", "label": f"class{i}", "start": 0.25, "stop": 0.5 + i / 100}
      for i in range(ROWS)
    ]
    tables = [
      sep.join(rows[0]) + "\n" + "".join(sep.join(map(str, r.values())) + "\n" for r in rows)
      for sep in ",\t"
    ]
    self.originals = [
      *(text.encode() for text in tables),
      "".join(json.dumps({**row, "sample_rate": 16_000}) + "\n" for row in rows).encode(),
    ]
    self.whole = [self.open(i, data) for i, data in enumerate(self.originals)]
    # Scanning the same five headers for each of thousands of tables would take most of the time.
    self._scans = {}
    scan = index.header_or_reason
    index.header_or_reason = lambda path, size: (
      self._scans.setdefault((path, size), scan(path, size))
      if (path, size) not in self._scans
      else self._scans[path, size]
    )

  def open(self, number: int, data: bytes) -> dict[str, tuple]:
    path = self.folder / f"table{self.suffixes[number]}"
    path.write_bytes(data)
    source = open_source(str(path), DataConfig(max_bad_share=1.0, workers=1))
    for _, reason in source.skipped:
      assert reason
      assert "\n" not in reason
    labels = source.labels or [""] * len(source.ids)
    places = (source.locate(i)[1] for i in range(len(source.ids)))
    values = zip(labels, source.frames.tolist(), places, strict=True)
    found = dict(zip(source.ids, values, strict=True))
    assert len(found) == len(source.ids)
    for i in range(len(source.ids)):
      whole = self.frames.get(pathlib.Path(source.locate(i)[0]).name)
      assert whole is not None
      assert 0 < source.frames[i] <= whole
    return found

  def read(self, number: int, damage: Damage) -> bool:
    try:
      found = self.open(number, damage.data)
    except DataError as error:
      assert_refusal(error)
      return True
    untouched = min(damage.low, len(damage.data))
    ends = [i for i, byte in enumerate(self.originals[number]) if byte == 10]
    first = ends if number == 2 else ends[1:]  # the head is no row
    for (name, value), end in zip(self.whole[number].items(), first, strict=True):
      # A row that is repeated in the damaged part is refused, so it stands here once.
      assert end >= untouched or found[name] == value
    return False


class StoredTensor(Reader):
  """A .pt file of one tensor, or its pickle behind a right checksum: refused, or stored numbers."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder)
    stored = GOLDEN / "torch_tensor.pt"
    with zipfile.ZipFile(stored) as archive:
      self.members = {name: archive.read(name) for name in archive.namelist()}
    self.pickle = next(name for name in self.members if name.endswith("data.pkl"))
    self.whole = read_tensor(stored)
    self.originals = [stored.read_bytes(), self.members[self.pickle]]

  def read(self, number: int, damage: Damage) -> bool:
    path = self.folder / "logits.pt"
    path.write_bytes(damage.data)
    if number:
      with zipfile.ZipFile(path, "w") as archive:
        for name, content in (self.members | {self.pickle: damage.data}).items():
          archive.writestr(name, content)
    try:
      found = read_tensor(path)
    except DataError as error:
      assert_refusal(error)
      return True
    assert np.array_equal(found, self.whole) if not number else np.isin(found, self.whole).all()
    return False


READERS = {"manifest": Manifest, "stored tensor": StoredTensor}
