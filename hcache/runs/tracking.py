"""Trackers: where the metrics of a training are shown while it runs.

metrics.jsonl is the record of a run; a tracker is given the same numbers. TensorBoard's event file
is written by default, the others on request (`hcache train --tracker NAME`), each imported only
then. A tracker changes nothing of a run, and stands neither in its identity nor in its manifest.

A run that was stopped and goes on tells its tracker all its iterations again, from the first; each
tracker has every one of them once.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hcache.errors import ConfigError, RunError
from hcache.plugins import Registry

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

    from hcache.runs.folder import Run

DEFAULT = "tensorboard"
EVENTS = "events/events.out.tfevents"  # TensorBoard adds time, host and process; this one is fixed
CASTAGNOLI = 0x82F63B78  # polynomial of CRC-32C, bits reversed

TRACKERS: Registry[type[Tracker]] = Registry("tracker", "hcache.trackers")


@TRACKERS.register("none")
class Tracker:
    """A tracker that shows nothing, and the base of those that do.

    What a tracker needs is imported in `__init__`.
    """

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """Begin, or begin again, with the settings of the training by name."""

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an iteration; 0 is the policy before training."""

    def end(self) -> None:
        """Make all safe: training is over, failed, or was stopped."""


@TRACKERS.register(DEFAULT)
class TensorBoard(Tracker):
    """An event file in the run folder, written anew by each start, as metrics.jsonl is.

    Records are framed here: the package's writer imports a file-system library for that, which
    takes longer than many a training.
    """

    def __init__(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.event, self.summary = Event, Summary

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        path = run.folder / EVENTS
        path.parent.mkdir(exist_ok=True)
        self.file = path.open("wb")
        self._write(self.event(file_version="brain.Event:2"))

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        values = [self.summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
        self._write(self.event(step=iteration, summary=self.summary(value=values)))

    def end(self) -> None:
        """See `Tracker`."""
        self.file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.file.write(record(event.SerializeToString()))
        self.file.flush()


@TRACKERS.register("wandb")
class WandB(Tracker):
    """Weights & Biases; WANDB_MODE=offline keeps all in the run folder."""

    def __init__(self) -> None:
        import wandb

        self.wandb = wandb

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """See `Tracker`; steps that the server has already are left out by it."""
        self.run = self.wandb.init(
            project=run.config.name,
            id=run.name,
            name=run.name,
            dir=run.folder,
            config=dict(settings),
            resume="allow",
        )

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.run.log(dict(metrics), step=iteration)

    def end(self) -> None:
        """See `Tracker`."""
        self.run.finish()


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """MLflow, at MLFLOW_TRACKING_URI; a run of the same name is continued where it ended."""

    def __init__(self) -> None:
        import mlflow

        self.mlflow = mlflow

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self.mlflow.set_experiment(run.config.name)
        known = self.mlflow.search_runs(
            filter_string=f'attributes.run_name = "{run.name}"', output_format="list"
        )
        started = self.mlflow.start_run(
            run_id=known[0].info.run_id if known else None, run_name=run.name
        )
        self.mlflow.log_params(settings)
        self.last = started.data.metrics.get("iteration", -1)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if iteration > self.last:
            self.mlflow.log_metrics({"iteration": iteration, **metrics}, step=iteration)

    def end(self) -> None:
        """See `Tracker`."""
        self.mlflow.end_run()


@TRACKERS.register("trackio")
class Trackio(Tracker):
    """Trackio, in its own folder of this machine; a run of the same name is replaced."""

    def __init__(self) -> None:
        import trackio

        self.trackio = trackio

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        with suppress(ValueError):  # which says that there is no such project yet
            for known in self.trackio.Api().runs(run.config.name):
                if known.name == run.name:
                    known.delete()
        self.trackio.init(project=run.config.name, name=run.name, config=dict(settings))

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.trackio.log(dict(metrics), step=iteration)

    def end(self) -> None:
        """See `Tracker`."""
        self.trackio.finish()


def make_tracker(name: str) -> Tracker:
    """A tracker by its name.

    Raises:
        ConfigError: there is none, or what it needs is not installed.
    """
    kind = TRACKERS.find(name, "--tracker")
    try:
        return kind()
    except ImportError as error:
        package = (error.name or name).split(".")[0]
        raise ConfigError(
            f"--tracker {name}: its package cannot be imported ({error}).",
            f"Install it with: pip install {package}. Or train with --tracker none.",
        ) from error


@contextmanager
def tracked(
    tracker: Tracker, run: Run, settings: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Have a training tracked; gives the function that takes the metrics of each iteration.

    Raises:
        RunError: the tracker failed.
    """

    def log(metrics: Mapping[str, float]) -> None:
        values = {name: value for name, value in metrics.items() if name != "iteration"}
        with _in_one_line(tracker):
            tracker.log(int(metrics["iteration"]), values)

    with _in_one_line(tracker):
        tracker.start(run, settings)
    try:
        yield log
    except BaseException:
        with suppress(Exception):  # what ended the training is what has to be said
            tracker.end()
        raise
    with _in_one_line(tracker):
        tracker.end()


@contextmanager
def _in_one_line(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever foreign code raises
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise RunError(
            f"the tracker {type(tracker).__name__} failed ({reason}).",
            "Run the same command again to go on, with --tracker none to go on without it.",
        ) from error


def record(data: bytes) -> bytes:
    """A record of an event file (TFRecord): length and data, each with its masked CRC-32C."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ CASTAGNOLI * (byte & 1)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]
