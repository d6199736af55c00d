"""
Words from sEEG through discrete units
======================================

A subject has hours of recording and a handful of labelled trials. Can the unlabelled hours help to decode words? A
simulated subject, whose cortex runs through twelve discrete units of 100 ms, tells what each of the three stages of
Du-IN does.
"""

# %%
# A simulated subject
# -------------------
# Four hundred unlabelled windows of one second, and trials of eight words. A word is a sequence of ten units, each of
# which may slip; every trial starts up to 50 ms early or late.

import numpy as np
import torch

import tectum

torch.set_num_threads(1)
sim = tectum.datasets.simulate.seeg_words(n_windows=400, n_trials=30, snr=1.0, jitter=0.05, random_state=0)
print(sim.data.unlabelled)
print(sim.data.words)

# %%
# Few labels: the first ten trials of each word, by block, are for training, the other twenty for the test.

block = np.asarray(sim.data.words.labels("trial", "block"))
train, test = sim.data.words.isel(trial=block < 5), sim.data.words.isel(trial=block >= 5)
words = np.asarray(test.labels("trial", "word"))

# %%
# Stage 1: codes, stage 2: hidden tokens
# --------------------------------------
# The networks are far smaller than the published ones, which are the defaults and need a GPU. The first stage
# reconstructs the signal from one of 64 codes every 100 ms. The second hides half of the tokens and learns to tell
# their codes from the others.

small = {
    "depth": 2, "decoder_depth": 1, "n_codes": 64, "filters": 48, "features": 8, "heads": 2, "head_width": 32,
    "hidden": 128, "dropout": 0.1, "window": 1.0, "pretrain_batch": 16, "batch_size": 16, "pretrain_lr": 3e-3,
    "lr": 2e-3, "codes_epochs": 12, "masked_epochs": 12, "epochs": 25, "shift": 0.05,
}  # fmt: skip
units = tectum.DuIN(**small, until="masked").fit(sim.data.unlabelled)
units.result_.plot("reconstruction")

# %%
# Half of the variance is noise, so an error of 0.5 is the best there is.

result = units.result_
print(f"error of the reconstruction: {result.reconstruction_error:.2f}")
print(f"codes in use (perplexity): {result.code_perplexity:.0f} of 64")
print(f"hidden tokens told: {result.masked_accuracy:.2f}; commonest code: {result.masked_majority:.2f}")
units.result_.plot("codebook")

# %%
# Are the codes the units? For every code, the share of its tokens that are of its commonest unit, against the share of
# the commonest unit of all.

codes = units.encode(sim.data.unlabelled).codes.flatten().numpy()
true = sim.truth.units.flatten().numpy()
table = np.zeros((64, 12))
np.add.at(table, (codes, true), 1)
print(f"purity {table.max(1).sum() / table.sum():.2f}, by chance {table.sum(0).max() / table.sum():.2f}")

# %%
# Stage 3: words
# --------------
# ``adapt`` goes on from the weights of the second stage. Beside it, the same network from random weights.

model = units.adapt(train, "word")
scratch = tectum.DuIN(**small, pretrain="none").fit(train, "word")
print(f"after pretraining: {model.score(test, words):.2f}")
print(f"from scratch:      {scratch.score(test, words):.2f}   chance: {1 / 8:.3f}")

# %%
# One run says little: ``docs/methods/du_in`` gives the spread over seeds. Which codes does each word use?

model.result_.plot("code_by_label")

# %%

model.result_.plot("stages")

# %%
# Which channels matter? Every channel has signal here; with ``select=10`` the fit keeps the ten that weigh most in a
# classifier trained on the training trials alone.

model.result_.plot("channels")

# %%
# To a new subject
# ----------------
# Another subject has other channels. Tokeniser and attention go along, the layer from channels to sources is new.

other = tectum.datasets.simulate.seeg_words(n_windows=1, n_trials=20, n_channels=7, subject="second", random_state=5)
second = model.adapt(other.data.words, "word", part="head")
print(second.result_.subjects, second.result_.labels)
