"""Switching population GLM: a hidden brain state decides how neurons drive each other.

Given the state s of a bin, the count of every unit follows a generalised linear model of the recent past of all units,
with its own coupling matrix W_s. The states form a Markov chain. Three priors tie the coupling matrices of the states:

* none but a small ridge (the naive HMM-GLM);
* Gaussian: every W_s is near a shared mean matrix;
* one-hot: every connection is inhibitory, absent or excitatory, with probabilities shared by the states, times a
  strength.

`basis` builds the regressors, `emission` scores counts, `glm` holds M step and EM step of the first two priors and
`one_hot` those of the third. All are pure functions of tensors; states (and restarts), units and sequences are tensor
axes.

References
----------
Li, Kim, Rodgers, Choi & Wu (2024), One-hot generalized linear model for switching brain state discovery, ICLR.
"""
