"""The value of a router from the log of another one: off-policy evaluation, with its limits."""
