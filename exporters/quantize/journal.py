"""What a search has measured, a JSON line each, written as it is measured: a search that was killed reads it and goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """Answers by question. A question and its answer are plain JSON values; the last line of a killed search may be torn and is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        whole = 0
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                    self.answers[_key(entry["asked"])] = entry["found"]
                except (ValueError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
            os.truncate(path, whole)

    def once(self, question: Any, answer: Callable[[], Any]) -> Any:
        """The answer on record, or a new one, which is on disk before it is used."""
        key = _key(question)
        if key not in self.answers:
            found = answer()
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"asked": question, "found": found}, sort_keys=True) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            # As it will be read the next time.
            self.answers[key] = json.loads(json.dumps(found))
        return self.answers[key]

    def known(self, question: Any) -> Any:
        """The answer on record, None where there is none."""
        return self.answers.get(_key(question))

    def asked(self, kind: str) -> list[Any]:
        """The answers to all questions that are lists and begin with `kind`."""
        return [answer for key, answer in self.answers.items() if json.loads(key)[0] == kind]


def _key(question: Any) -> str:
    return json.dumps(question, sort_keys=True)
