"""Workflows: one definition of the decision process each, in a file of its own.

To add one, write a file with a pydantic class that derives from `Workflow`, under
`@WORKFLOWS.register("name")`; its fields are its settings in an experiment file. Every module here
is imported with the package, so nothing else needs an edit.
"""

from hcache.plugins import load_package
from hcache.workflows.base import WORKFLOWS, Workflow
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
    Part,
    Pending,
    Reply,
    Stop,
    Undecided,
    Walk,
    advance,
    ask,
    choose,
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
    "Part",
    "Pending",
    "Relay",
    "Reply",
    "Stop",
    "TeacherStudent",
    "Undecided",
    "Walk",
    "Workflow",
    "advance",
    "ask",
    "choose",
]

load_package(__name__, __path__)
