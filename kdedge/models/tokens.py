"""How many ids a tokenizer can give, read from its JSON. Light: tokenizers is not imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdedge.errors import ModelError


def vocabulary_size(tokenizer: Path) -> int:
    """One more than the largest id of a `tokenizer.json`: the rows of the embedding that it needs.

    Raises:
        ModelError: the file cannot be read, or is no tokenizer.
    """
    try:
        content: Any = json.loads(tokenizer.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        # Unigram models list [piece, score] in the order of their ids; the others map a piece to its id.
        ids = list(range(len(vocabulary))) if isinstance(vocabulary, list) else list(vocabulary.values())
        return 1 + max(int(number) for number in [*ids, *(token["id"] for token in content.get("added_tokens") or ())])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{tokenizer}: is no tokenizer.json that can be read ({type(error).__name__}: {error})") from error
