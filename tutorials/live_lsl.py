"""
Decode a live stream
====================

A decoder of imagined movements: trained on a recording, tried on another one as if it were live, then run on a stream
of the Lab Streaming Layer (LSL) of this machine. Nothing here is recorded from anybody.
"""

# %%
# Two simulated sessions
# ----------------------
# Eight channels of noise with a 1/f spectrum. At rest both motor cortices show an 11 Hz rhythm; imagining the left hand
# weakens it on the right (C4), imagining the right hand on the left (C3). The task changes every four seconds.

import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

import tectum
from tectum import Causal, Intervals, Recording, Stream

CHANNELS = ["Fz", "C3", "Cz", "C4", "Pz", "O1", "O2", "FCz"]
RATE, BLOCK = 250.0, 4.0
TASKS = np.array(["left", "rest", "right"])


def session(n_blocks, seed):
    draw = np.random.default_rng(seed)
    n = int(n_blocks * BLOCK * RATE)
    task = np.repeat(draw.permutation(np.arange(n_blocks) % 3), int(BLOCK * RATE))
    frequency = np.fft.rfftfreq(n, 1 / RATE).clip(0.5)
    x = np.fft.irfft(np.fft.rfft(draw.standard_normal((8, n))) / np.sqrt(frequency), n)
    x *= 8 / x.std()
    near = np.exp(-(((frequency - 11) / 0.7) ** 2))
    rhythm = np.fft.irfft(np.fft.rfft(draw.standard_normal((2, n))) * near, n)
    rhythm *= 9 / rhythm.std()
    x[1] += rhythm[0] * np.where(TASKS[task] == "right", 0.25, 1)
    x[3] += rhythm[1] * np.where(TASKS[task] == "left", 0.25, 1)
    data = torch.from_numpy(x.astype(np.float32))
    coords = {"channel": {"name": CHANNELS}}
    return Recording(data=data, dims=("channel", "time"), rate=RATE, units="uV", modality="eeg", coords=coords), task


training, task = session(60, seed=0)
print(training)

# %%
# Train behind causal steps
# -------------------------
# What a stream can do, training must do too: filters that look only back, and no more samples than live. The same
# object, ``Causal``, describes both; it stands in the history of the windows, and the decoder keeps it. Windows of
# 1.2 s are cut afterwards; those that straddle two tasks are left out.

steps = Causal(highpass=4.0, lowpass=30.0, order=2, decimate=2)
filtered = tectum.preprocess.apply_causal(training, steps)


def labelled(rec, task, length=1.2, hop=0.2):
    windows = rec.windows(length, hop=hop)
    start = np.arange(windows.sizes["trial"]) * round(hop * rec.rate) * 2  # in samples before decimation
    first, last = task[start], task[start + round(length * RATE) - 1]
    names, block = TASKS[first], start // int(BLOCK * RATE)
    begin = start / RATE
    table = {"label": names, "block": block, "start": begin, "stop": begin + length}
    return windows.with_(coords={**windows.coords, "trial": table}).isel(trial=np.flatnonzero(first == last))


windows = labelled(filtered, task)
decoder = tectum.LightCNN(kernel=25, epochs=30, lr=3e-3, device="cpu", random_state=0).fit(windows)
decoder.result_.plot("training")

# %%
# Choose when it speaks, and try it as if it were live
# ----------------------------------------------------
# ``Evidence`` turns probabilities into commands: log evidence is accumulated over windows, a command needs a posterior
# above a threshold in some windows in a row, and rest is no command. These numbers are chosen on a second session, as a
# stream would hear it. A third one then goes through the stream in chunks of 40 ms, and is scored event by event. Half
# a minute of rest says little of false commands: look at the interval.


def events(task):
    edges = np.r_[0, np.flatnonzero(np.diff(task)) + 1, len(task)]
    spans = zip(edges[:-1] / RATE, edges[1:] / RATE, strict=True)
    return Intervals.from_pairs(spans, label=TASKS[task[edges[:-1]]].tolist())


chosen, task = session(60, seed=2)
rule = tectum.stream.calibrate(decoder, chosen, events(task), reject=("rest",), max_false=2.0, refractory=0.0).evidence
print(rule)

test, task = session(30, seed=1)
score = tectum.stream.rehearse(decoder, test, events(task), hop=0.1, evidence=rule)
print(score)
score.plot("run")

# %%
# How fast is it? Filters and window delay a decision long before anything is computed.

stream = Stream.of(decoder, tectum.stream.Replayed(test, 10), hop=0.1, evidence=rule)
decisions = list(stream.run())
print(f"known beforehand: {stream.budget.total:.2f} s, of which the window {stream.budget.window:.2f} s")
print(stream.statistics)

# %%
# Live
# ----
# A thread plays the amplifier: an LSL outlet that sends 40 ms at a time. A setting keeps the stream on this machine;
# leave it out in the laboratory. The stream is found by its name; channels are matched by theirs.

folder = tempfile.TemporaryDirectory()
config = Path(folder.name) / "lsl_api.cfg"
config.write_text("[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n[log]\nlevel = -3\n")
os.environ["LSLAPICFG"] = str(config)
log = Path(folder.name) / "session.jsonl"
NAME = f"SimulatedEEG-{os.getpid()}"


def amplifier(done):
    from mne_lsl.lsl import StreamInfo, StreamOutlet, local_clock

    order = [3, 1, 0, 2, 4, 5, 6, 7]  # not the order of training
    info = StreamInfo(NAME, "eeg", 8, RATE, "float32", "tutorial")
    info.set_channel_names([CHANNELS[k] for k in order])
    info.set_channel_units("microvolts")
    outlet = StreamOutlet(info, chunk_size=10)
    outlet.wait_for_consumers(timeout=20)
    rows, start = np.ascontiguousarray(test.values.numpy().T[:, order]), local_clock()
    for first in range(0, len(rows), 10):
        if done.wait(max(0.0, start + (first + 10) / RATE - local_clock())):
            return
        outlet.push_chunk(rows[first : first + 10], timestamp=start + (first + 9) / RATE)


done = threading.Event()
sender = threading.Thread(target=amplifier, args=(done,))
sender.start()
inlet = tectum.stream.lsl(NAME, wait=20)
stream = Stream.of(decoder, inlet, hop=0.1, evidence=rule, log=log)
with tectum.stream.realtime():
    for count, p in enumerate(stream.run(seconds=8)):
        if count % 10 == 0:
            print(tectum.stream.line(p, stream.labels))
stream.close()
done.set()
sender.join()
print(stream.statistics)

# %%
# The same session again, from the log: the same decisions to the last bit.

again = tectum.stream.replay(decoder, log)
logged = tectum.stream.read_log(log).decisions
print(len(again), "decisions,", "equal:", [p.proba for p in again] == [p.proba for p in logged])

# %%
# Take it elsewhere
# -----------------
# An exported decoder needs neither its class nor its training data. It carries a card and streams like the original.

path = tectum.export(decoder, Path(folder.name) / "decoder.pt2", metrics={"right": score.true_positive_rate().estimate})
exported = tectum.deploy.load(path)
print(exported.card.contract.names, exported.card.metrics)
began = time.perf_counter()
live = Stream.of(exported, tectum.stream.Replayed(test, 10), hop=0.1, evidence=rule)
same = [p.label for p in live.run()] == [p.label for p in decisions]
print(f"same labels: {same}; {test.duration:.0f} s of signal in {time.perf_counter() - began:.1f} s")
folder.cleanup()
