"""sEEG, EEG and MEG: every format that MNE reads, BIDS trees, and the layout of Du-IN."""
