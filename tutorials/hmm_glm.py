"""
Switching population GLM
========================

Do the same neurons drive each other differently in different brain states? First where the truth is known, then in
head-direction cells through sleep and wake.
"""

# %%
# A world with three states
# -------------------------
# Twenty neurons. In each state some of them excite or inhibit others; which pairs may be connected is shared by the
# states, which are connected is not.

import tectum

sim = tectum.datasets.simulate.switching_glm(n_units=20, n_states=3, random_state=0)
print(len(sim.data), "sequences,", sim.data[0])

# %%
# Fit
# ---
# Eight random starts run side by side under a strong ridge, the best three go on, and the best of them gets the one-hot
# prior: every connection inhibitory, absent or excitatory.

glm = tectum.HMMGLM(n_states=3).fit(sim.data)
print("accuracy of the states:", tectum.evaluate.matched_accuracy(glm.result_.states, sim.truth.states))
glm.result_.plot("states", truth=sim.truth.states)

# %%
# The network of each state
# -------------------------

glm.result_.plot("networks", ordered=True)

# %%
# Against the truth, after matching the names of the states: how many connections have the right type?

result = glm.result_.match_states(sim.truth.states)
right = (result.adjacency == sim.truth.adjacency).double().mean()
print(f"types of connections that are right: {float(right):.2f}")

# %%
# What the states share
# ---------------------
# The prior map is a candidate for anatomy, no more: unobserved common input makes false connections too.

glm.result_.plot("prior")

# %%

glm.result_.plot("transition")

# %%
# Is it real?
# -----------
# Only sequences left out can tell. Bits per spike above constant rates, for one state and for three:

train, test = sim.data[:7], sim.data[7:]
for n_states in (1, 3):
    model = tectum.HMMGLM(n_states=n_states, prior="gaussian", starts=4).fit(train)
    print(f"{n_states} states: {model.score(test):.3f} bits per spike on unseen sequences")

# %%
# The same question for a grid of numbers, answered by ``n_states=None``: the smallest number whose held-out likelihood
# is within one standard error of the best.

chosen = tectum.HMMGLM(n_states=None, candidates=(1, 2, 3, 4), folds=2, starts=3).fit(sim.data)
print("chosen:", chosen.result_.n_states)
chosen.result_.plot("number")

# %%
# Head-direction cells through sleep and wake
# -------------------------------------------
# Real spikes, binned at 100 ms, from the last 150 s of the sleep epoch and the first 150 s of wakefulness. Bins this
# wide hold more than one spike, so the link is a softplus (the default) and the counts are negative binomial.

session = tectum.datasets.load("head_direction")
spikes = session.only(tectum.Spikes)
minutes = spikes.restrict(tectum.Intervals.from_pairs([(450.0, 750.0)]))
busy = minutes.select(minutes.counts() > 100)
print(busy.n_units, "units,", len(busy), "spikes")

heads = tectum.HMMGLM(n_states=3, bin=0.1, n_lags=10, likelihood="nb", starts=3, one_hot_rounds=10).fit(busy)
heads.result_.plot("probability")

# %%
# The epochs were not told to the model. How are its states spread over them?

awake = heads.result_.time() >= 600.0
for name, bins in (("sleep", ~awake), ("wake", awake)):
    share = heads.result_.probability[0, bins].mean(0)
    print(f"{name}: share of each state", [round(x, 2) for x in share.tolist()])

# %%
# Rates of the busiest units, expected and observed, and the network of each state.

heads.result_.plot("rates")

# %%

heads.result_.plot("networks")

# %%
# Keep and share
# --------------
# The model is one file, the report another.

from pathlib import Path
from tempfile import TemporaryDirectory

with TemporaryDirectory() as folder:
    heads.save(Path(folder) / "heads.safetensors")
    again = tectum.load(Path(folder) / "heads.safetensors")
    tectum.Report("head direction").add(again.result_).save(Path(folder) / "heads.html")
    print(sorted(p.name for p in Path(folder).iterdir()))
