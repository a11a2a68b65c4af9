"""Batches in a seeded order: step n's batch is a pure function of (seed, n, data set).

tf.data schedules the work: a range of chunk numbers, mapped in parallel by a function that decodes
its rows in place, grouped to steps and prefetched. Waves never pass through a tensor, which would
copy each batch twice. This is the one place with tf.data options, and where TensorFlow is kept off
accelerators.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import os
import time
import weakref
from collections.abc import Iterator

import numpy as np

from pipelines.assemble import Assembler
from pipelines.dataset import Dataset
from pipelines.errors import DataError
from pipelines.memory import thread_steps
from pipelines.order import Rows, host_rows
from pipelines.reader import ClipReader, WaveCache
from pipelines.whole import whole_batches

_ENDLESS = 1 << 40  # steps


@dataclasses.dataclass(frozen=True)
class Bad:
  """Recordings found unusable while reading: how many, and (id, reason) of each."""

  count: int
  names: tuple[tuple[str, str], ...]


class BatchIterator(Iterator[dict[str, np.ndarray]]):
  """Yields one host's batches; close it, or use it in a with statement, to end its threads.

  Attributes:
    step: the step that comes next.
    wait_seconds: time spent so far waiting for data inside `next`.
  """

  def __init__(self, assembler: Assembler, steps: Iterator[int]):
    self._assembler, self._steps = assembler, steps
    self.step = assembler.start_step
    self.wait_seconds = 0.0

  @property
  def bad(self) -> Bad:
    """Recordings of the data set that proved unusable so far; others have taken their place."""
    names = tuple(self._assembler.reader.dataset.bad.items())
    return Bad(len(names), names)

  def __next__(self) -> dict[str, np.ndarray]:
    begin = time.perf_counter()
    try:
      step = next(self._steps)
      batch = self._assembler.take(step)
    except StopIteration:
      raise
    except BaseException:
      self.close()
      raise
    finally:
      self.wait_seconds += time.perf_counter() - begin
    self.step = step + 1
    return batch

  def close(self) -> None:
    """Ends the threads; nothing comes after it."""
    self._assembler.close()
    steps, self._steps = self._steps, iter(())
    if hasattr(steps, "close"):
      steps.close()

  def __enter__(self) -> "BatchIterator":
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def __del__(self):
    if hasattr(self, "_steps"):
      self.close()


def batches(
  dataset: Dataset,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  steps: int | None = None,
  host_index: int = 0,
  host_count: int = 1,
) -> BatchIterator:
  """Training batches from `start_step` on.

  Args:
    dataset: from `open_dataset`.
    batch_size: rows of the global batch, over all hosts.
    seed: decides the order, the crops and the substitutes of unusable clips.
    start_step: the step of the first batch; resuming needs nothing else.
    steps: how many batches; None means without end.
    host_index: this host h of H hands over rows [h*B/H, (h+1)*B/H) of each batch of B rows.
    host_count: H, which must divide B.

  Returns:
    An iterator of {"wave": f32[b, s], "valid": i32[b] (samples), "id": str[b]}, and "labels" i32[b]
    (index into dataset.classes, -1 unknown) where a source has labels. Arrays are never reused.

  Raises:
    DataError: sizes that do not fit; while iterating, too many unusable recordings.
  """
  low, high = host_rows(batch_size, host_index, host_count)
  if start_step < 0 or (steps is not None and steps < 0):
    raise DataError(f"start_step {start_step} and steps {steps} must not be negative")
  if dataset.cfg.crop == "whole":
    raise DataError("data.crop 'whole' is for evaluation; train on 'pieces', 'first' or 'single'")
  order = dataset.order(seed)
  stop = None if steps is None else start_step + steps
  reader = ClipReader(dataset, seed, _waves(dataset))

  def plan(step: int) -> Rows:
    return order.rows(step, batch_size, low, high)

  return _iterate(Assembler(reader, plan, high - low, start_step, stop))


def evaluation_batches(
  dataset: Dataset, batch_size: int, *, host_index: int = 0, host_count: int = 1
) -> BatchIterator:
  """Every clip once, in order, padded to whole batches.

  With the crop "whole", clips are ordered by length and a batch is as long as its clips. Batches
  are those of `batches` with "mask" bool[b]: True for a clip, False for padding and for an
  unusable clip (its wave is zeros, its valid length 0). Random crops are those of seed 0, epoch 0.
  """
  low, high = host_rows(batch_size, host_index, host_count)
  reader = ClipReader(dataset, 0, _waves(dataset))
  if dataset.cfg.crop == "whole":
    whole = whole_batches(dataset, batch_size)

    def whole_plan(step: int) -> Rows:
      position = step * batch_size + np.arange(low, high)
      return Rows(position, np.zeros_like(position), whole[step].examples[low:high])

    return _iterate(
      Assembler(
        reader,
        whole_plan,
        high - low,
        0,
        len(whole),
        blank=True,
        samples=lambda step: whole[step].samples,
      )
    )

  def plan(step: int) -> Rows:
    position = step * batch_size + np.arange(low, high)
    example = np.where(position < len(dataset), position, -1)
    return Rows(position, np.zeros_like(position), example)

  stop = -(-len(dataset) // batch_size)
  return _iterate(Assembler(reader, plan, high - low, 0, stop, blank=True))


def _waves(dataset: Dataset) -> WaveCache | None:
  if dataset.cfg.cache != "memory":
    return None
  if "waves" not in dataset.__dict__:  # training and evaluation share one copy
    dataset.__dict__["waves"] = WaveCache(dataset)
  return dataset.__dict__["waves"]


def _iterate(assembler: Assembler) -> BatchIterator:
  dataset = assembler.reader.dataset
  no_files = all(getattr(source, "in_memory", False) for source in dataset.sources)
  if dataset.cfg.cache == "memory" or no_files:
    return BatchIterator(assembler, thread_steps(assembler))
  if importlib.util.find_spec("tensorflow") is not None:
    return BatchIterator(assembler, _tf_steps(assembler))
  raise DataError(
    "reading audio as a stream needs TensorFlow: pip install tensorflow-cpu; or set data.cache "
    "'memory' for a set that fits in memory"
  )


def _tf_steps(assembler: Assembler) -> Iterator[int]:
  """Yields the steps in order, each once all of its rows are filled."""
  tf = _tensorflow()
  chunks = assembler.chunks
  stop = _ENDLESS if assembler.stop_step is None else assembler.stop_step

  token = next(_tokens)
  _running[token] = assembler

  def run_in_graph(number):
    done = tf.numpy_function(_run_chunk, [np.int64(token), number], tf.int64, stateful=True)
    done.set_shape(())
    return done

  numbers = tf.data.Dataset.range(assembler.start_step * chunks, stop * chunks)
  done = numbers.map(run_in_graph, num_parallel_calls=assembler.workers, deterministic=True)
  done = done.batch(chunks, drop_remainder=True).prefetch(assembler.prefetch)
  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False  # the sizes above are chosen; tuning would only cost time
  options.threading.private_threadpool_size = assembler.workers + 1
  for step in done.with_options(options).as_numpy_iterator():
    yield int(step[0]) // chunks


# TensorFlow never forgets a Python function that was part of a graph, nor what that refers to: so
# there is this one, and it finds an iterator's assembler by number for as long as anyone holds it.
_tokens = itertools.count()
_running: weakref.WeakValueDictionary[int, Assembler] = weakref.WeakValueDictionary()


def _run_chunk(token: np.int64, number: np.int64) -> np.int64:
  assembler = _running.get(int(token))
  if assembler is not None:
    assembler.run_chunk(int(number))
  return number


@functools.cache
def _tensorflow():
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its greetings are no news to our users
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # no tensor maths here, and one greeting less
  import tensorflow as tf

  for kind in ("GPU", "TPU"):
    with contextlib.suppress(RuntimeError, ValueError):  # the caller has initialised TensorFlow
      tf.config.set_visible_devices([], kind)
  return tf
