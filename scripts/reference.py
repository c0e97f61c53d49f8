"""Writes docs/experiment.md: every setting of an experiment file, from the code that checks them.

python scripts/reference.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hcache.config import schema as config
from hcache.config.sampling import SamplingConfig
from hcache.config.server import ServerConfig
from hcache.data.extractors import EXTRACTORS
from hcache.data.metrics import METRICS
from hcache.data.readers import READERS
from hcache.trainers import TRAINERS
from hcache.trainers.network import NetworkSettings
from hcache.workflows import WORKFLOWS
from hcache.workflows.search import SearchSettings

_ANNOTATED = re.compile(r"Annotated\[(\w+), \w+\(func=<[^<>]+>\)\]")  # a checked type, as its own
PAGE = Path(__file__).parent.parent / "docs" / "experiment.md"
HEAD = """# The experiment file

Every setting, as the code checks it (written by `scripts/reference.py`). Unknown settings are
refused. Any value can be overridden on the command line: `--set train.alpha=0.1`. Paths of models
and data are looked up beside the file, then below the working directory; `db` and `runs` are
relative to the working directory.
"""
SECTIONS: dict[str, type[BaseModel]] = {
    "The file": config.ExperimentConfig,
    "`models.NAME`": config.ModelConfig,
    "`models.NAME.server`": ServerConfig,
    "`models.NAME.low_rank`": config.LowRankConfig,
    "`arms.NAME`": config.ArmConfig,
    "`arms.NAME.price`": config.Price,
    "`data.NAME`": config.DatasetConfig,
    "`data.NAME.sources.SPLIT`": config.SourceConfig,
    "`sampling`": SamplingConfig,
    "`features`": config.FeaturesConfig,
    "`train`": config.TrainConfig,
    "`train.also.ALGORITHM`": config.AlgorithmConfig,
    "`evaluate`": config.EvaluateConfig,
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    parts += [_section(title, model) for title, model in SECTIONS.items()]
    parts += [
        _section(f"`workflow`, name: {name}", workflow) for name, workflow in WORKFLOWS.items()
    ]
    parts += [
        _section("`workflow.search`, name: teacher_student", SearchSettings),
        _section("`train.settings` of every algorithm that trains an MLP", NetworkSettings),
    ]
    parts += [
        _section(f"`train.settings`, algo: {name}", trainer.Settings, NetworkSettings)
        for name, trainer in sorted(TRAINERS.items())
    ]
    names = {"Readers": [*READERS], "Extractors": [*EXTRACTORS], "Metrics": [*METRICS]}
    for title, known in names.items():
        parts.append(f"{title}: {', '.join(f'`{name}`' for name in sorted(known))}.\n")
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel], shared: type[BaseModel] | None = None) -> str:
    """A table of settings, without those that `shared` has with equal defaults."""
    known = shared.model_fields if shared else {}
    rows = [
        f"| `{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |"
        for name, field in model.model_fields.items()
        if name not in known or _default(field) != _default(known[name])
    ]
    summary = (model.__doc__ or "").splitlines()[0]
    if not rows:
        return f"## {title}\n\n{summary}\n"
    table = "\n".join(["| setting | type | default | |", "|---|---|---|---|", *rows])
    return f"## {title}\n\n{summary}\n\n{table}\n"


def _type(field: FieldInfo) -> str:
    kind: Any = field.annotation
    text = getattr(kind, "__name__", "") if isinstance(kind, type) else str(kind)
    for prefix in ("typing.", "hcache.config.schema.", "hcache.config.server."):
        text = text.replace(prefix, "")
    text = _ANNOTATED.sub(r"\1", text)
    return f"`{text.replace('|', 'or')}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, config.Price):
        return "`{input: 1, output: 1, per: 1000}`"
    return "" if isinstance(value, BaseModel) else f"`{value!r}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
