"""What the daemon hands to the process that sends, and how it crosses the pipe between them. Sends nothing."""

from __future__ import annotations

import msgspec

from nanumpay_backupd.notifiers.base import Message, Target
from nanumpay_backupd.settings.schema import decode_hook, encode_hook

__all__ = ["Errand", "decode_errand", "encode_errand"]


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent: for each target its messages, in their order."""

    parcels: tuple[tuple[Target, tuple[Message, ...]], ...]


def encode_errand(errand: Errand) -> bytes:
    """Encode an errand, secrets included: for a pipe to our own process and nothing else."""
    return msgspec.json.encode(errand, enc_hook=encode_hook)


def decode_errand(data: bytes) -> Errand:
    """Decode what `encode_errand` made; raises msgspec.ValidationError otherwise."""
    return msgspec.json.decode(data, type=Errand, dec_hook=decode_hook)
