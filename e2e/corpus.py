"""Raw messages and their verdicts, as kept in corpus/."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus"

ESCAPE = re.compile(rb"\\x([0-9a-f]{2})|\\(.)|\{((?:[^\\}]|\\.)*)\*(\d+)\}", re.DOTALL)
SHORT = {b"r": b"\r", b"n": b"\n", b"t": b"\t"}


@dataclass(frozen=True)
class Case:
    name: str
    status: int
    code: str | None
    """The reason of a refusal; None for a message that is accepted."""
    message: bytes


def read(name: str) -> list[Case]:
    lines = (FOLDER / name).read_text().splitlines()
    return [case(line) for line in lines if line and not line.startswith("#")]


def case(line: str) -> Case:
    verdict, name, message = line.split(" | ", 2)
    status, _, code = verdict.partition(" ")
    return Case(name, int(status), code or None, unescape(message.encode()))


def unescape(text: bytes) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        byte, short, repeated, count = found.groups()
        if byte is not None:
            return bytes([int(byte, 16)])
        if short is not None:
            return SHORT.get(short, short)
        return unescape(repeated) * int(count)

    return ESCAPE.sub(one, text)
