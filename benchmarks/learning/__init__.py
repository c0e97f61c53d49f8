"""How fast and how well routers are learned, beside rivals on the same arrays in the same run.

    python -m benchmarks.learning                    # --seeds N --seconds S --out FOLDER

A forest of 2,000 synthetic questions (`forest.py`), 1,600 to train on and 400 to test on, three
arms, three hops with STOP, 384 text features of standard deviation 0.74, α = 0.25. Learners take
turns seed by seed, one thread each; who begins changes from seed to seed. What counts is processor
time of learning alone until the greedy policy closes 90, 95, 99% of the gap between the best static
sequence and the oracle on the training trees, and what the policy of the last moment closes on the
test trees. Nothing is chosen by the test trees.
"""
