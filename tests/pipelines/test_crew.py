import threading
import time

import pytest

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
    assert behind.standing() == (0.0, "")  # it waits for a thread, and stalls nobody
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
