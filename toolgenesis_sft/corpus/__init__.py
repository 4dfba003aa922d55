"""The training set: collect, verify by running, filter, split, report.

build.py is the stage, inputs what it reads. Where data comes from: sources (text_files), pairs,
trajectories (chats), teacher. What it must stand: verify, filters, overlap, shingles. What is made
of it: kinds, repairs (breakages), scenario. How it is counted and written: table, tokens, splits,
drops, report, show.
"""
