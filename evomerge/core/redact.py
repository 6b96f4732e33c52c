"""Removes secrets from everything that is written: messages, journals, logs and reports.

A secret is the value of an environment variable whose name says so (HF_TOKEN, WANDB_API_KEY, ...),
and whatever looks like a token, an authorisation header or a URL with credentials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MARK = "[redacted]"
_NAMES = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASS|APIKEY|KEY|CREDENTIALS?|COOKIE)(?:$|_(?!MODE|FILE|"
    r"PATH|DIR|NAME)\w*$)"
)
_LEAST = 6  # a shorter value is probably an ordinary word
_PATTERNS = (
    (re.compile(r"(?<=://)[^/\s:@'\"]+(?::[^/\s@'\"]*)?@"), f"{MARK}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {MARK}"),
    (
        re.compile(r"(?i)\b((?:access_|auth_|hf_)?(?:token|api_?key|secret|password))=[^&\s'\"]+"),
        rf"\1={MARK}",
    ),
    (re.compile(r"\b(?:hf|gh[pousr]|xox[abpr])_[A-Za-z0-9]{16,}\b"), MARK),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), MARK),
    (re.compile(r"\bAKIA[A-Z0-9]{16}\b"), MARK),
)


def redact(text: str) -> str:
    """Return a text without secrets.

    >>> redact("GET https://me:pass@host/x?token=abc failed")
    'GET https://[redacted]@host/x?token=[redacted] failed'
    """
    for secret in _secrets():
        text = text.replace(secret, MARK)
    for pattern, stead in _PATTERNS:
        text = pattern.sub(stead, text)
    return text


def redacted(value: Any) -> Any:
    """Return plain data whose texts hold no secrets; keys are left as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _secrets() -> list[str]:
    values = {
        value
        for name, value in os.environ.items()
        if _NAMES.search(name.upper()) and len(value) >= _LEAST
    }
    return sorted(values, key=len, reverse=True)  # one may be the beginning of another
