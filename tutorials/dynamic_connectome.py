"""
Dynamic functional connectome
=============================

Which units change together, when, and in which animals? First on simulated animals, where the truth is known, then on a
real bird.
"""

# %%
# A world with known motifs
# -------------------------
# Eight animals share forty neurons (each animal misses some). Four motifs are active in four windows of time; in
# each, two or three groups of neurons rise and fall together.

import torch

import tectum
from tectum.datasets import simulate
from tectum.models.dynamic_connectome.scores import auroc

sim = simulate.motif_world(random_state=3)
print(len(sim.data), "animals,", sim.data[0])
tectum.plot.quicklook(sim.data[0])

# %%
# Fit
# ---
# The animals were recorded together in time by construction; for real spontaneous recordings of several animals
# ``fit`` refuses, because no time axis is shared.

model = tectum.DynamicConnectome(rank=5, restarts=4, assume_aligned=True).fit(sim.data)
result = model.result_
result.plot("overview")

# %%
# Against the truth
# -----------------
# A motif's time course should tell its window from the rest: the area under the ROC curve is 1 when it does, 0.5 by
# chance.

starts = torch.arange(result.sizes["time"]) * 4  # four samples a bin
windows = sim.truth.windows[:, starts]
area = torch.stack([auroc(result.time_factor.T, window.expand(5, -1)) for window in windows])  # (window, motif)
for k, row in enumerate(area):
    print(f"window {k}: best motif {int(row.argmax())}, AUROC {float(row.max()):.3f}")

# %%
# And its pairs should be the pairs of the same group.

best = int(area[0].argmax())
same_group = sim.truth.pairs[0]
print(f"pairs of the first motif: AUROC {float(auroc(result.pair_factor[:, best], same_group)):.3f}")
result.plot("motif", component=best)

# %%
# How sure
# --------
# Restarts that agree, groups that stay together in the Markov chain over partitions, and the way back to the traces.

result.plot("starts")

# %%

result.plot("coassignment", component=best)

# %%

result.plot("traces", component=best)

# %%
# A singing bird
# --------------
# One animal, so the tensor is a matrix of times and pairs. Song is fast: every time constant is about a tenth of the
# default.

session = tectum.datasets.load("songbird_hvc")
bird = tectum.DynamicConnectome(rank=5, derivative=0.2, min_run=0.1, smoothing=0.3, bin=0.1, restarts=3)
bird.fit(session["calcium"])
bird.result_.plot("overview")

# %%

bird.result_.plot("motif", component=0)

# %%
# Do the same motifs explain time they have not seen? Fit one half, score the other, with a gap between them.

scores = tectum.evaluate.cross_validate(
    tectum.DynamicConnectome(rank=5, derivative=0.2, min_run=0.1, smoothing=0.3, bin=0.1, restarts=2),
    session["calcium"],
    folds=2,
    gap=1.0,
)
print("share of the affinity explained in unseen halves:", [round(s, 2) for s in scores.tolist()])
