"""Sampling: the only stage that runs models."""

from hcache.sampling.enumerator import Enumerator, Reply
from hcache.sampling.plan import Plan, make_plan
from hcache.sampling.sampler import Sampler
from hcache.sampling.tally import Tally

__all__ = ["Enumerator", "Plan", "Reply", "Sampler", "Tally", "make_plan"]
