"""Run many jobs into folders, with images prefetched and results written in the background."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from neuart_jax.config.errors import InputError
from neuart_jax.engine.result import Progress
from neuart_jax.models.params.load import Network
from neuart_jax.runs.manifest import Job
from neuart_jax.runs.painting import Painted, paint
from neuart_jax.runs.prepare import Prepared, prepare

Observe = Callable[[str, Progress], bool]
"""(name of a job, its progress) -> whether to stop all jobs."""

GetNetwork = Callable[[Prepared], Network | None]
"""First job of a task -> network shared by its jobs; None if they load their own."""


class Task(NamedTuple):
    """Jobs that run together.

    Attributes:
      jobs: the jobs, at least one; their folders have their names.
      checkpoints: folder of the task's checkpoints.
    """

    jobs: Sequence[Job]
    checkpoints: Path


class Outcome(NamedTuple):
    """The outcome of a task.

    Attributes:
      jobs: jobs of the task.
      error: exception of a failed task; None if its folders are complete.
    """

    jobs: Sequence[Job]
    error: InputError | None


def run_tasks(
    tasks: Sequence[Task],
    folder: Path,
    *,
    get_network: GetNetwork,
    observe: Observe = lambda name, progress: False,
    num_devices: int = 1,
) -> Generator[Outcome, None, None]:
    """Run tasks, and yield the outcome of each once its folders are complete or it has failed.

    Existing results are replaced: the caller leaves out jobs whose results should be kept.

    Args:
      tasks: the tasks, in order.
      folder: parent of the jobs' folders.
      get_network: returns a task's network; see `GetNetwork`.
      observe: called after every chunk; once it returns True, no further task is started.
      num_devices: number of this machine's devices over which each task is sharded.
    """
    stopped: list[bool] = []

    def watch(name: str, progress: Progress) -> bool:
        if observe(name, progress):
            stopped.append(True)
        return bool(stopped)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        behind: list[tuple[Task, Future[list[Path]]]] = []
        ahead = [reader.submit(read_task, task, folder) for task in tasks[:1]]
        try:
            for number, task in enumerate(tasks):
                read = ahead.pop()
                ahead += [reader.submit(read_task, t, folder) for t in tasks[number + 1 :][:1]]
                try:
                    painted = paint_task(
                        read.result(),
                        task,
                        get_network=get_network,
                        observe=watch,
                        num_devices=num_devices,
                    )
                except InputError as error:
                    yield Outcome(task.jobs, error)
                    continue
                # Write painted results before a failure of another task ends the run.
                earlier, behind = behind, [(task, writer.submit(painted.save))]
                yield from map(_wait, earlier)
                if stopped:
                    break
            earlier, behind = behind, []
            yield from map(_wait, earlier)
        finally:
            # If the caller stops iterating.
            for future in ahead:
                future.cancel()


def _wait(written: tuple[Task, "Future[list[Path]]"]) -> Outcome:
    task, future = written
    try:
        future.result()
    except InputError as error:
        return Outcome(task.jobs, error)
    return Outcome(task.jobs, None)


def read_task(task: Task, folder: Path) -> list[Prepared]:
    """Prepare a task's jobs, with their folders as destinations, and read their images."""
    return [prepare(job.config.replace(output=str(folder / job.name))) for job in task.jobs]


def paint_task(
    group: Sequence[Prepared],
    task: Task,
    *,
    get_network: GetNetwork,
    observe: Observe = lambda name, progress: False,
    num_devices: int = 1,
) -> Painted:
    """Run a task's jobs together; the results are saved afterwards.

    Args:
      group: the prepared jobs, from `read_task`.
      task: the task.
      get_network: returns the task's network; see `GetNetwork`.
      observe: called after every chunk; see `Observe`.
      num_devices: number of this machine's devices over which the task is sharded.
    """
    folders = [Path(prepared.config.output.output) for prepared in group]
    return paint(
        group,
        folders,
        checkpoints=task.checkpoints,
        replace=True,
        network=get_network(group[0]),
        callback=lambda number, progress: observe(task.jobs[number].name, progress),
        num_devices=num_devices,
    )
