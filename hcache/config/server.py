"""The section of a server: where it is and how it is asked. No secret can stand in it."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from hcache.config.section import Section


def base_url(text: str) -> str:
    """A base URL as it is, without a slash at its end.

    Raises:
        ValueError: it is none, or holds more than a base; not repeated, since it may be a secret.
    """
    try:
        url = urlsplit(text)
        well_made = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        well_made = False
    if not well_made or url.username is not None or url.query or url.fragment:
        raise ValueError("is no base URL like http://127.0.0.1:8000/v1, without user and query")
    return text.rstrip("/")


def variable(name: str) -> str:
    """The name of an environment variable.

    Raises:
        ValueError: it is none; not repeated, since it may be the key itself.
    """
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise ValueError("is no name of an environment variable (capitals, digits and _)")
    return name


class ServerConfig(Section):
    """A server that speaks OpenAI's protocol, for models with engine openai."""

    endpoints: tuple[Annotated[str, AfterValidator(base_url)], ...] = Field(
        (), description="base URLs, such as http://127.0.0.1:8000/v1; OPENAI_BASE_URL where omitted"
    )
    api_key_env: Annotated[str, AfterValidator(variable)] = Field(
        "OPENAI_API_KEY", description="environment variable that holds the key"
    )
    served_as: str | None = Field(
        None, description="model that replies name, where it is not `path`; identity"
    )
    concurrency: int = Field(
        32, ge=1, le=4096, description="requests at once to each endpoint, of this model"
    )
    timeout: float = Field(600, gt=0, description="seconds until a reply has to be there")
    retries: int = Field(
        6, ge=0, le=100, description="after a time-out, a broken reply, status 408, 409, 429 or 5xx"
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the most tokens of a reply"
    )
