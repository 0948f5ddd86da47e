"""Write the golden frames that are missing: `python -m tests.golden.wire.write`. Never overwrites one.

Each frame lies beside its twin in JSON, for people and for other languages. A frame that was ever sent is read
for ever: to change a format, add a version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from nanny.protocol.codec import encode_frame
from nanny.protocol.messages import NEWEST_ONLY, ApplicationMessage, to_wire
from tests.support.wire_examples import EXAMPLES

VERSION: Final = 1
FOLDER: Final = Path(__file__).parent / f"v{VERSION}"
SEQUENCE: Final = 5
"""Of all numbered messages here."""


def main() -> None:
    """Write a frame and its twin for each example that has none."""
    FOLDER.mkdir(exist_ok=True)
    for name, message in EXAMPLES.items():
        frame, twin = FOLDER / f"{name}.msgpack", FOLDER / f"{name}.json"
        if frame.exists() or twin.exists():
            continue
        numbered = isinstance(message, ApplicationMessage) and type(message) not in NEWEST_ONLY
        sequence = SEQUENCE if numbered else None
        envelope = {"v": VERSION, **({} if sequence is None else {"s": sequence}), **to_wire(message)}
        frame.write_bytes(encode_frame(message, version=VERSION, sequence=sequence))
        twin.write_text(json.dumps(envelope, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        print(f"wrote {frame.relative_to(FOLDER)} and {twin.name}")


if __name__ == "__main__":
    main()
