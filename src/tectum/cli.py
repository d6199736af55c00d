"""The command line: ``tectum demo | run | info | datasets | report | stream | export``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__
from .core.errors import InputError, LoadError, TectumError

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 some job failed, 2 wrong input, 130 interrupted."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if options.log else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        code = int(options.command(options))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("tectum: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except (TectumError, OSError) as error:
        print(f"tectum: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tectum",
        description="Analysis of recorded brain data.",
        epilog="exit codes: 0 done, 1 a job failed, 2 wrong input or usage",
    )
    parser.add_argument("--version", action="version", version=f"tectum {__version__}")
    parser.add_argument("--log", action="store_true", help="show what is going on")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = _add(commands, "demo", _demo, "dynamic functional connectome of a songbird recording that ships with tectum")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder for the report (default: demo)")
    run = _add(commands, "run", _run, "run a study: many recordings, several models")
    run.add_argument("study", type=Path, metavar="STUDY.toml", help="what to run on what")
    run.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    run.add_argument("--scheduler", metavar="ADDRESS", help="run on a Dask scheduler instead, e.g. tcp://host:8786")
    info = _add(commands, "info", _info, "what is in a file")
    info.add_argument("files", type=Path, nargs="+", metavar="PATH", help="a file or folder that tectum reads")
    info.add_argument("--format", metavar="NAME", help="format of the files, where their contents do not tell")
    info.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE", type=_option,
                      help="option of the reader, such as tr=2.0 or mask=auto; may be given several times")  # fmt: skip
    info.add_argument("--html", type=Path, metavar="OUT.html", help="also write a page with a first look at the data")
    listing = _add(commands, "datasets", _datasets, "list packed and public data sets")
    listing.add_argument("key", nargs="?", metavar="KEY", help="show one of them")
    report = _add(commands, "report", _report, "one HTML page from recordings and results")
    report.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings, results or fitted models")
    report.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    report.add_argument("--title", default="Report", help="heading of the page")
    live = _add(commands, "stream", _stream, "run a decoder on a live stream of the Lab Streaming Layer")
    live.add_argument("model", type=Path, metavar="MODEL", help="a saved or exported decoder")
    live.add_argument("--lsl", required=True, metavar="NAME", help="name of the LSL stream")
    live.add_argument("--hop", type=float, default=0.1, metavar="S", help="time between decisions in s (default: 0.1)")
    live.add_argument("--markers", metavar="NAME", help="decide at the markers of this LSL stream instead of every hop")
    live.add_argument("--offset", type=float, metavar="S", help="from marker to start of window in s (default: 0)")
    live.add_argument("--seconds", type=float, metavar="S", help="stop after so many seconds")
    live.add_argument("--wait", type=float, default=5.0, metavar="S", help="time to look for the stream (default: 5)")
    live.add_argument("--convert", action="store_true", help="convert the stream's unit to the trained one")
    live.add_argument("--threshold", type=float, metavar="P", help="probability that a decision needs")
    live.add_argument("--dwell", type=int, default=1, metavar="N", help="windows in a row that it needs (default: 1)")
    live.add_argument("--json", action="store_true", help="print each decision as a line of JSON instead of a view")
    live.add_argument("--record", type=Path, metavar="FILE", help="keep chunks and decisions, to run them again")
    export = _add(commands, "export", _export, "write a decoder as ONNX or torch.export")
    export.add_argument("model", type=Path, metavar="MODEL", help="a saved decoder")
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: MODEL with the format's suffix")
    export.add_argument("--format", choices=("onnx", "torch"), help="default: told by the suffix of FILE, else onnx")
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.set_defaults(command=command)
    return made


def _option(text: str) -> tuple[str, Any]:
    """Return name and value of an option: a number, true, false, null or a list as JSON writes it, else text."""
    import json

    name, mark, value = text.partition("=")
    if not mark or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _demo(options: argparse.Namespace) -> int:
    import torch

    from .demo import demo

    torch.set_num_threads(1)  # the recording is small: more threads would only wait for one another
    print(f"report: {demo(options.output)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from .pipeline import run
    from .study import Study

    study = Study.read(options.study)
    outcomes = run(study, n_jobs=options.jobs, scheduler=options.scheduler)
    for outcome in outcomes:
        score = "" if outcome.score is None else f"score {outcome.score:.4f}"
        cells = (f"{outcome.status:7}", outcome.job.label, outcome.job.name, score, outcome.error)
        print("  ".join(cell for cell in cells if cell))
    failed = sum(o.status == "failed" for o in outcomes)
    print(f"{len(outcomes)} jobs, {failed} failed; summary: {study.folder / 'summary.tsv'}")
    return 1 if failed else 0


def _info(options: argparse.Namespace) -> int:
    from .report import Report, summary

    given = dict(options.option) | ({"format": options.format} if options.format else {})
    whole = Report("What is in these files" if len(options.files) > 1 else options.files[0].name)
    for k, file in enumerate(options.files):
        found = _named(partial(summary, **given), file, file)
        print("\n" * (k > 0) + f"{file}\n{found}")
        for section in found.report.sections:
            whole.add(section, title=file.name if len(options.files) > 1 else "")
    if options.html:
        print(f"page: {whole.save(options.html)}")
    return 0


def _named(call: Callable[[Any], Any], item: Any, file: Path) -> Any:
    """Call a function on what was read from a file; its errors name the file."""
    try:
        return call(item)
    except LoadError:  # names the file itself
        raise
    except TectumError as error:
        raise InputError(f"{file}: {error}") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{file}: {error}; its reader has no such option") from error


def _datasets(options: argparse.Namespace) -> int:
    from . import datasets

    print(datasets.info(options.key) if options.key else datasets.list())
    return 0


def _report(options: argparse.Namespace) -> int:
    from .io import read
    from .report import Report

    page = Report(options.title)
    for file in options.files:
        _named(partial(page.add, title=file.stem if len(options.files) > 1 else ""), read(file), file)
    print(f"report: {page.save(options.output)}")
    return 0


def _stream(options: argparse.Namespace) -> int:
    from .deploy import read_decoder
    from .stream import Evidence, Stream, line, lsl, markers, realtime

    decoder, cues = read_decoder(options.model), None
    given: dict[str, Any] = {}
    if options.offset is not None and options.markers is None:
        raise InputError("tectum stream: expected --markers NAME with --offset")
    if options.markers is not None:
        cues, given["offset"] = markers(options.markers, wait=options.wait), options.offset or 0.0
    if options.threshold is not None or options.dwell > 1:
        given["evidence"] = Evidence(threshold=options.threshold, dwell=options.dwell)
    stream = Stream.of(
        decoder, lsl(options.lsl, wait=options.wait), hop=options.hop, backlog=1, convert=options.convert,
        log=options.record, **given,
    )  # fmt: skip
    try:
        with realtime():
            for decision in stream.run(markers=cues, seconds=options.seconds):
                if options.json:
                    print(decision.to_json(), flush=True)
                else:
                    print(f"\r{line(decision, stream.labels)}", end="", flush=True)
    finally:
        stream.close()
        print(f"{'' if options.json else chr(10)}{stream.statistics}", file=sys.stderr)
    return 0


def _export(options: argparse.Namespace) -> int:
    from .deploy import export, read_decoder

    model = read_decoder(options.model)
    written = export(model, options.output or options.model.with_suffix(""), format=options.format)
    print(f"export: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
