"""
First steps
===========

A recording, its axes and its clock; spikes and their bins; a model, its result, a file and a report.
"""

# %%
# What ships with the package
# ---------------------------
# Small real recordings are in the package, each with a card that says where it comes from.

import tempfile
from pathlib import Path

import torch

import tectum

print(tectum.datasets.list())

# %%
# A session holds what was recorded together. This one has the calcium traces of 75 neurons of a singing zebra finch
# and the spectrogram of its song, on one clock although they were sampled at different rates.

session = tectum.datasets.load("songbird_hvc")
print(session)
calcium = session["calcium"]
print(calcium)

# %%
# Axes have names
# ---------------
# Selecting is by name: a position with ``isel``, a time in seconds or a label with ``sel``. The clock follows.

two_seconds = calcium.sel(time=(2.0, 4.0))
print(two_seconds.sizes, "starts at", two_seconds.t0, "s")
print("as a tensor (unit, time):", two_seconds.tensor("unit", "time").shape)

# %%
# Every container has a first look.

tectum.plot.quicklook(calcium)

# %%
# Spikes and bins
# ---------------
# Spikes are flat arrays of times and unit numbers. They know when they were observed, so that rates are right.

mouse = tectum.datasets.load("head_direction")
spikes = mouse.only(tectum.Spikes)
print(spikes.n_units, "units,", len(spikes), "spikes in", spikes.span.duration, "s")
print("rates in spikes/s:", [round(r, 1) for r in spikes.rates().tolist()])

counts = spikes.bin(0.5)
print(counts)
tectum.plot.quicklook(counts.sel(time=(0.0, 60.0)))

# %%
# Your own array
# --------------
# Three facts turn an array into a recording: the axes, the clock, the unit. An unknown unit raises an error; none is
# guessed.

mine = tectum.Recording(data=torch.rand(100, 4), dims=("time", "unit"), rate=20.0, units="dF/F")
try:
    mine.to_units("uV")
except tectum.core.errors.UnitsError as error:
    print(error)

# %%
# A model
# -------
# Every method is an object that holds its hyper-parameters; ``fit`` fills ``result_``. Here: which regions of the
# brain change together at rest? The time constants are those of the haemodynamic response, not the defaults for
# calcium.

rest = tectum.datasets.load("resting_fmri")
model = tectum.DynamicConnectome(rank=3, derivative=2.0, min_run=2.0, smoothing=8.0, bin=None, restarts=4)
model.fit(rest)
result = model.result_
print(f"{result.n_components} motifs leave a relative error of {result.error:.2f}")
result.plot("overview")

# %%
# The pairs of the heaviest motif, sorted by group.

result.plot("matrix", component=0)

# %%
# Keep it
# -------
# A model is one file without code in it; a report is one page without a network.

folder = Path(tempfile.mkdtemp())
model.save(folder / "rest.safetensors")
again = tectum.load(folder / "rest.safetensors")
print("the same factors:", bool(torch.equal(again.result_.time_factor, result.time_factor)))
page = tectum.Report("Regions at rest").add(rest).add(model).save(folder / "rest.html")
print("report of", page.stat().st_size // 1000, "kB")
