"""
Groups of neurons and states of time
====================================

Which neurons share a slow trajectory, and when do the rules of that trajectory change? Both numbers, of groups and of
states, are inferred.
"""

# %%
# Simulated truth
# ---------------
# Three groups of fifteen neurons. Each has a latent path (a level and two factors); in one state the path rotates, in
# the other it decays into weak noise. No neuron's mean rate tells the states apart.

import warnings

import torch

import tectum
from tectum.datasets.simulate.biclusters import biclusters
from tectum.stats.clustering import adjusted_rand

sim = biclusters(n_clusters=3, units_per_cluster=15, n_time=600, random_state=0)
print(sim.data)

# %%
# Fit
# ---
# Two short chains; for a paper run four, with a thousand draws each, and look at the table of convergence below. A
# tenth of the counts is hidden, to be predicted.

model = tectum.BiCluster(chains=2, burn=50, draws=40, snapshots=10, max_states=5, held_out=0.1, random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # these chains are short, and the fit says so
    result = model.fit(sim.data).result_
result.plot("overview")

# %%
# Groups
# ------
# The partition reported is the one of largest posterior expected adjusted Rand index.

print("groups found:", result.n_groups)
print("agreement with the truth:", float(adjusted_rand(result.clusters, sim.truth.clusters)))
result.plot("co_clustering")

# %%
# States
# ------

print("share of time of each state:", [round(x, 3) for x in result.occupancy().tolist()])
print("agreement with the truth:", round(float(adjusted_rand(result.states, sim.truth.states)), 2))
result.plot("ribbon")

# %%
# Paths
# -----
# Means with 95 % bands. Level, basis and sign of a path are conventions: paths are centred, factors uncorrelated.

result.plot("latents")

# %%
# Is it true of the data?
# -----------------------
# The log score of hidden counts against a constant rate and against smoothing of the neuron's own counts, both with a
# fitted dispersion.

scores = {"constant": result.score_constant, "smoothing": result.score_smoothing, "model": result.score_held_out}
print("nats a hidden count:", {name: round(float(score), 3) for name, score in scores.items()})
result.plot("check")

# %%
# Are the chains long enough?
# ---------------------------

for name, rhat, ess in zip(result.scalars, result.rhat.tolist(), result.ess.tolist(), strict=True):
    print(f"{name:20s} R-hat {rhat:.2f}  ESS {ess:.0f}")
result.plot("traces")

# %%
# Real neurons
# ------------
# Head-direction cells and their neighbours in a mouse: the last 75 s of sleep and the first 75 s of wakefulness, in
# bins of half a second.

mouse = tectum.datasets.load("head_direction")
counts = mouse.only(tectum.Spikes).bin(0.5, start=525.0, stop=675.0)
busy = (counts.values.sum(0) > 120).nonzero().flatten().tolist()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    cells = tectum.BiCluster(chains=2, burn=20, draws=20, snapshots=5, max_states=5).fit(counts.isel(unit=busy)).result_
print("groups of cells:", cells.groups())
cells.plot("overview")

# %%
# The epochs were not told to the model. How are its states spread over them?

awake = cells.time >= 600.0
for name, bins in (("sleep", ~awake), ("wake", awake)):
    share = torch.bincount(cells.states[bins], minlength=len(cells.occupancy())) / bins.sum()
    print(f"{name}: share of each state", [round(x, 2) for x in share.tolist()])
