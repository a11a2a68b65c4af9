"""Feature sets of MN and DyMN as rows of their own, cut out of one pass over the clips.

    --apart --features mel blocks blocks+mel
                          |
      parts asked of the network: mel, blocks      a clip goes through it once
                          |
      columns of its embedding:   mel 0:128   blocks 128:320   blocks+mel 0:320
                          |
      a row for each in the table

Numbers are those of a run with these features alone: an embedding is the sets side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from experiments.embedding.embedder import Embedder, Embedding
from mobile_jax.embeddings import part_sizes, parts_of

JOINT = "+"


def asked(features: Sequence[str]) -> tuple[str, ...]:
  """All sets that a choice such as ("mel", "blocks+mel") is made of, each once."""
  return tuple(dict.fromkeys(name for one in features for name in one.split(JOINT)))


def columns_of(
  embedder: Embedder, features: Sequence[str]
) -> dict[str, Int[np.ndarray, " columns"]]:
  """Which numbers of an embedding each choice is; nothing for what has no feature sets.

  The embedder gives all parts of `asked(features)`. Raises ConfigError for an unknown set.
  """
  from experiments.embedding.mobile import MobileEmbedder

  if not isinstance(embedder, MobileEmbedder):
    return {}
  cfg = embedder.cfg
  sizes = part_sizes(cfg, embedder.parts, embedder.settings["pooling"])
  begins = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
  return {
    one: np.concatenate(
      [begins[part] + np.arange(sizes[part]) for part in parts_of(one.split(JOINT), cfg)]
    )
    for one in dict.fromkeys(features)
  }


def cut(made: Embedding, columns: Int[np.ndarray, " columns"]) -> Embedding:
  """The embedding with these numbers alone."""
  frames = made.timestamps if made.timestamps is None else made.timestamps[:, columns]
  return Embedding(made.scene[columns], frames, made.times_ms)
