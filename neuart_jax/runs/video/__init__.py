"""Clips in, films out: frames painted in sequence, each compared with earlier ones."""

from neuart_jax.runs.video.film_progress import FilmObserver as FilmObserver
from neuart_jax.runs.video.film_progress import FilmProgress as FilmProgress
from neuart_jax.runs.video.run import Film as Film
from neuart_jax.runs.video.run import is_clip_run as is_clip_run
from neuart_jax.runs.video.run import paint_film as paint_film
