"""Who made a bundle: a signature over its manifest, which holds the hash of every other file.

`manifest.sig` is a DSSE envelope around an in-toto statement whose subject is `manifest.json`,
signed with Ed25519 or ECDSA. Robots know the public key, or the authority that certified it.
Needs `pip install 'degmix-edge[sign]'`, which brings `cryptography` only.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from degmix_edge.bundle.certificates import MAX_CERTIFICATES, check_chain, check_pair
from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.keys import (
    is_known_kind,
    key_name,
    read_certificates,
    read_private_key,
    read_trusted,
    sign_bytes,
    signed_by,
    to_der,
)
from degmix_edge.bundle.manifest import MANIFEST, SIGNATURE
from degmix_edge.bundle.reading import parse_json
from degmix_edge.errors import BundleError, ConfigError
from degmix_edge.files import write_file

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from degmix_edge.bundle.keys import PublicKey

Trust = Literal["any", "signed"]
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://github.com/degmix-edge/bundle/v1"
TRUST, KEYS, IDENTITY = "DEGMIX_TRUST", "DEGMIX_KEYS", "DEGMIX_IDENTITY"
NOT_BEFORE = "DEGMIX_NOT_BEFORE"
"""Names of the environment variables with a fleet's defaults."""


@dataclass(frozen=True)
class TrustPolicy:
    """Which bundles may be loaded.

    Attributes:
        trust: `any` takes every whole bundle; `signed` takes those that one of `keys` signed.
        keys: Files of public keys in PEM, or folders that hold them; with an `identity`, the
            certificates of authorities.
        identity: For whom an authority must have certified the key that signed: an e-mail address,
            a URI or a host name.
        not_before: The earliest time of a build, in ISO 8601. It refuses an older bundle that
            somebody puts back, whose signature is still good.
    """

    trust: Trust = "any"
    keys: tuple[Path, ...] = ()
    identity: str | None = None
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
        return check_signature(bundle, self.keys, self.identity)


def policy(
    trust: str | None = None,
    keys: Sequence[str | Path] = (),
    identity: str | None = None,
    not_before: str | None = None,
) -> TrustPolicy:
    """Return the policy of the arguments, and of the environment for those that are not given.

    Args:
        trust: `any` or `signed`; None takes `DEGMIX_TRUST`, or `signed` where `keys` are given.
        keys: Public keys in PEM, or folders of them; none takes `DEGMIX_KEYS`, whose paths are
            separated by colons.
        identity: For whom the key must be certified; None takes `DEGMIX_IDENTITY`.
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
    who = identity or os.environ.get(IDENTITY) or None
    return TrustPolicy(chosen, tuple(own or shared), who, earliest)  # type: ignore[arg-type]


def sign(bundle: Bundle, key: str | Path, certificate: str | Path | None = None) -> str:
    """Sign an open bundle: write its `manifest.sig`, and return the name of the key.

    Args:
        bundle: The bundle, as it was opened and verified.
        key: File of a private key in PEM, Ed25519 or ECDSA on P-256. Its passphrase, if it has
            one, is taken from `DEGMIX_KEY_PASSPHRASE`.
        certificate: File in PEM with the certificate of this key, then those between it and the
            authority that robots know. The signature takes them along.

    Raises:
        ConfigError: The key or the certificates cannot be read, or do not belong together.
        OutputError: The signature cannot be written.
    """
    private = read_private_key(Path(key))
    chain = read_certificates(Path(certificate)) if certificate else []
    if chain:
        check_pair(chain, private.public_key(), str(certificate))
    payload = json.dumps(_statement(bundle)).encode()
    name = key_name(private.public_key())
    signature = sign_bytes(private, _encoded(PAYLOAD_TYPE, payload))
    entry: dict[str, Any] = {"keyid": name, "sig": base64.b64encode(signature).decode()}
    if chain:
        entry["certificates"] = [base64.b64encode(to_der(one)).decode() for one in chain]
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [entry],
    }
    data = json.dumps(envelope, indent=1).encode()
    write_file(bundle.path / SIGNATURE, data, force=True)
    bundle.signature = data
    return name


def check_signature(bundle: Bundle, keys: Sequence[str | Path], identity: str | None = None) -> str:
    """Check that one of `keys` signed this very bundle, and return that key's name.

    Args:
        bundle: The open bundle.
        keys: Files of public keys, or of certificates where there is an identity, or folders.
        identity: For whom an authority among `keys` must have certified the key that signed.

    Raises:
        ConfigError: A key cannot be read, or keys and identity do not belong together.
        BundleError: It is not signed, signed by another key, changed since, or of another bundle.
    """
    known, authorities = _trusted(keys, identity)
    if bundle.signature is None:
        raise BundleError(
            f"{bundle.path}: is not signed, and only signed bundles are trusted here; "
            "`degmix-edge sign` signs it where the private key is"
        )
    where = f"{bundle.path}: {SIGNATURE}"
    payload, signatures = _envelope(bundle.signature, where)
    for one in signatures:
        key = one.certified if identity else known.get(one.name)
        if key is None:
            continue
        if not signed_by(key, one.value, _encoded(PAYLOAD_TYPE, payload)):
            raise BundleError(f"{where}: was changed: key {one.name} did not sign it")
        digest, signed = _read_statement(payload, where)
        if identity:
            check_chain(one.chain, authorities, identity, signed, where)
        if digest != bundle.digest:
            raise BundleError(
                f"{where}: is of another bundle: it signs {MANIFEST} {digest[:12]}, this one is "
                f"{bundle.digest[:12]}; sign it again, or copy the bundle with its own signature"
            )
        return f"{one.name} ({identity})" if identity else one.name
    by = ", ".join(one.name for one in signatures) or "nobody"
    expected = (
        f"a key with a certificate for {identity}" if identity else f"one of {', '.join(known)}"
    )
    raise BundleError(f"{where}: signed by {by}, expected {expected}")


def _trusted(
    paths: Sequence[str | Path], identity: str | None
) -> tuple[dict[str, PublicKey], list[Certificate]]:
    """The public keys by name, and the authorities; an identity takes the place of keys.

    Raises:
        ConfigError: There are authorities and no identity, or the other way round.
    """
    keys: dict[str, PublicKey] = {}
    authorities: list[Certificate] = []
    for path in paths:
        some, certificates = read_trusted(Path(path))
        keys |= {key_name(key): key for key in some}
        authorities += certificates
    if identity is None and authorities:
        raise ConfigError(
            "keys: an authority certifies many keys; say whose: identity='release@example.com', "
            f"--identity or {IDENTITY}"
        )
    if identity is not None and not authorities:
        raise ConfigError(
            f"identity {identity}: only public keys are given, expected the certificate of the "
            "authority that certified it"
        )
    return keys, authorities


def _statement(bundle: Bundle) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST, "digest": {"sha256": bundle.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "created": bundle.manifest.created,
            "signed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
    }


def _encoded(kind: str, payload: bytes) -> bytes:
    """What DSSE signs: the type and the payload, each with its length."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


@dataclass(frozen=True)
class _Signature:
    """One signature of an envelope; `certified` is the key of its first certificate."""

    name: str
    value: bytes
    chain: tuple[Certificate, ...]
    certified: PublicKey | None


def _envelope(data: bytes, where: str) -> tuple[bytes, list[_Signature]]:
    """The payload and the signatures."""
    values = parse_json(data, where)
    try:
        if values["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"payload of type {values['payloadType']!r}")
        signatures = [_read_signature(entry) for entry in values["signatures"]]
        return base64.b64decode(values["payload"], validate=True), signatures
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise BundleError(f"{where}: is no signature ({error}); sign the bundle again") from None


def _read_signature(entry: dict[str, Any]) -> _Signature:
    value = base64.b64decode(entry["sig"], validate=True)
    encoded = entry.get("certificates", [])
    if not encoded:
        return _Signature(str(entry["keyid"]), value, (), None)
    from cryptography.x509 import load_der_x509_certificate

    if len(encoded) > MAX_CERTIFICATES:
        raise ValueError(f"{len(encoded)} certificates, at most {MAX_CERTIFICATES}")
    der = [base64.b64decode(one, validate=True) for one in encoded]
    chain = tuple(load_der_x509_certificate(one) for one in der)
    key: Any = chain[0].public_key()
    if not is_known_kind(key):
        raise ValueError(f"a certificate of a {type(key).__name__}")
    return _Signature(key_name(key), value, chain, key)


def _read_statement(payload: bytes, where: str) -> tuple[str, datetime]:
    """The hash of the manifest that it signs, and the time of the signature."""
    values = parse_json(payload, where)
    try:
        (subject,) = values["subject"]
        if (values["_type"], values["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError("another kind of statement")
        return str(subject["digest"]["sha256"]), _time(values["predicate"]["signed"], "signed")
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
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
