"""Modules that follow the HEAR 2021 interface: `mn`, `dymn`, `dasheng`, and those of `table`.

    hear-validator experiments.hear.mn --model mn10_as_mAP_471.pt

The modules of `table.MODULES` are no files: importing `experiments.hear.NAME` makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _TableModules(MetaPathFinder, Loader):
  """Finds `experiments.hear.NAME` for the names of the table."""

  def find_spec(
    self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
  ) -> ModuleSpec | None:
    package, _, name = fullname.rpartition(".")
    if package != __name__ or name == "table":
      return None
    from experiments.hear.table import MODULES

    return ModuleSpec(fullname, self) if name in MODULES else None

  def exec_module(self, module: ModuleType) -> None:
    from experiments.hear import api
    from experiments.hear.table import MODULES

    name = module.__name__.rpartition(".")[2]
    row = MODULES[name]
    module.__doc__ = f"HEAR module {name}: {row.features} of {row.checkpoint}, {row.pooling}."
    module.load_model = api.table_loader(row)  # type: ignore[attr-defined]
    module.get_scene_embeddings = api.get_scene_embeddings  # type: ignore[attr-defined]
    module.get_timestamp_embeddings = api.get_timestamp_embeddings  # type: ignore[attr-defined]


sys.meta_path.append(_TableModules())
