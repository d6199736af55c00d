"""
A network of your own, or of braindecode
========================================

Any torch module that maps (batch, channel, time) to one number a class becomes a decoder: trained and stopped by groups
of trials, evaluated without leaks, adapted to a new day, exported, and saved in a file that holds no code.
"""

# %%
# The module
# ----------
# braindecode's models take ``n_chans``, ``n_outputs``, ``n_times`` and ``sfreq``. This one is written in plain torch
# with the same signature, so that the tutorial runs without braindecode: filters in time, filters over channels, power,
# average, logarithm, a linear layer (the idea of the shallow network of Schirrmeister and colleagues, 2017).

import tempfile
from pathlib import Path

import torch
from torch import nn

import tectum
from tectum import evaluate
from tectum.datasets import simulate
from tectum.models.torch_decoder import allow


class Shallow(nn.Module):
    def __init__(self, n_chans, n_outputs, n_times, sfreq, n_filters=12, seconds=0.25):
        super().__init__()
        width, pool = int(0.1 * sfreq) | 1, int(seconds * sfreq)
        self.temporal = nn.Conv2d(1, n_filters, (1, width), padding=(0, width // 2))
        self.spatial = nn.Conv2d(n_filters, n_filters, (n_chans, 1), bias=False)
        self.norm = nn.BatchNorm2d(n_filters)
        self.pool = nn.AvgPool2d((1, 4 * pool), stride=(1, pool))
        self.dropout = nn.Dropout(0.3)
        steps = (n_times - 4 * pool) // pool + 1
        self.final_layer = nn.Linear(n_filters * steps, n_outputs)

    def forward(self, x):
        power = self.pool(self.norm(self.spatial(self.temporal(x[:, None]))).square())
        return self.final_layer(self.dropout(power.clamp(min=1e-6).log()).flatten(1))


# %%
# Data
# ----
# Twelve subjects; in each, the windows of two conditions differ in the strength of a rhythm at 18 Hz. The classes may
# be called anything; the labels stand in a column of the trials.

sample = simulate.rhythm_windows(
    12, effect=2.0, within=True, n_channels=8, n_windows=32, length=2.0, rate=64.0, random_state=1
)
data = []
for rec in sample.recordings:
    trial = rec.coords["trial"]
    names = ["task" if label else "rest" for label in trial["label"]]
    data.append(rec.with_(coords={**rec.coords, "trial": {**trial, "condition": names}}))
print(len(data), "subjects,", data[0])

# %%
# Train and evaluate
# ------------------
# The class is passed, not an object: each fold makes a new network. Subjects are never parted.

decoder = tectum.TorchDecoder(module=Shallow, epochs=20, lr=0.003, patience=6, options={"n_filters": 8})
result = evaluate.cross_predict(decoder, data, "condition", by="subject", folds=4)
found = result.accuracy()
print(f"unseen subjects: {found.estimate:.2f} ({found.low:.2f} to {found.high:.2f}), chance {result.chance:.2f}")
result.plot("confusion")

# %%
# A class of ``braindecode.models`` goes in the same way:
#
# .. code-block:: python
#
#    tectum.TorchDecoder(module=ShallowFBCSPNet, options={"final_conv_length": "auto"})

# %%
# A new subject
# -------------
# Trained on eleven subjects, adapted to the first half minute of the twelfth.

model = decoder.fit(data[:11], "condition")
new, later = data[11].isel(trial=slice(0, 16)), data[11].isel(trial=slice(16, 32))
adapted = model.adapt(new, "condition", epochs=10, lr=1e-3)
print(f"before {model.score(later, 'condition'):.2f}, after {adapted.score(later, 'condition'):.2f}")
model.result_.plot("training")

# %%
# Save, load, export
# ------------------
# The file holds weights, settings, labels, the contract (channels, rate, unit, window) and the *name* of the class.
# Nothing in a file is executed: whoever loads it says which classes it may name.

allow(Shallow)
with tempfile.TemporaryDirectory() as folder:
    loaded = tectum.load(model.save(str(Path(folder) / "shallow")))
print(loaded.contract_)
print("same probabilities:", torch.equal(loaded.predict_proba(later), model.predict_proba(later)))

# %%
# ``forward_module`` is the plain network with its normaliser, for streams and for ``torch.export``.

network = loaded.forward_module()
program = torch.export.export(network, (later.values[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
gap = (program.module()(later.values) - network(later.values)).abs().max()
print(f"exported; largest difference {float(gap):.1e}")
