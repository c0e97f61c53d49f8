"""Workflows: one definition of the decision process each, in a file of its own.

To add one, write a file with a pydantic class that derives from `Workflow` and decorate it with
`register`; its fields are its settings in an experiment file.
"""

from hcache.workflows.base import WORKFLOWS, Workflow, register
from hcache.workflows.effects import (
    STOP,
    Ask,
    Choose,
    Decision,
    Finished,
    Flow,
    Message,
    Pending,
    Stop,
    Undecided,
    advance,
)
from hcache.workflows.relay import Relay

__all__ = [
    "STOP",
    "WORKFLOWS",
    "Ask",
    "Choose",
    "Decision",
    "Finished",
    "Flow",
    "Message",
    "Pending",
    "Relay",
    "Stop",
    "Undecided",
    "Workflow",
    "advance",
    "register",
]
