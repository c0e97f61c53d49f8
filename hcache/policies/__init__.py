"""Policies: a state goes in, a probability for every action comes out.

A policy is one file in this folder with a class under `@POLICIES.register("name")`; every module
here is imported with the package, so nothing else needs an edit. A saved policy is a folder with
`policy.safetensors` (its tensors) and `policy.json` (its registered name, its settings and the
digest of the tensors).
"""

from hcache.plugins import load_package
from hcache.policies.base import (
    POLICIES,
    AnyAlpha,
    ChangesReplies,
    Policy,
    StoredPolicy,
    at_alpha,
    load_policy,
    write_policy,
)

__all__ = [
    "POLICIES",
    "AnyAlpha",
    "ChangesReplies",
    "Policy",
    "StoredPolicy",
    "at_alpha",
    "load_policy",
    "write_policy",
]

load_package(__name__, __path__)
