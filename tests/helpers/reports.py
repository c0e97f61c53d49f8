"""A scripted experiment whose every text is hostile, two short runs of it, and their report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hcache.evaluation.report import Report
from hcache.experiment import Experiment
from hcache.reporting import write_report
from hcache.runs.folder import Run
from hcache.runs.training import train, with_train
from hcache.sampling import Sampler
from helpers.experiments import load, per_1000, settings, write_script

HOSTILE = (
    '<script>document.title="taken"</script><img src="http://192.0.2.1/x" onerror=alert(1)>'
    "]]>--></div></svg></details> $x_1^2$ _b_ ``` | &amp; \x07"
)
ARMS = {"_a $x_1$ <svg onload=alert(1)": "a", "b": "b"}
COMMAND = ("hcache", "report", "<b>it</b>")
COUNTS = {"train": 9, "valid": 6, "test": 12}


@dataclass
class Written:
    """A report with what it was made from."""

    folder: Path
    experiment: Experiment
    runs: list[Run]
    report: Report

    @cached_property
    def page(self) -> str:
        """The HTML."""
        return (self.folder / "index.html").read_text(encoding="utf-8")

    @cached_property
    def markdown(self) -> str:
        """The Markdown."""
        return (self.folder / "report.md").read_text(encoding="utf-8")


def hostile_experiment(folder: Path, name: str = "small", hops: int = 2) -> Experiment:
    """Sampled; arms, kinds, questions, references and replies hold markup."""
    folder.mkdir(exist_ok=True)
    for arm in "ab":
        write_script(folder, arm, [["(?s)^(.{0,40}).*$", rf"{arm} \1 {HOSTILE} {'long ' * 90}"]])
    for split, count in COUNTS.items():
        rows = [
            {
                "question": f"{split}{number} {HOSTILE}",
                "answer": ("a", "b", f"b {split}{number} {HOSTILE}")[number % 3],
                "kind": (f"odd {HOSTILE}", "even $k_1$")[number % 2],
            }
            for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = settings("ab", runs=str(folder / "runs"))
    raw |= {"name": name, "workflow": {"name": "relay", "hops": hops}}
    raw["arms"] = {arm: {"model": model, "price": per_1000(0.01)} for arm, model in ARMS.items()}
    experiment = load(folder, raw)
    Sampler(experiment).run()
    return experiment


def short_runs(experiment: Experiment) -> list[Run]:
    """One run each of two algorithms, and a second seed of the first."""
    runs = []
    for algo, seed in (("sft", 0), ("ppo", 0), ("sft", 1)):
        changed = {"algo": algo, "seed": seed, "iterations": 20, "evaluate_every": 5}
        settings = experiment.config.train.model_copy(update=changed)
        runs.append(train(with_train(experiment, settings)))
    return runs


def hostile_report(folder: Path) -> Written:
    """The report of both on the test queries."""
    experiment = hostile_experiment(folder)
    runs = short_runs(experiment)
    out = folder / "report"
    report = write_report(experiment, runs, out, command=COMMAND)
    return Written(out, experiment, runs, report)
