"""Studies at work: every recording through every model, resumable, here, in processes or on a Dask scheduler."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import InputError, MissingExtraError, TectumError, explain
from .core.log import logger, progress
from .core.serialize import write_text
from .study import Job, Study, as_json, checksum, estimator_class, load_source, prepare

__all__ = ["Job", "Outcome", "Study", "run", "run_job", "summarise"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Parameters
    ----------
    job : Job
        Which.
    status : {"done", "skipped", "failed"}
        Done now, found done, or failed.
    seconds : float
        Wall time, of the earlier run if skipped.
    score : float or None
        Held-out score where asked for.
    error : str
        Cause of the failure.
    """

    job: Job
    status: str
    seconds: float = 0.0
    score: float | None = None
    error: str = ""


def run(study: Study, *, n_jobs: int = 1, scheduler: str | None = None) -> list[Outcome]:
    """Run the jobs of a study that are not done yet and write a summary.

    Parameters
    ----------
    study : Study
        What to run.
    n_jobs : int, default 1
        Processes on this machine; with more than one, each computes on one thread.
    scheduler : str, optional
        Address of a Dask scheduler ("tcp://host:8786") to run the jobs on instead; its workers should have one thread
        each.

    Returns
    -------
    list of Outcome
        In the order of :meth:`Study.jobs`; a failed job does not stop the others.
    """
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs < 1:
        raise InputError(explain("run(n_jobs)", expected="a number of processes >= 1", got=repr(n_jobs)))
    jobs = study.jobs()
    found = [_found(job) for job in jobs]
    missing = [job for job, outcome in zip(jobs, found, strict=True) if outcome is None]
    logger.info("%d of %d jobs to do", len(missing), len(jobs))
    made = iter(_run_all(missing, study.name, n_jobs, scheduler))
    outcomes = [outcome or next(made) for outcome in found]
    summarise(study, outcomes)
    return outcomes


def _found(job: Job) -> Outcome | None:
    """Return the outcome of a job that was finished earlier."""
    record = job.finished()
    if record is None:
        return None
    return Outcome(job=job, status="skipped", seconds=record.get("seconds", 0.0), score=record.get("score"))


def _run_all(jobs: Sequence[Job], name: str, n_jobs: int, scheduler: str | None) -> list[Outcome]:
    """Run jobs and return their outcomes; where a worker died, those without an outcome failed."""
    import joblib

    task, done = joblib.delayed(run_job), []
    apart = n_jobs > 1 or scheduler is not None
    with _backend(n_jobs, scheduler):
        try:
            made = joblib.Parallel(return_as="generator")(task(job, one_thread=apart) for job in jobs)
            for outcome in progress(made, name, total=len(jobs)):
                done.append(outcome)  # noqa: PERF402  what came before an error counts
        except Exception as cause:  # run_job lets none through, so it is a worker or the scheduler
            error = f"the worker died (out of memory?): {type(cause).__name__}: {cause}"
            done += [_found(job) or Outcome(job=job, status="failed", error=error) for job in jobs[len(done) :]]
    return done


@contextmanager
def _backend(n_jobs: int, scheduler: str | None) -> Iterator[None]:
    """Choose where joblib runs: here, in processes, or on a Dask scheduler."""
    import joblib

    if scheduler is None:
        with joblib.parallel_config(backend="sequential" if n_jobs == 1 else "loky", n_jobs=n_jobs):
            yield
        return
    with _client(scheduler), joblib.parallel_config(backend="dask"):
        yield


@contextmanager
def _client(scheduler: str) -> Iterator[None]:
    """Connect to a Dask scheduler."""
    try:
        from dask.distributed import Client
    except ImportError as cause:
        fix = 'pip install "tectum[distributed]"'
        raise MissingExtraError(explain("run(scheduler)", expected="Dask", got="none installed", fix=fix)) from cause
    try:
        client: Any = Client(scheduler)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as cause:
        got = f"{scheduler!r}: {cause}"
        raise InputError(explain("run(scheduler)", expected="a Dask scheduler that answers", got=got)) from cause
    with client:
        yield


def run_job(job: Job, *, one_thread: bool = False) -> Outcome:
    """Run one job; failures are caught, written beside the result and reported."""
    import torch

    if one_thread:
        torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        score = _compute(job, started)
    except Exception as cause:
        brief = str(cause) if isinstance(cause, TectumError) else f"{type(cause).__name__}: {cause}"
        write_text(job.path(".error.txt"), f"{brief}\n\n{traceback.format_exc()}")
        return Outcome(job=job, status="failed", seconds=time.perf_counter() - started, error=brief)
    job.path(".error.txt").unlink(missing_ok=True)
    return Outcome(job=job, status="done", seconds=time.perf_counter() - started, score=score)


def _compute(job: Job, started: float) -> float | None:
    """Read, preprocess, fit, evaluate, save; the record is written last."""
    from . import __version__
    from .evaluate import cross_validate
    from .report import Report

    data = prepare(load_source(job.recording), job.preprocess)
    model = estimator_class(job.model)(**job.parameters).fit(data, checkpoint=job.path(".checkpoint"))
    score = float(cross_validate(model, data, **job.evaluation).mean()) if job.evaluation else None
    model.save(job.path(".safetensors"))
    Report(f"{job.label}: {job.name}").add(data).add(model).save(job.path(".html"))
    content = {"recording": job.recording, "model": job.model, "parameters": dict(job.parameters),
               "preprocess": list(job.preprocess), "evaluation": dict(job.evaluation), "score": score,
               "seconds": time.perf_counter() - started, "tectum": __version__,
               "sha256": checksum(str(job.path(".safetensors")))}  # fmt: skip
    write_text(job.path(".json"), json.dumps(content, indent=1, default=as_json))
    job.path(".checkpoint").unlink(missing_ok=True)
    return score


def summarise(study: Study, outcomes: Sequence[Outcome]) -> Path:
    """Write ``summary.tsv``: one line a job with status, seconds, score, file (in the output folder) and error."""
    lines = ["recording\tmodel\tstatus\tseconds\tscore\tfile\terror"]
    for o in outcomes:
        score = "" if o.score is None else f"{o.score:.6g}"
        file = o.job.path(".error.txt" if o.status == "failed" else ".safetensors").relative_to(study.folder).as_posix()
        cells = [o.job.label, o.job.name, o.status, f"{o.seconds:.2f}", score, file, " ".join(o.error.split())]
        lines.append("\t".join(cells))
    return write_text(study.folder / "summary.tsv", "\n".join(lines) + "\n")
