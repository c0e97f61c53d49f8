"""Low-rank changes of the models' weights, a query at a time, learned from stored calls.

A *call* is a model call of a trajectory: rendered prompt, output tokens. From the features of a
query a small network makes ΔW = scale·A·B for each arm (`generator`); stored calls are read with
the tree (`calls`), scored under W + ΔW (`scoring`), and new ones are sampled with it (`engine`,
`serving`). What is learned from them is in `hcache.trainers.joint`.

Axes in names: Q queries, U distinct calls, E pairs of leaf and call, B calls of a batch,
T positions of a prompt with its output, G positions of an output, I inputs and O outputs of
o_proj, R rank, D text features, V vocabulary, M leaves.
"""
