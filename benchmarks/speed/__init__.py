"""How fast hcache does what others do too, beside them in the same run.

    python -m benchmarks.speed                    # --only PART --rounds N --out FILE --work FOLDER

- environments: steps under random valid actions, beside the vector environments of gymnasium, SB3
  and TorchRL around hcache's single one, and beside a dictionary without observations
- evaluation: the return of a stochastic policy, exactly, beside the same as a plain loop, and
  beside 1,000 sampled episodes of each tree, which is an estimate
- features: vectors from the cache beside encoding them again
- resampling: paired bootstrap of 20 routers on 5,000 queries, beside a NumPy loop and SciPy
- loading: a million trajectories from the database, beside `numpy.load` of the same bytes
- scale: `soft` on 100,000 queries, of 13 and of 40 states each, beside 2,000

What is compared takes turns, who begins changes from round to round, and one thread computes.
What counts is processor time, that of worker processes included. Tables have medians and ranges.
"""
