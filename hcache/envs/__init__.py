"""Environments for other libraries: stored trees as gymnasium, TorchRL and offline data.

Importing this package registers `hcache/Routing-v0` with gymnasium:

    import gymnasium, hcache.envs
    env = gymnasium.make("hcache/Routing-v0", tree=replay.tree, alpha=0.5)
    envs = gymnasium.make_vec("hcache/Routing-v0", num_envs=1024, tree=replay.tree, alpha=0.5)

docs/environments.md has an example for each library.
"""

from hcache.packages import missing

try:
    import gymnasium
except ImportError as error:
    raise missing("gymnasium", "envs") from error

gymnasium.register(
    "hcache/Routing-v0",
    entry_point="hcache.envs.gym:RoutingEnv",
    vector_entry_point="hcache.envs.gym:RoutingVectorEnv",
)
