"""fMRI: images, parcels, surfaces, confounds, events and single-trial betas."""
