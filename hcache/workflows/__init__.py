"""Workflows: one definition of the decision process each, in a file of its own.

To add one, write a file with a pydantic class that derives from `Workflow` and decorate it with
`register`; its fields are its settings in an experiment file. Then name it here.
"""

from hcache.workflows.base import WORKFLOWS, Workflow, register
from hcache.workflows.cascade import Cascade
from hcache.workflows.effects import (
    STOP,
    Answer,
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
from hcache.workflows.teacher_student import TeacherStudent

__all__ = [
    "STOP",
    "WORKFLOWS",
    "Answer",
    "Ask",
    "Cascade",
    "Choose",
    "Decision",
    "Finished",
    "Flow",
    "Message",
    "Pending",
    "Relay",
    "Stop",
    "TeacherStudent",
    "Undecided",
    "Workflow",
    "advance",
    "register",
]
