"""A run without a network, in milliseconds, for tests of what is around it: files, kills, disks."""

import numpy as np

from neuart_jax import Config, save_image
from neuart_jax.engine.result import Progress, Result
from neuart_jax.engine.state import PairState, RunState
from neuart_jax.engine.step import Status
from neuart_jax.io.files import write_atomically
from neuart_jax.models.params.load import Network
from neuart_jax.runs import folder, painting

STEPS, CHUNK = 6, 2


def install(monkeypatch):
    """Let runs paint with `paint`, and with a network that is none."""
    monkeypatch.setattr(painting, "stylize_pairs", paint)
    monkeypatch.setattr(folder, "save_loss_plot", plot)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1")  # Slow to read.
    # The tests end processes, no machines, and a disk takes its time.
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(painting, "load_run_network", lambda plans: network(plans[0].config))


def plot(path, result, coefficients):
    """Write numbers in place of the plot, which takes a fifth of a second."""
    with write_atomically(path) as file:
        file.write(repr((result.step_losses.tolist(), coefficients)).encode())


def network(config):
    identity = {"name": "none", "file": "none", "sha256": "0" * 64}
    return Network(None, None, identity, "Weights: none at all.", config.network)


def pictures(folder, count=1):
    """Write photographs and a painting; return their paths."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        image = np.random.default_rng(number).random((12, 16, 3), np.float32)
        save_image(folder / f"photo{number}.png", image)
    save_image(folder / "painting.png", np.random.default_rng(9).random((8, 8, 3), np.float32))
    return [folder / f"photo{number}.png" for number in range(count)], folder / "painting.png"


def config_of(content, style, **settings):
    """Configure a run of six steps, whose checkpoints come after every second of them."""
    defaults = {
        "content": str(content),
        "style": str(style),
        "model": "vgg19",
        "weights": "random",
        "content_layers": "relu1_1",
        "style_layers": "relu1_1",
        "steps": STEPS,
        "report_every": CHUNK,
        "scales": 1,
        "checkpoint_seconds": 1e-9,
    }
    return Config().replace(**{**defaults, **settings})


def paint(plans, *, callback, restored=None, checkpoint=None, **_):
    """Do what `pairs.stylize_pairs` does: report, keep, go on where a run was cut, and end."""
    count = len(plans)
    images = [np.array(plan.pair.content) for plan in plans]
    losses = [[1.0] for _ in plans]
    histories = [[] for _ in plans]
    step = 0

    def report(number):
        status = Status.COMPLETED if step == STEPS else Status.RUNNING
        values = {"total": losses[number][-1], "content": 0.5}
        shape = images[number].shape[:2]
        progress = Progress(
            step, step, values, 0.1, 0.0, STEPS, shape, status, lambda: images[number]
        )
        histories[number].append(progress.figures())
        return callback is not None and callback(number, progress)

    def snapshot():
        pairs = [PairState([], list(history)) for history in histories]
        arrays = [*images, np.asarray(losses, np.float32), np.asarray(step)]
        return RunState(pairs, arrays)

    if restored is None:
        for number in range(count):
            report(number)
    else:
        *images, saved, at = restored.arrays
        images, step = [np.array(image) for image in images], int(at)
        losses = [[float(value) for value in row] for row in saved]
        histories = [list(pair.history) for pair in restored.pairs]
    stopped = False
    while step < STEPS and not stopped:
        step += CHUNK
        for number in range(count):
            images[number] = images[number] * 0.75 + 0.03125 * step
            losses[number] += [losses[number][-1] * 0.5] * CHUNK
            stopped = bool(report(number)) or stopped
        if checkpoint is not None:
            checkpoint(snapshot)
    return [
        Result(
            image=np.clip(images[number], 0, 1),
            losses={"total": losses[number][-1], "content": 0.5},
            status=Status.STOPPED if stopped and step < STEPS else Status.COMPLETED,
            num_steps=step,
            num_evaluations=step,
            step_losses=np.asarray(losses[number], np.float32),
            history=tuple(histories[number]),
            seconds=0.0,
            seconds_to_first_step=0.0,
            seconds_per_evaluation=0.0,
        )
        for number in range(count)
    ]
