"""Keyed hashes of the training patients: whoever holds the key can ask whether a patient was in, nobody else can.

    hash = HMAC-SHA256(key, "patient:" + identifier)

Plain hashes of patient numbers are undone by trying all numbers, so the hash needs a secret (RFC 2104). The key lies in
a file that the owner of the films keeps; it never travels with the checkpoint. A film without a patient is its own,
"film:" + its key.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from synthaug.errors import DataError, UserError
from synthaug.record import Record
from synthaug.shards import atomic_write

FILE = "training_patients.json"
SHORTEST = 16


def read_key(path: Path) -> bytes:
    """The key in a file; a new one of 32 random bytes is written, for its owner's eyes alone, where there is none.

    Raises:
        UserError: the file holds fewer than 16 bytes.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    key = path.read_bytes()
    if len(key) < SHORTEST:
        raise UserError(
            f"--patient-key {path}: holds {len(key)} bytes, expected {SHORTEST} or more secret ones; "
            "name a file that does not exist and a key is made"
        )
    return key


def hashed(key: bytes, records: Iterable[Record]) -> list[str]:
    """The hash of each record's patient, sorted, each once."""
    owners = {f"patient:{r.patient}" if r.patient is not None else f"film:{r.key}" for r in records}
    return sorted(hmac.new(key, owner.encode(), hashlib.sha256).hexdigest() for owner in owners)


def write(path: Path, key: bytes, records: Sequence[Record]) -> None:
    """Write the hashes beside a checkpoint."""
    known = {r.patient for r in records if r.patient is not None}
    facts = {
        "method": 'HMAC-SHA256(key, "patient:" + identifier)',
        "key": hmac.new(key, b"which key", hashlib.sha256).hexdigest()[:16],
        "patients": len(known),
        "films_without_patient": sum(r.patient is None for r in records),
        "hashes": hashed(key, records),
    }
    atomic_write(path, (json.dumps(facts, indent=1) + "\n").encode())


def trained_on(path: Path, key: bytes, records: Sequence[Record]) -> list[int]:
    """Indices of the records whose patient was among those that a checkpoint was trained on.

    Args:
        path: `training_patients.json` of the checkpoint.

    Raises:
        DataError: the file cannot be read, or was written with another key.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        mark, known = facts["key"], set(facts["hashes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the list of hashes that `synthaug adapt` writes ({error})") from error
    if not hmac.compare_digest(mark, hmac.new(key, b"which key", hashlib.sha256).hexdigest()[:16]):
        raise DataError(f"{path}: was written with another key; give the one of the training")
    return [i for i, record in enumerate(records) if hashed(key, [record])[0] in known]
