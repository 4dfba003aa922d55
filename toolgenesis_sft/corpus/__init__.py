"""The training set: collect, verify by running, filter, split, report."""
