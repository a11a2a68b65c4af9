import threading
import time

import pytest

from pipelines import crew as crew_module
from pipelines.crew import Crew, Stalled


def test_jobs_run_in_order_and_raise_where_they_are_awaited():
  done = []
  with Crew(1, 60.0) as crew:
    jobs = [crew.submit(lambda job, n=n: done.append(n)) for n in range(5)]
    bad = crew.submit(lambda job: 1 / 0)
    for job in jobs:
      crew.wait(job)
    with pytest.raises(ZeroDivisionError):
      crew.wait(bad)
  assert done == list(range(5))


def test_a_stall_is_warned_of_and_then_raised(caplog):
  never = threading.Event()

  def hang(job):
    job.at(lambda: "some/file.wav")
    never.wait()

  with Crew(1, 0.4) as crew:
    job, behind = crew.submit(hang), crew.submit(lambda job: None)
    with pytest.raises(Stalled, match=r"reading some/file\.wav has not ended after 0\.4 s"):
      crew.wait(job)
    began = time.monotonic()
    with pytest.raises(Stalled, match=r"reading some/file\.wav has not ended"):
      crew.wait(behind)  # no thread will ever come to it
    assert time.monotonic() - began < 0.4
  never.set()
  assert [r.getMessage().split(" since")[0] for r in caplog.records] == [
    "waiting for some/file.wav"
  ] * 2


def test_one_long_file_counts_and_not_many_short_ones():
  def work(job):
    for number in range(6):
      job.at(lambda number=number: f"file {number}")
      time.sleep(0.1)

  with Crew(1, 0.4) as crew:
    crew.wait(crew.submit(work))


def test_no_limit_and_a_closed_crew():
  release = threading.Event()
  crew = Crew(1, 0.0)
  job = crew.submit(lambda job: release.wait())
  threading.Timer(0.1, crew.close).start()
  crew.wait(job)  # returns because nobody wants it any more
  release.set()


def test_threads_are_made_when_there_is_work():
  before = set(threading.enumerate())  # threads of earlier tests may end meanwhile
  with Crew(3, 60.0) as crew:
    assert not set(threading.enumerate()) - before
    crew.wait(crew.submit(lambda job: None))
    assert len(set(threading.enumerate()) - before) == 3
  closed = Crew(3, 60.0)
  closed.close()
  closed.wait(closed.submit(lambda job: None))  # returns, and nothing is done


def test_what_is_read_is_asked_for_only_where_there_is_a_limit():
  def work(job):
    job.at(lambda: 1 / 0)
    time.sleep(1.2)

  with Crew(1, 0.0) as crew:
    crew.wait(crew.submit(work))


def test_a_sign_of_life_begins_the_limit_anew():
  def work(job):
    job.at(lambda: "a large file")
    for _ in range(8):
      time.sleep(0.1)
      crew_module.alive()

  with Crew(1, 0.4) as crew:
    crew.wait(crew.submit(work))
  crew_module.alive()  # of no use to anyone on a thread of its own
