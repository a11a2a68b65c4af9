"""The engine without TensorFlow: its threads stay a few batches ahead of the consumer."""

import itertools
from collections import deque
from collections.abc import Iterator

from pipelines.assemble import Assembler
from pipelines.crew import Job


def thread_steps(assembler: Assembler) -> Iterator[int]:
  """Yields the steps in order, each once all of its rows are filled."""
  if assembler.stop_step is None:
    steps: Iterator[int] = itertools.count(assembler.start_step)
  else:
    steps = iter(range(assembler.start_step, assembler.stop_step))
  ahead: deque[tuple[int, list[tuple[int, Job]]]] = deque()

  def submit(count: int) -> None:
    for step in itertools.islice(steps, count):
      chunks = range(step * assembler.chunks, (step + 1) * assembler.chunks)
      ahead.append((step, [(c, assembler.start_chunk(c)) for c in chunks]))

  submit(assembler.prefetch + 1)
  while ahead:
    step, chunks = ahead.popleft()
    for number, job in chunks:
      assembler.finish_chunk(number, job)
    submit(1)
    yield step
