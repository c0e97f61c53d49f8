"""A dialogue of student and teacher, as in HAPS (arXiv 2601.05903); the router assigns the roles.

First the router chooses an arm for each role, in the order of `roles`; each choice sees the
question and the roles given so far. Then the dialogue runs by itself. In each turn the student
thinks and acts: `Search[…]` is answered by the search tool, `Finish[…]` ends the dialogue with
its answer. After a search the student rewrites its summary; then the teacher comments, ends with
[Continue] or [Rethink], and rewrites a summary of its own. What the next turn knows are student's
summary and teacher's comment. After `budget` such turns comes a last one, in which the student is
told to finish.

A reply without an action counts as a turn, but nothing of it goes on: no search, no new summary,
and the teacher is told that no action was given. A dialogue without `Finish[…]` has the answer "".
Both stand in the trajectory's notes, as do comments without verdict and empty summaries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hcache.config.file import read_yaml
from hcache.data.queries import Query
from hcache.models.arms import Arm
from hcache.models.files import locate
from hcache.workflows.acts import Act, has_verdict, parse_act
from hcache.workflows.base import WORKFLOWS, Workflow, parts_for, prompt_for
from hcache.workflows.effects import Answer, Flow, Part, ask, choose, reply_of
from hcache.workflows.search import SearchSettings, with_content

Role: TypeAlias = Literal["teacher", "student", "summarizer"]
"""A part of a flow, which gives `R` to the part that it belongs to."""

ROLES: tuple[Role, ...] = ("teacher", "student")
PROMPTS = Path(__file__).with_suffix(".yaml")
SEEN = {"question", "summary", "advice"}
DONE = SEEN | {"step", "found"}
PLACES = {
    "student": SEEN,
    "last": SEEN,
    "student_summary": DONE,
    "teacher": DONE,
    "teacher_summary": DONE | {"comment"},
}
"""Names that can be filled into each prompt; into the others, none."""

_PLACE = re.compile(r"\{(\w+)\}")


class Prompts(BaseModel):
    """Instructions to student and teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: str
    last: str
    student_summary: str
    teacher: str
    teacher_summary: str
    no_action: str
    nothing: str

    @model_validator(mode="after")
    def _places_are_known(self) -> Prompts:
        for name, text in self:
            for place in _PLACE.findall(text):
                if place not in PLACES.get(name, ()):
                    known = ", ".join(f"{{{one}}}" for one in sorted(PLACES.get(name, ())))
                    raise ValueError(f"{name}: unknown place {{{place}}}; known: {known or 'none'}")
        return self


@cache
def default_prompts() -> Prompts:
    """The prompts that come with the package."""
    return Prompts.model_validate(read_yaml(PROMPTS, "Install hcache again."))


@WORKFLOWS.register("teacher_student")
class TeacherStudent(Workflow):
    """Settings of the dialogue; its decisions are one for each role."""

    name: Literal["teacher_student"] = "teacher_student"
    hops: int = Field(len(ROLES), description="the number of roles; need not be given")
    roles: tuple[Role, ...] = Field(
        ROLES, description="in the order of choice; a summarizer writes both summaries"
    )
    budget: int = Field(3, ge=0, le=16, description="turns before the one that must finish")
    prompts: Prompts = Field(
        default_factory=default_prompts, description="a file with other texts, as in this folder's"
    )
    separator: str = Field("\n\n", description="between prompt and instruction")
    search: SearchSettings = Field(SearchSettings(), description="the search tool")

    @model_validator(mode="before")
    @classmethod
    def _a_hop_for_each_role(cls, values: Any) -> Any:
        roles = values.get("roles") if isinstance(values, dict) else None
        return {"hops": len(roles), **values} if isinstance(roles, (list, tuple)) else values

    @model_validator(mode="after")
    def _roles_are_whole(self) -> TeacherStudent:
        if len(set(self.roles)) < len(self.roles) or not {"teacher", "student"} <= {*self.roles}:
            raise ValueError("roles: needs teacher and student, each role once")
        if self.hops != len(self.roles):
            raise ValueError(f"hops: is the number of roles, {len(self.roles)}; leave it out")
        return self

    @classmethod
    def with_files(cls, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
        """See `Workflow.with_files`: the texts of the prompts, the key of the search model."""
        filled = dict(settings)
        if isinstance(prompts := filled.get("prompts"), str):
            place = "workflow.prompts"
            hint = f"Give it the entries of {PROMPTS}."
            filled["prompts"] = read_yaml(locate(prompts, folder, place), hint, place)
        if isinstance(search := filled.get("search"), dict):
            filled["search"] = with_content(search, folder, "workflow.search")
        return filled

    def tools(self) -> tuple[Arm, ...]:
        """See `Workflow.tools`."""
        return (self.search.arm(),)

    def trajectories(self, arms: int) -> int:
        """See `Workflow.trajectories`: only a full assignment gives one."""
        return int(arms**self.hops)

    def trajectories_within(self, arms: int, width: int) -> int:
        """See `Workflow.trajectories_within`."""
        return int(arms * min(arms, width) ** (self.hops - 1))

    def stand_in(self, text: str) -> str:
        """See `Workflow.stand_in`: a student that never stops searching makes the most calls."""
        return f"Search[{text}]"

    def run(self, query: Query, arms: tuple[Arm, ...]) -> Flow:
        """See `Workflow.run`."""
        assigned = yield from self._assign(query, arms)
        return (yield from _Dialogue(self, query, assigned).run())

    def _assign(self, query: Query, arms: tuple[Arm, ...]) -> Part[dict[str, Arm]]:
        assigned: dict[str, Arm] = {}
        for role in self.roles:
            given = [f"{other}: {arm.name}" for other, arm in assigned.items()]
            assigned[role] = yield from choose((query.question, *given), arms, role=role)
        return assigned


@dataclass
class _Dialogue:
    """State of a dialogue: its role assignment, and what is known so far."""

    settings: TeacherStudent
    query: Query
    assigned: dict[str, Arm]
    summaries: dict[str, str] = field(default_factory=lambda: {"student": "", "teacher": ""})
    advice: str = ""
    notes: list[str] = field(default_factory=list)

    def run(self) -> Flow:
        for turn in range(1, self.settings.budget + 2):
            last = turn > self.settings.budget
            act = yield from self._act(turn, last)
            if act is not None and act.kind == "finish":
                return Answer(act.text, tuple(self.notes))
            if not last:
                yield from self._follow_up(turn, act)
        return Answer("", (*self.notes, "no answer"))

    def _act(self, turn: int, last: bool) -> Part[Act | None]:
        prompts = self.settings.prompts
        prompt = self._fill(prompts.last if last else prompts.student, "student")
        act = parse_act((yield from self._say("student", prompt, turn)))
        if act is None:
            self.notes.append(f"student: no action at turn {turn}")
        return act

    def _follow_up(self, turn: int, act: Act | None) -> Part[None]:
        """Evidence, summaries and advice, after an action that is no answer."""
        prompts = self.settings.prompts
        done = {"step": prompts.no_action if act is None else act.step, "found": ""}
        if act is not None:
            search = self.settings.search.ask(self.query, act.text)
            done["found"] = yield from reply_of(search)
            yield from self._summarise("student", prompts.student_summary, done, turn)
        comment = yield from self._say(
            "teacher", self._fill(prompts.teacher, "teacher", **done), turn
        )
        if not has_verdict(comment):
            self.notes.append(f"teacher: neither [Continue] nor [Rethink] at turn {turn}")
        done["comment"] = comment
        yield from self._summarise("teacher", prompts.teacher_summary, done, turn)
        self.advice = comment

    def _summarise(self, of: str, prompt: str, done: dict[str, str], turn: int) -> Part[None]:
        writer = "summarizer" if "summarizer" in self.assigned else of
        summary = yield from self._say(writer, self._fill(prompt, of, **done), turn)
        if summary:
            self.summaries[of] = summary
        else:  # what was known stays known
            self.notes.append(f"{of}: empty summary at turn {turn}")

    def _say(self, role: str, text: str, turn: int) -> Part[str]:
        """A reply of whoever has the role; a later turn draws anew, even for an equal prompt."""
        arm = self.assigned[role]
        prompt = prompt_for(arm, [text], self.settings.separator)
        reply = yield from ask(arm, prompt, sample=turn - 1, role=role)
        return reply.strip()

    def _fill(self, prompt: str, of: str, **done: str) -> str:
        values = {
            "question": self.settings.separator.join(parts_for(self.query)),
            "summary": self.summaries[of],
            "advice": self.advice,
            **done,
        }
        # In one pass: what was filled in is never taken for a place.
        return _PLACE.sub(lambda match: values[match[1]] or self.settings.prompts.nothing, prompt)
