"""Many jobs into folders, one after the other: images are read ahead and results written behind."""

from collections.abc import Callable, Iterator, Sequence
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
"""(a job's name, its progress) -> whether all of them are to stop."""

GetNetwork = Callable[[Prepared], Network | None]
"""The network that a task's jobs share, named by the first; None has them load their own."""


class Task(NamedTuple):
    """Jobs that are painted together.

    Attributes:
      jobs: one at least; each one's folder has its name.
      checkpoints: folder for what is needed to go on with all of them.
    """

    jobs: Sequence[Job]
    checkpoints: Path


class Outcome(NamedTuple):
    """What became of a task.

    Attributes:
      jobs: of the task.
      error: why it failed; None where its folders are complete.
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
) -> Iterator[Outcome]:
    """Paint tasks; yield each as soon as its folders are complete, or it has failed.

    Results that are there are replaced: what may stay is for the caller to leave out.

    Args:
      tasks: in their order.
      folder: the jobs' folders are made in it.
      get_network: see `GetNetwork`.
      observe: called after every chunk; once it returns True, no other task is begun.
      num_devices: of this machine, among which each task is shared out.
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
                # Before another's failure ends all: what is painted is written.
                earlier, behind = behind, [(task, writer.submit(painted.save))]
                yield from map(_wait, earlier)
                if stopped:
                    break
            earlier, behind = behind, []
            yield from map(_wait, earlier)
        finally:
            # Where the caller asks for no more.
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
    """Read the images of a task's jobs, each of which is to be put into its folder."""
    return [prepare(job.config.replace(output=str(folder / job.name))) for job in task.jobs]


def paint_task(
    group: Sequence[Prepared],
    task: Task,
    *,
    get_network: GetNetwork,
    observe: Observe = lambda name, progress: False,
    num_devices: int = 1,
) -> Painted:
    """Paint a task's jobs together, to be saved afterwards.

    Args:
      group: see `read_task`.
      task: that they are of.
      get_network: see `GetNetwork`.
      observe: see `Observe`.
      num_devices: as in `run_tasks`.
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
