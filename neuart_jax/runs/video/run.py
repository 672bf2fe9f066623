"""Paint a clip into a film, as the command line does, from Python."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import jax

from neuart_jax.config.config import Config
from neuart_jax.config.errors import InputError
from neuart_jax.engine.binding import bind_network, load_run_network
from neuart_jax.engine.profiling import phase
from neuart_jax.engine.sharding import check_devices, describe_devices
from neuart_jax.engine.step import Status
from neuart_jax.inputs.pair import with_frame
from neuart_jax.io.clips.animation_writing import save_animation
from neuart_jax.io.clips.film_writing import writing_film
from neuart_jax.io.decoding import Float32
from neuart_jax.io.files import dump_json, remove_leftovers
from neuart_jax.io.images import load_image
from neuart_jax.models.params.load import Network, settle_network
from neuart_jax.runs.destination import removing_empty_folders
from neuart_jax.runs.folder import default_folders
from neuart_jax.runs.own_folder import is_in_use
from neuart_jax.runs.prepare import without_folders
from neuart_jax.runs.record import RECORD_NAME, Record, make_film_metadata, read_record
from neuart_jax.runs.video.film_progress import FilmObserver, FilmReporter
from neuart_jax.runs.video.frames import (
    FRAMES_NAME,
    PaintedFrames,
    count_bytes,
    describe_result,
)
from neuart_jax.runs.video.look import look_at_clip
from neuart_jax.runs.video.passes import Painter
from neuart_jax.runs.video.place import FilmPlace, find_film_place
from neuart_jax.runs.video.place import is_clip_run as is_clip_run
from neuart_jax.runs.video.prepare import PreparedClip, prepare_clip
from neuart_jax.runs.video.shots import find_shots, paint_shots

logger = logging.getLogger(__name__)

# Largest number of bytes per pixel of a film, by codec; "" stands for animations.
_FILM_BYTES = {"h264": 0.75, "prores": 1.5, "ffv1": 3.0, "": 1.5}
# Age of unfinished films to remove; a running encoder writes more often.
_SECONDS_OF_A_FILM = 3600
_PACKAGES = ("av", "opencv-python-headless")


class Film(NamedTuple):
    """A painted clip, or a part of one.

    Attributes:
      path: path of the film; without a film, path of the folder of frames.
      folder: folder of the frames, the record and the metrics.
      num_frames: number of frames of the clip.
      num_painted: number of frames that are fully painted.
      num_failed: number of these whose loss became infinite or NaN.
      stopped: whether the observer stopped the run.
      seconds: seconds that this run painted.
      error: mean E_warp of the result and of the source; None if unknown for all frames.
    """

    path: Path
    folder: Path
    num_frames: int
    num_painted: int
    num_failed: int
    stopped: bool
    seconds: float
    error: tuple[float, float] | None


def paint_film(
    config: Config,
    *,
    network: Network | None = None,
    observer: FilmObserver | None = None,
    repeated: Record | None = None,
    num_devices: int = 0,
) -> Film:
    """Read a clip, paint its frames, and write the film, its frames, a record and metrics.

    A run that was interrupted by a signal or a crash resumes at the interrupted frame, and its film
    is the same, byte for byte. Painted frames are kept even if the film can't be written.

    With several devices, cuts are found first, and shots are painted at the same time, each on one
    device.

    Args:
      config: configuration with `content`, a clip, and `style` set.
      network: network of `config.network`; None loads it.
      observer: see `FilmObserver`.
      repeated: record that this run repeats; differences are logged.
      num_devices: number of this machine's devices to use; 0 takes all.

    Raises:
      InputError: an argument is invalid, or a frame or the film can't be written.
    """
    devices = jax.local_devices()[: num_devices or None]
    check_devices(num_devices or len(devices))
    _check_free(find_film_place(config), config)
    look, reason = look_at_clip(config), ""
    prepared = prepare_clip(config, look)
    if network is None:
        with phase("weights"):
            found, reason = settle_network(config.network)
    else:
        found = network.config
    if (found.model, found.weights) != (config.network.model, config.network.weights):
        # The network was left open; other settings may resolve differently now that it is known.
        prepared = prepare_clip(config.replace(model=found.model, weights=found.weights), look)
    for note in (*prepared.notes, f"Computing on {describe_devices()}."):
        logger.info(note)
    if network is None:
        frames = [with_frame(prepared.plan.pair, image) for image in prepared.fitted]
        network = load_run_network([prepared.plan.with_content(frame) for frame in frames])
        logger.info(f"{network.message[:-1]}; {reason}." if reason else network.message)
    for note in prepared.plan.pair.notes:
        logger.info(note)
    record = _make_record(prepared, network)
    if repeated is not None and (differences := record.differences(repeated)):
        logger.warning(
            "Pixels may differ slightly: the record was made with a different setup (%s).",
            differences,
        )
    place = _settle(prepared.place, record)
    return _paint(prepared, network, record, place, observer, devices)


def _paint(
    prepared: PreparedClip,
    network: Network,
    record: Record,
    place: FilmPlace,
    observer: FilmObserver | None,
    devices: Sequence[jax.Device],
) -> Film:
    """Paint frames into a folder, and encode the film."""
    config, clip = prepared.config, prepared.clip
    folder, film = place.folder, place.film
    assert folder is not None
    with removing_empty_folders([folder]):
        painted = PaintedFrames(
            folder,
            record,
            film_name=film.name if film is not None and film.parent == folder else "",
            overwrite=config.output.overwrite,
            resume=config.output.resume,
        )
        try:
            plan, params = bind_network(prepared.plan, network)
            shots = [range(clip.num_frames)]
            if len(devices) > 1:
                logger.info(
                    "Looking for cuts, so that %d devices can paint a shot each.", len(devices)
                )
                shots = find_shots(prepared)
            painters = [
                Painter(frames, prepared, plan, painted=painted, record=record) for frames in shots
            ]
            num_units = config.video.passes * clip.num_frames
            num_found = sum(painter.find_first() for painter in painters)
            devices = devices[: len(shots)]
            _check_room(
                *(painted, prepared, place),
                num_units=num_units - num_found,
                num_at_once=len(devices),
            )
            if num_found:
                logger.info(
                    "Resuming after %d of %d frames, from %s.", num_found, num_units, folder
                )
            reporter = FilmReporter(observer, num_units=num_units, num_found=num_found)
            description = _describe(prepared)
            painted.begin({"film": description})
            began = time.monotonic()
            paint_shots(painters, params, reporter, devices=devices)
            seconds = time.monotonic() - began
            num_painted = sum(
                unit.is_last and unit.number in painted.lines
                for painter in painters
                for unit in painter.units
            )
            figures = describe_result(painted.lines)
            if not reporter.stopped:
                if film is not None:
                    # No times, so that equal frames make equal films.
                    timeless = {n: value for n, value in figures.items() if n != "seconds"}
                    document = {"film": description, "result": timeless}
                    metadata = _make_metadata(prepared, record, document, name=film.name)
                    _encode(prepared, painted, place, metadata)
                painted.finish({"film": description, "result": figures})
        finally:
            painted.close()
    non_finite = Status.NON_FINITE.name.lower()
    failed = {line["frame"] for line in painted.lines.values() if line["status"] == non_finite}
    error = figures["e_warp"], figures["e_warp_source"]
    return Film(
        path=film if film is not None and not reporter.stopped else folder / FRAMES_NAME,
        folder=folder,
        num_frames=clip.num_frames,
        num_painted=num_painted,
        num_failed=len(failed),
        stopped=reporter.stopped,
        seconds=seconds,
        error=None if error[0] is None else error,
    )


def _make_metadata(
    prepared: PreparedClip, record: Record, document: Mapping[str, object], *, name: str
) -> dict[str, str]:
    """Return the metadata of a film: its record, with the sections of a document."""
    record = record.without_command()
    if prepared.clip.sound is None:
        # The setting has no effect.
        record = record._replace(config=record.config.replace(sound=True))
    return make_film_metadata(dump_json({**record.to_dict(), **document}), name=name)


@phase("output")
def _encode(
    prepared: PreparedClip,
    painted: PaintedFrames,
    place: FilmPlace,
    metadata: Mapping[str, str],
) -> None:
    """Write the film from the painted frames.

    Raises:
      InputError: the film can't be written; the frames are kept.
    """
    assert place.film is not None
    logger.info("Encoding %s.", place.film)
    # Left by runs that were killed; other runs may be writing to the same folder.
    remove_leftovers(place.film.parent, seconds=_SECONDS_OF_A_FILM)
    clip = prepared.clip
    ends = (*clip.times[1:], clip.end)
    durations = [end - time for time, end in zip(clip.times, ends, strict=True)]
    try:
        if prepared.film is None:
            save_animation(
                place.film, _read_frames(prepared, painted), durations, metadata=metadata
            )
            return
        with writing_film(place.film, prepared.film._replace(metadata=metadata)) as film:
            for image, time_, duration in zip(
                _read_frames(prepared, painted), clip.times, durations, strict=True
            ):
                film.add(image, time_, duration)
    except InputError as error:
        raise InputError(
            error.came,
            expected=error.expected,
            remedy=f"{error.remedy}, then run the same command again: all {clip.num_frames} frames "
            f"are painted, in {painted.path / FRAMES_NAME}",
        ) from error


def _read_frames(prepared: PreparedClip, painted: PaintedFrames) -> Iterator[Float32]:
    for frame in range(prepared.clip.num_frames):
        yield load_image(painted.frame_path(frame)).image


def _check_room(
    painted: PaintedFrames,
    prepared: PreparedClip,
    place: FilmPlace,
    *,
    num_units: int,
    num_at_once: int,
) -> None:
    passes, count = prepared.config.video.passes, prepared.clip.num_frames
    num_states = (count if passes > 1 else max(prepared.distances) + 1) + num_at_once
    pixels = prepared.height * prepared.width
    film = _FILM_BYTES[place.codec] * pixels * count if place.film is not None else 0
    painted.check_room(
        int(film)
        + count_bytes(
            prepared.height,
            prepared.width,
            num_frames=min(num_units, count),
            num_states=num_states if num_units else 0,
        )
    )


def _describe(prepared: PreparedClip) -> dict[str, object]:
    """Return the properties of the film that aren't settings, for its record."""
    clip, film = prepared.clip, prepared.film
    return {
        "frames": clip.num_frames,
        "height": prepared.height,
        "width": prepared.width,
        "seconds": float(clip.end),
        "frame_rate": str(Fraction(clip.frame_rate).limit_denominator(100_000)),
        "codec": film.codec if film is not None else prepared.place.extension.lstrip("."),
        "has_sound": film is not None and film.sound is not None,
    }


def _make_record(prepared: PreparedClip, network: Network) -> Record:
    config, prediction = prepared.config, prepared.plan.prediction
    record = Record.of_this_run(
        config if config.output.record_paths else without_folders(config),
        weights=dict(network.identity),
        inputs=prepared.digests,
        predicted_bytes=0 if prediction is None else prediction.total,
        packages=_PACKAGES,
    )
    return record


def _check_free(place: FilmPlace, config: Config) -> None:
    """Check that a film's name is free, or belongs to an interrupted run."""
    film, folder = place.film, place.folder
    if film is None or folder is None or config.output.overwrite or not os.path.lexists(film):
        return
    outcome: dict[str, object] = {}
    if (folder / RECORD_NAME).exists():
        outcome = dict(read_record(folder / RECORD_NAME).outcome)
        if not outcome:  # The run was interrupted; the film is that of an earlier run.
            return
    raise InputError(
        f"{film} is there already",
        expected="a name that is free",
        remedy="give another --output, or add --overwrite",
    )


def _settle(place: FilmPlace, record: Record) -> FilmPlace:
    """Name the folder if unnamed: the first that is free or holds this run, interrupted."""
    if place.folder is not None:
        return place
    images = record.config.images
    for folder in default_folders(images.content, *images.style):
        if not folder.exists():
            break
        if is_in_use(folder) or not record.config.output.resume:
            continue
        try:
            there = read_record(folder / RECORD_NAME)
        except InputError:
            continue
        if not there.outcome and not record.unlike(there):
            break
    return place.settle(folder)
