"""What the command line does, from Python: open, look, train, evaluate, route.

Run it after `hcache sample data/demo/experiment.yaml` (or `make demo`), in the project's folder:

    python examples/notebook.py [PLACE=VALUE ...]
"""

import sys

import hcache


def main() -> None:
    """Everything in order; each step stands for itself in a notebook cell."""
    experiment = hcache.Experiment.load(
        "data/demo/experiment.yaml",
        ["train.algo=sft", "train.iterations=60", *sys.argv[1:]],
    )

    # Look at what was sampled. Frames are polars.
    with hcache.Store(experiment.db) as store:
        print(store.sequences("test").head(5))
        print(store.trajectories("test").select("sequence", "answer", "f1", "cost").head(3))
        replay = hcache.load_replay(store, experiment.config, "train")
    print(
        f"{len(replay.tree)} trees, {len(replay.tree.hop_N)} states, {replay.incomplete} left out"
    )

    # Train and evaluate a router: no model is loaded.
    run = hcache.train(experiment)
    report = hcache.evaluate_runs(experiment, [run], "valid")
    print(report.verdicts)

    # Route one question live: now models are loaded.
    with hcache.live_router(run.folder) as router:
        route = router.route(experiment.splits["test"][0].question)
    print(route.sequence, "->", route.answer, f"(cost {route.cost:.3f})")


if __name__ == "__main__":
    main()
