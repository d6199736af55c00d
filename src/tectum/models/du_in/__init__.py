"""Du-IN: words decoded from intracranial recordings through discrete units learnt without labels.

Three networks share one encoder. `modules` holds them, `stages` trains each with the loop of the house, `data` sorts
recordings by subject and holds trials out, `fitting` is the course of a fit, `describe` gathers what was learnt and
makes networks of it again, `running` is how they run on recordings and in streams, `checkpoints` reads the published
weights, `baselines` are simpler decoders of the same windows.

References
----------
Zheng et al. (2024), Du-IN: Discrete units-guided mask modeling for decoding speech from intracranial neural signals,
NeurIPS.
"""
