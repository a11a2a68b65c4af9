"""The engine without TensorFlow: threads that stay a few batches ahead of the consumer."""

import concurrent.futures
import itertools
from collections import deque
from collections.abc import Iterator

from pipelines.assemble import Assembler


def thread_steps(assembler: Assembler) -> Iterator[int]:
  """Yields the steps in order, each once all of its rows are filled."""
  pool = concurrent.futures.ThreadPoolExecutor(assembler.workers, "pipelines")
  if assembler.stop_step is None:
    steps: Iterator[int] = itertools.count(assembler.start_step)
  else:
    steps = iter(range(assembler.start_step, assembler.stop_step))
  ahead: deque[tuple[int, list[concurrent.futures.Future]]] = deque()

  def submit(count: int) -> None:
    for step in itertools.islice(steps, count):
      chunks = range(step * assembler.chunks, (step + 1) * assembler.chunks)
      ahead.append((step, [pool.submit(assembler.run_chunk, c) for c in chunks]))

  try:
    submit(assembler.prefetch + 1)
    while ahead:
      step, chunks = ahead.popleft()
      concurrent.futures.wait(chunks)
      submit(1)
      yield step
  finally:
    pool.shutdown(wait=False, cancel_futures=True)
