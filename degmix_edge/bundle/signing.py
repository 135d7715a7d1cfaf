"""Who made a bundle: a signature over its manifest, which holds the hash of every other file.

`manifest.sig` is a DSSE envelope around an in-toto statement whose subject is `manifest.json`,
signed with Ed25519. Needs `pip install 'degmix-edge[sign]'`, which brings `cryptography` only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.manifest import MANIFEST, SIGNATURE
from degmix_edge.bundle.reading import parse_json
from degmix_edge.config import read_text
from degmix_edge.errors import BundleError, ConfigError
from degmix_edge.files import make_folder, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

Trust = Literal["any", "signed"]
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://github.com/degmix-edge/bundle/v1"
TRUST, KEYS, NOT_BEFORE = "DEGMIX_TRUST", "DEGMIX_KEYS", "DEGMIX_NOT_BEFORE"
PASSPHRASE = "DEGMIX_KEY_PASSPHRASE"
"""Names of the environment variables with a fleet's defaults, and with a key's passphrase."""
_NEW_KEY = "`degmix-edge sign --new-key NAME` makes one"


@dataclass(frozen=True)
class TrustPolicy:
    """Which bundles may be loaded.

    Attributes:
        trust: `any` takes every whole bundle; `signed` takes those that one of `keys` signed.
        keys: Files of public keys in PEM, or folders that hold them.
        not_before: The earliest time of a build, in ISO 8601. It refuses an older bundle that
            somebody puts back, whose signature is still good.
    """

    trust: Trust = "any"
    keys: tuple[Path, ...] = ()
    not_before: str | None = None

    def check(self, bundle: Bundle) -> str | None:
        """Return the name of the key that signed `bundle`, or None where none is asked for.

        Raises:
            ConfigError: The policy asks for signatures and names no key, or a key cannot be read.
            BundleError: The bundle is not signed by any of the keys, or is too old.
        """
        if self.not_before is not None:
            _check_age(bundle, self.not_before)
        if self.trust == "any":
            return None
        if not self.keys:
            raise ConfigError(f"trust 'signed': no keys; give keys=[...] or set {KEYS}")
        return check_signature(bundle, self.keys)


def policy(
    trust: str | None = None,
    keys: Sequence[str | Path] = (),
    not_before: str | None = None,
) -> TrustPolicy:
    """Return the policy of the arguments, and of the environment for those that are not given.

    Args:
        trust: `any` or `signed`; None takes `DEGMIX_TRUST`, or `signed` where `keys` are given.
        keys: Public keys in PEM, or folders of them; none takes `DEGMIX_KEYS`, whose paths are
            separated by colons.
        not_before: ISO 8601; None takes `DEGMIX_NOT_BEFORE`.

    Raises:
        ConfigError: `trust` is another word, or `not_before` is no time.
    """
    own = [Path(key) for key in keys]
    chosen = trust or ("signed" if own else os.environ.get(TRUST) or "any")
    if chosen not in ("any", "signed"):
        raise ConfigError(f"trust: got {chosen!r}, expected any or signed")
    shared = [Path(key) for key in os.environ.get(KEYS, "").split(os.pathsep) if key]
    earliest = not_before or os.environ.get(NOT_BEFORE) or None
    if earliest is not None:
        _time(earliest, "not_before")
    return TrustPolicy(chosen, tuple(own or shared), earliest)  # type: ignore[arg-type]


def sign(bundle: Bundle, key: str | Path) -> str:
    """Sign an open bundle: write its `manifest.sig`, and return the name of the key.

    Args:
        bundle: The bundle, as it was opened and verified.
        key: File of an Ed25519 private key in PEM. Its passphrase, if it has one, is taken from
            `DEGMIX_KEY_PASSPHRASE`.

    Raises:
        ConfigError: The key cannot be read.
        OutputError: The signature cannot be written.
    """
    private = _private_key(Path(key))
    payload = json.dumps(_statement(bundle)).encode()
    name = key_name(private.public_key())
    signature = private.sign(_encoded(PAYLOAD_TYPE, payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": name, "sig": base64.b64encode(signature).decode()}],
    }
    data = json.dumps(envelope, indent=1).encode()
    write_file(bundle.path / SIGNATURE, data, force=True)
    bundle.signature = data
    return name


def check_signature(bundle: Bundle, keys: Sequence[str | Path]) -> str:
    """Check that one of `keys` signed this very bundle, and return that key's name.

    Raises:
        ConfigError: A key cannot be read.
        BundleError: It is not signed, signed by another key, changed since, or of another bundle.
    """
    from cryptography.exceptions import InvalidSignature

    public = {key_name(key): key for path in keys for key in _public_keys(Path(path))}
    if bundle.signature is None:
        raise BundleError(
            f"{bundle.path}: is not signed, and only signed bundles are trusted here; "
            "`degmix-edge sign` signs it where the private key is"
        )
    where = f"{bundle.path}: {SIGNATURE}"
    payload, signatures = _envelope(bundle.signature, where)
    for name, signature in signatures.items():
        if name not in public:
            continue
        try:
            public[name].verify(signature, _encoded(PAYLOAD_TYPE, payload))
        except InvalidSignature:
            raise BundleError(f"{where}: was changed: key {name} did not sign it") from None
        digest = _subject(payload, where)
        if digest != bundle.digest:
            raise BundleError(
                f"{where}: is of another bundle: it signs {MANIFEST} {digest[:12]}, this one is "
                f"{bundle.digest[:12]}; sign it again, or copy the bundle with its own signature"
            )
        return name
    raise BundleError(
        f"{where}: signed by {', '.join(signatures) or 'nobody'}, expected one of "
        f"{', '.join(public)}"
    )


def make_key(name: str | Path) -> tuple[Path, Path]:
    """Make a pair of keys: `NAME.key.pem`, which stays secret, and `NAME.pub.pem` for robots.

    Raises:
        OutputError: One of the files exists, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    secret, public = Path(f"{name}.key.pem"), Path(f"{name}.pub.pem")
    passphrase = os.environ.get(PASSPHRASE)
    how: Any = s.BestAvailableEncryption(passphrase.encode()) if passphrase else s.NoEncryption()
    pem = private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, how)
    make_folder(secret.absolute().parent)
    write_file(secret, pem, force=False, mode=0o600)
    shown = private.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    write_file(public, shown, force=False)
    return secret, public


def key_name(key: Ed25519PublicKey) -> str:
    """Return the name of a public key: the beginning of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _statement(bundle: Bundle) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST, "digest": {"sha256": bundle.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"created": bundle.manifest.created},
    }


def _encoded(kind: str, payload: bytes) -> bytes:
    """What DSSE signs: the type and the payload, each with its length."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def _envelope(data: bytes, where: str) -> tuple[bytes, dict[str, bytes]]:
    """The payload, and the signatures by key name."""
    values = parse_json(data, where)
    try:
        if values["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"payload of type {values['payloadType']!r}")
        signatures = {
            str(entry["keyid"]): base64.b64decode(entry["sig"], validate=True)
            for entry in values["signatures"]
        }
        return base64.b64decode(values["payload"], validate=True), signatures
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise BundleError(f"{where}: is no signature ({error}); sign the bundle again") from None


def _subject(payload: bytes, where: str) -> str:
    values = parse_json(payload, where)
    try:
        (subject,) = values["subject"]
        if (values["_type"], values["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("another kind of statement")
        return str(subject["digest"]["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{where}: signs something else than a bundle ({error})") from None


def _check_age(bundle: Bundle, earliest: str) -> None:
    if _time(bundle.manifest.created, "created") < _time(earliest, "not_before"):
        raise BundleError(
            f"{bundle.path}: was built {bundle.manifest.created}, expected {earliest} or later: an "
            "older bundle was put in its place"
        )


def _time(text: str, name: str) -> datetime:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(f"{name}: got {text!r}, expected ISO 8601: 2026-11-25T12:00Z") from None
    return time if time.tzinfo else time.astimezone()


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    passphrase = os.environ.get(PASSPHRASE)
    data = read_text(path, "private key")
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError) as error:
        advice = f"; set {PASSPHRASE}" if isinstance(error, TypeError) and not passphrase else ""
        raise ConfigError(f"{path}: no private key in PEM ({error}){advice}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: {type(key).__name__}, expected an Ed25519 key; {_NEW_KEY}")
    return key


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if path.is_dir():
        found = [key for file in sorted(path.glob("*.pub.pem")) for key in _public_keys(file)]
        if not found:
            raise ConfigError(f"{path}: no *.pub.pem in this folder")
        return found
    data = read_text(path, "public key")
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        secret = "; it is the private one: robots get NAME.pub.pem" if b"PRIVATE" in data else ""
        raise ConfigError(f"{path}: no public key in PEM ({error}){secret}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: {type(key).__name__}, expected an Ed25519 key; {_NEW_KEY}")
    return [key]
