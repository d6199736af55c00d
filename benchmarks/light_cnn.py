"""LightCNN: training by our loop against skorch's, and the time of one decision in four forms.

Run: ``python benchmarks/light_cnn.py [--threads 1] [--out FILE]`` in an environment that has skorch, onnx, onnxscript
and onnxruntime; what cannot be imported is listed as not installed.

First table: the same network, data, optimiser, batch size and number of epochs, without validation; both sides make
the same number of steps, and the training loss each reaches is printed beside its time (starting weights and the order
of batches differ). Our side also hashes the data and describes the filters, which takes a pass over all trials. Times
are the smallest of several runs, the sides in turn.

Second table: one window of 5 s, 59 channels, 500 Hz, batch 1: the plain module, the exported program, ONNX Runtime, and
``predict_proba`` with all its checks; median of 200 calls, and the largest difference of the logits.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS, TIMES, RATE, TRIALS, EPOCHS, BATCH = 59, 500, 100.0, 240, 5, 16
WINDOW = 2500


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TRIALS, CHANNELS, TIMES)).astype(np.float32)
    x[1::2, :4] *= 1.5
    return x, np.arange(TRIALS) % 2


def settings() -> dict[str, Any]:
    return {"epochs": EPOCHS, "batch_size": BATCH, "validation": 0.0, "normalise": "none", "device": "cpu"}


def ours(x: np.ndarray, y: np.ndarray) -> tuple[str, Callable[[], float]]:
    import torch

    import tectum

    rec = tectum.Recording(data=torch.from_numpy(x), dims=("trial", "channel", "time"), rate=RATE, units="uV")

    def run() -> float:
        return float(tectum.LightCNN(**settings()).fit(rec, y).result_.loss[-1])

    return "tectum", run


def skorch(x: np.ndarray, y: np.ndarray) -> tuple[str, Callable[[], float]]:
    import torch
    from skorch import NeuralNetClassifier

    from tectum.models.light_cnn import OneConvolution

    def run() -> float:
        torch.manual_seed(0)
        network = OneConvolution(CHANNELS, CHANNELS, 2, kernel=11, dropout=0.1)
        model = NeuralNetClassifier(
            network, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, optimizer__weight_decay=0.0,
            lr=1e-3, max_epochs=EPOCHS, batch_size=BATCH, train_split=None, iterator_train__shuffle=True, verbose=0,
        )  # fmt: skip
        return float(model.fit(x, y).history[-1, "train_loss"])

    return "skorch", run


def training(repeats: int) -> list[str]:
    x, y = data()
    sides: list[tuple[str, Callable[[], float]]] = []
    lines = ["| side | s | loss at the end |", "|---|---|---|"]
    for make in (ours, skorch):
        try:
            sides.append(make(x, y))
        except ImportError as missing:
            lines.append(f"| {make.__name__} | not installed ({missing}) | |")
    best, loss = {name: np.inf for name, _ in sides}, dict.fromkeys((name for name, _ in sides), np.nan)
    for _ in range(repeats):
        for name, run in sides:
            start = time.perf_counter()
            loss[name] = run()
            best[name] = min(best[name], time.perf_counter() - start)
    lines += [f"| {name} | {best[name]:.2f} | {loss[name]:.4f} |" for name, _ in sides]
    if len(sides) == 2:
        lines.append(f"| ratio skorch / tectum | {best['skorch'] / best['tectum']:.2f} | |")
    return lines


def median(call: Callable[[], Any], n: int = 200) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def latency() -> list[str]:
    import torch

    import tectum

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(8, CHANNELS, WINDOW, generator=draw)
    rec = tectum.Recording(data=x, dims=("trial", "channel", "time"), rate=500.0, units="uV")
    model = tectum.LightCNN(**{**settings(), "epochs": 1}).fit(rec, np.arange(8) % 2)
    network, one = model.forward_module(), x[:1].clone()
    wanted = network(one)
    lines = ["| form | ms | largest difference |", "|---|---|---|"]
    with torch.inference_mode():
        lines.append(f"| module | {median(lambda: network(one)):.2f} | 0 |")
    program = torch.export.export(network, (one,)).module()
    with torch.inference_mode():
        gap = float((program(one) - wanted).abs().max())
        lines.append(f"| torch.export | {median(lambda: program(one)):.2f} | {gap:.0e} |")
    try:
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "network.onnx")
            torch.onnx.export(network, (one,), path, dynamo=True, verbose=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: one.numpy()}
        gap = float(np.abs(session.run(None, feed)[0] - wanted.numpy()).max())
        lines.append(f"| ONNX Runtime | {median(lambda: session.run(None, feed)):.2f} | {gap:.0e} |")
    except ImportError as missing:
        lines.append(f"| ONNX Runtime | not installed ({missing}) | |")
    single = rec.isel(trial=slice(0, 1))
    lines.append(f"| predict_proba | {median(lambda: model.predict_proba(single)):.2f} | 0 |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    head = [f"{TRIALS} trials, {CHANNELS} channels, {TIMES} samples, {EPOCHS} epochs; {options.threads} thread(s)", ""]
    text = "\n".join([*head, *training(options.repeats), "", *latency()])
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
