"""
When a decoder seems to work
============================

A network reads windows of EEG and tells patients from controls with 99% accuracy. In this tutorial there is nothing to
read, and it scores almost as well. What went wrong, how it is seen, and what to do instead.
"""

# %%
# Subjects who differ, classes that do not
# ----------------------------------------
# Thirty subjects; the class is a coin that was tossed for each of them. Every subject has rhythms with spatial
# patterns of their own, as real people do. Nothing in the signal tells the classes apart: ``effect=0``.

import numpy as np
import torch

import tectum
from tectum import evaluate
from tectum.datasets import simulate

sample = simulate.rhythm_windows(30, effect=0.0, n_channels=12, n_windows=10, length=4.0, rate=64.0, random_state=0)
data = sample.recordings
print(len(data), "subjects,", data[0])

# %%
# The wrong way
# -------------
# All windows are shuffled, a quarter is kept for the test. Every subject is now in training *and* in test, and a
# network that recognises the subject knows the class. This is how the smallest of networks, a single convolution, was
# reported to classify Parkinson's disease with 98.9% accuracy: of the twelve windows of each subject some were in
# training and some in test.

x = torch.cat([rec.values for rec in data])
y = np.concatenate([rec.labels("trial", "label") for rec in data])
order = np.random.default_rng(0).permutation(len(y))
train, test = order[75:], order[:75]


def part(rows):
    return tectum.Recording(data=x[rows], dims=("trial", "channel", "time"), rate=64.0, units="uV")


network = tectum.LightCNN(epochs=60, batch_size=16, normalise="global", validation=0.0)
wrong = network.fit(part(train), y[train]).score(part(test), y[test])
print(f"windows shuffled: balanced accuracy {wrong:.2f}, and there is nothing to find")

# %%
# The right way
# -------------
# Folds of subjects: whoever is tested was never trained on. The trials that training stops by are also of other
# subjects. ``cross_predict`` does not split windows unless told to; with fewer subjects than folds it refuses.

decoder = tectum.LightCNN(epochs=60, batch_size=16, normalise="global", patience=8)
honest = evaluate.cross_predict(decoder, data, by="subject")
found = honest.accuracy()
print(f"subjects apart: {found.estimate:.2f}, 95% interval over subjects {found.low:.2f} to {found.high:.2f}")
print(f"p = {honest.test().p:.2f} by shuffling the labels of the subjects")
honest.plot("groups")

# %%
# The interval is that of thirty subjects, not of three hundred windows: windows of one subject are right or wrong
# together. An interval that takes windows for independent is too narrow.

narrow = evaluate.clopper_pearson(int((honest.truth == honest.decided).sum()), len(honest.truth))
print(f"as if windows were independent: {narrow.low:.2f} to {narrow.high:.2f}")

# %%
# Does an effect survive?
# -----------------------
# Now the 18 Hz rhythm is three times as strong in one class. The honest split finds it, for whole subjects too.

real = simulate.rhythm_windows(30, effect=2.0, n_channels=12, n_windows=10, length=4.0, rate=64.0, random_state=0)
there = evaluate.cross_predict(decoder, real.recordings, by="subject")
pooled = there.pooled()
right = int((pooled.proba.argmax(1) == pooled.truth).sum())
interval = evaluate.clopper_pearson(right, len(pooled.truth))
print(f"{right} of {len(pooled.truth)} subjects right, at least {interval.low:.2f} with 95% confidence")
there.plot("roc")

# %%
# Windows that overlap, and noise that drifts
# -------------------------------------------
# Within one recording the same happens without any subjects: windows that overlap share samples, and slow noise makes
# neighbours alike. An audit runs an evaluation on data of these kinds, in which there is nothing to find. Here a
# decoder that remembers every window by its spectrum is split in two ways.


class Remember:
    def fit(self, recordings, labels):
        self.memory, self.labels = self.spectra(recordings), np.asarray(labels)
        self.classes_ = np.unique(self.labels)
        return self

    def predict_proba(self, recordings):
        nearest = self.labels[torch.cdist(self.spectra(recordings), self.memory).argmin(1)]
        return torch.from_numpy(nearest[:, None] == self.classes_).double()

    def spectra(self, recordings):
        return torch.cat([torch.fft.rfft(rec.values).abs().log1p().flatten(1) for rec in recordings])


def shuffled(recordings):
    labels = np.concatenate([rec.labels("trial", "label") for rec in recordings])
    rows = np.random.default_rng(0).permutation(len(labels))
    train, test = np.sort(rows[len(rows) // 4 :]), np.sort(rows[: len(rows) // 4])
    model = Remember().fit(evaluate.take_trials(recordings, train), labels[train])
    decided = model.predict_proba(evaluate.take_trials(recordings, test)).argmax(1)
    return evaluate.balanced_accuracy(labels[test], decided.numpy())


def in_blocks(recordings):
    by = "subject" if len(recordings) > 1 else "block"
    return evaluate.cross_predict(Remember(), recordings, by=by, folds=4).accuracy().estimate


for name, protocol in {"windows shuffled": shuffled, "groups apart": in_blocks}.items():
    for world, seen in evaluate.audit(protocol, ["overlap", "subjects"]).items():
        print(f"{name}, {world}: {seen.mean:.2f}", "LEAKS" if seen.leaks else "clean")

# %%
# What was learnt before the split
# --------------------------------
# A normaliser, a filter of channels or a projection that has seen the test trials leaks as well. ``find_leaks``
# disturbs test trials and their labels and looks whether the predictions of the others move. Decoders of this
# toolkit learn their normaliser from the training trials of the fold.


def normalised_first(recordings, labels, train, test):
    every = torch.cat([rec.values for rec in recordings])
    mean, spread = every.mean((0, 2))[:, None], every.std((0, 2))[:, None]
    scaled = [rec.with_(data=(rec.values - mean) / spread) for rec in recordings]
    model = tectum.LightCNN(epochs=3, normalise="none")
    model.fit(evaluate.take_trials(scaled, train), [labels[i] for i in train])
    return model.predict_proba(evaluate.take_trials(scaled, test))


fold = evaluate.trial_folds(data, 3, by="subject")[0]
print("normalised before the split:", evaluate.find_leaks(normalised_first, data, fold=fold))
print("normalised in the fold:     ", evaluate.find_leaks(tectum.LightCNN(epochs=3), data, fold=fold))
