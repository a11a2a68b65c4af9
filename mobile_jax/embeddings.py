"""Scene and timestamp embeddings: the feature sets of the embedding study (section 9).

    name      paper    what it is                                          size at width 1
    mel       L        mean over time of the normalised log-mel            128
    clf1      H_Clf1   mean of the last convolution                        960
    clf2      H_Clf2   hidden layer of the mlp head, after its hardswish   1280
    logits    H_Clf3   logits                                              527
    se        M_SE     bottlenecks of blocks 5, 11, 13, 15 before ReLU     560
    blocks    M_B      pooled outputs of blocks 5, 11, 13, 15              472

Single layers go by "b0" (the stem) to "b15" and "se5"; "all_blocks" is b0 to b15. Whatever the
order asked for, the parts stand in the order of this table, layers ascending, as released.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Literal, assert_never, get_args

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from dasheng_jax.config import unknown_name
from dasheng_jax.errors import ConfigError
from mobile_jax.config import SE_BLOCKS, MNConfig
from mobile_jax.families import Tagger, size_of
from mobile_jax.inference import check_wave, log_mel
from mobile_jax.mn import Outputs
from mobile_jax.network import Config, Variables, infer, shapes

Pooling = Literal["avg", "max", "add", "cat", "avg_time", "avg_max_time"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# The layers of the embedding study.
STUDIED = (5, 11, 13, 15)
# The paper's names and the released wrapper's, beside ours.
_ALIASES = {
  "L": "mel",
  "mel_avgs": "mel",
  "M_B": "blocks",
  "M_SE": "se",
  "H_Clf1": "clf1",
  "H_Clf2": "clf2",
  "H_Clf3": "logits",
}
_SETS = {
  "blocks": tuple(f"b{n}" for n in STUDIED),
  "se": tuple(f"se{n}" for n in STUDIED),
  "all_blocks": tuple(f"b{n}" for n in range(16)),
}
ORDER = (
  "mel",
  "clf1",
  "clf2",
  "logits",
  *(f"se{n}" for n in SE_BLOCKS),
  *(f"b{n}" for n in range(16)),
)
# A scene longer than this is embedded in windows of this length; both in seconds.
LONGEST_SCENE = 10.0
SCENE_HOP = 2.5
# Windows that go through the network side by side.
WINDOWS_AT_ONCE = 32

Describe = Callable[..., jax.Array]


def parts_of(features: Sequence[str], cfg: Config) -> tuple[str, ...]:
  """The single parts that a choice of feature sets stands for, in the released order.

  Raises ConfigError for an unknown name, or for a part that the model does not have.
  """
  if not isinstance(cfg, Tagger):
    raise ConfigError(
      f"feature sets are those of MN and DyMN; a {size_of(cfg)} has the pooled features of tag()"
    )
  if isinstance(features, str):
    features = (features,)
  wanted: set[str] = set()
  for feature in features:
    name = _ALIASES.get(feature, feature)
    if name not in _SETS and name not in ORDER:
      known = (*_SETS, *ORDER, *_ALIASES)
      raise ConfigError(unknown_name("feature set", feature, known))
    wanted |= set(_SETS.get(name, (name,)))
  if not wanted:
    raise ConfigError("features is empty; choose some of mel, clf1, clf2, logits, se, blocks")
  has_se = isinstance(cfg, MNConfig) and "c" in cfg.squeezed
  if any(part.startswith("se") for part in wanted) and not has_se:
    raise ConfigError("feature set 'se' needs an MN with se 'c'; use 'blocks'")
  if "clf2" in wanted and getattr(cfg, "head", "mlp") != "mlp":
    raise ConfigError("feature set 'clf2' is the mlp head's hidden layer; this model has none")
  return tuple(part for part in ORDER if part in wanted)


def check_pooling(pooling: str) -> None:
  """Raises ConfigError for an unknown pooling, which a choice without blocks would never use."""
  if pooling not in POOLINGS:
    raise ConfigError(f"pooling is {pooling!r}; choose from {', '.join(POOLINGS)}")


def embedding_size(cfg: Config, features: Sequence[str], pooling: Pooling = "avg") -> int:
  """Numbers per embedding."""
  return sum(part_sizes(cfg, parts_of(features, cfg), pooling).values())


def part_sizes(cfg: Config, parts: Sequence[str], pooling: Pooling = "avg") -> dict[str, int]:
  """Numbers of each single part, in the order given; see `parts_of`."""

  def describe(variables: Variables, wave: jax.Array) -> list[jax.Array]:
    mel = log_mel(cfg, wave)
    outputs = infer(cfg, variables, mel)
    return [describe_log_mel(cfg, outputs, mel, (part,), pooling) for part in parts]

  wave = jax.ShapeDtypeStruct((1, int(cfg.mel.sample_rate)), jnp.float32)
  made = jax.eval_shape(describe, shapes(cfg), wave)
  return {part: x.shape[-1] for part, x in zip(parts, made, strict=True)}


def scene_embeddings(
  cfg: Config,
  variables: Variables,
  wave: Float[Array, "b s"],
  *,
  features: Sequence[str] = ("blocks", "mel"),
  pooling: Pooling = "avg",
) -> Float[Array, "b d"]:
  """One embedding per clip of waves in [-1, 1] at 32 kHz (reference text, section 9.1).

  Up to 10 s in one pass without padding; longer ones as the mean over windows of 10 s every 2.5 s,
  on the wave reflected by 5 s at both ends.
  """
  check_wave(cfg, wave)
  rate = cfg.mel.sample_rate
  if wave.shape[1] <= LONGEST_SCENE * rate:
    parts = parts_of(features, cfg)
    return _describe(cfg, variables, wave, parts=parts, pooling=pooling)
  windows, _ = timestamp_embeddings(
    cfg,
    variables,
    wave,
    features=features,
    pooling=pooling,
    window_seconds=LONGEST_SCENE,
    hop_seconds=SCENE_HOP,
  )
  return jnp.mean(windows, axis=1)


def timestamp_embeddings(
  cfg: Config,
  variables: Variables,
  wave: Float[Array, "b s"],
  *,
  features: Sequence[str] = ("blocks", "mel"),
  pooling: Pooling = "avg",
  window_seconds: float = 0.16,
  hop_seconds: float = 0.05,
) -> tuple[Float[Array, "b n d"], Float[Array, "b n"]]:
  """(embeddings, centres in ms) of windows cut every hop from the reflected wave (section 9.2).

  n = floor(s / hop) + 1. Raises ConfigError for a clip of half a window or less.
  """
  check_wave(cfg, wave)
  rate, parts = cfg.mel.sample_rate, parts_of(features, cfg)
  window, hop = round(window_seconds * rate), round(hop_seconds * rate)
  if window < cfg.mel.min_samples or hop < 1:
    raise ConfigError(
      f"windows of {window_seconds} s every {hop_seconds} s are too short; "
      f"at least {cfg.mel.min_samples / rate:.3f} s and one sample"
    )
  if wave.shape[1] <= window // 2:
    raise ConfigError(
      f"a clip of {wave.shape[1]} samples cannot be reflected by half a window of {window}; "
      "pad it with zeros or take a shorter window"
    )
  padded = jnp.pad(wave, ((0, 0), (window // 2, window // 2)), mode="reflect")
  count = (padded.shape[1] - window) // hop + 1

  def embed(starts: jax.Array) -> jax.Array:
    cut = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(padded, start, window, axis=1))
    clips = rearrange(cut(starts), "n b s -> (n b) s")
    made = _describe(cfg, variables, clips, parts=parts, pooling=pooling)
    return rearrange(made, "(n b) d -> n b d", b=wave.shape[0])

  at_once = min(count, max(1, WINDOWS_AT_ONCE // wave.shape[0]))
  rounds = -(-count // at_once)
  # The last round is filled up with its last window, whose copies are dropped.
  starts = jnp.minimum(jnp.arange(rounds * at_once), count - 1) * hop
  found = jax.lax.map(embed, starts.reshape(rounds, at_once))
  found = rearrange(found, "rounds n b d -> b (rounds n) d")[:, :count]
  times = jnp.arange(count, dtype=jnp.float32) * (1000 * hop / rate)
  return found, jnp.broadcast_to(times[None], (wave.shape[0], count))


def load_embedder(
  path: str | os.PathLike,
  *,
  name: str | None = None,
  config: Config | None = None,
  features: Sequence[str] = ("blocks", "mel"),
  pooling: Pooling = "avg",
  temperature: float | None = None,
  kernels: str = "auto",
) -> tuple[Describe, Variables]:
  """(describe, variables); `describe(variables, wave)` maps f32[b, s] at 32 kHz to f32[b, d].

  features, pooling: see the top of this file and `pool_map`. The other arguments and the errors
  are those of `load_model`.
  """
  from mobile_jax.weights.load import read_model

  check_pooling(pooling)
  cfg, variables = read_model(path, name=name, config=config, temperature=temperature)
  cfg = cfg.with_compute(kernels=kernels)
  parts = parts_of(features, cfg)
  describe = functools.partial(scene_embeddings, cfg, features=parts, pooling=pooling)
  return describe, variables


def _describe(
  cfg: Config, variables: Variables, wave: jax.Array, *, parts: tuple[str, ...], pooling: Pooling
) -> jax.Array:
  check_pooling(pooling)
  mel = log_mel(cfg, wave)
  return describe_log_mel(cfg, infer(cfg, variables, mel), mel, parts, pooling)


def describe_log_mel(
  cfg: Config,
  outputs: Outputs,
  mel: Float[Array, "b f frames"],
  parts: tuple[str, ...],
  pooling: Pooling = "avg",
) -> Float[Array, "b d"]:
  """The parts of one forward pass side by side."""

  def part(name: str) -> jax.Array:
    match re.fullmatch(r"([a-z]+?)(\d*)", name).groups():  # type: ignore[union-attr]
      case ("mel", _):
        return jnp.mean(mel, axis=2)
      case ("logits", _):
        return outputs.logits
      case ("clf", "1"):
        return outputs.features
      case ("clf", _):
        assert outputs.hidden is not None
        return outputs.hidden
      case ("se", number):
        return outputs.squeezed[int(number)]["c"]
    number = int(name.removeprefix("b"))
    return pool_map(outputs.stages[number], pooling)

  return jnp.concatenate([part(name) for name in parts], axis=-1)


def pool_map(x: Float[Array, "b f t c"], pooling: Pooling = "avg") -> Float[Array, "b d"]:
  """A block's output as one vector.

  "avg" and "max" over both axes, "add" their sum, "cat" the two side by side; "avg_time" and
  "avg_max_time" (their sum) over time alone, channels and frequencies flattened, frequency fastest.
  """
  check_pooling(pooling)
  x = x.astype(jnp.float32)
  match pooling:
    case "avg":
      return jnp.mean(x, axis=(1, 2))
    case "max":
      return jnp.max(x, axis=(1, 2))
    case "add":
      return jnp.mean(x, axis=(1, 2)) + jnp.max(x, axis=(1, 2))
    case "cat":
      return jnp.concatenate([jnp.mean(x, axis=(1, 2)), jnp.max(x, axis=(1, 2))], axis=-1)
    case "avg_time":
      return rearrange(jnp.mean(x, axis=2), "b f c -> b (c f)")
    case "avg_max_time":
      return rearrange(jnp.mean(x, axis=2) + jnp.max(x, axis=2), "b f c -> b (c f)")
  assert_never(pooling)
