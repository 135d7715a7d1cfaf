"""Keys and certificates: PEM files in, objects of `cryptography` out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.config import read_text
from degmix_edge.errors import ConfigError
from degmix_edge.files import make_folder, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.x509 import Certificate

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

PASSPHRASE = "DEGMIX_KEY_PASSPHRASE"
"""The environment variable with a private key's passphrase."""
PATTERNS = ("*.pub.pem", "*.ca.pem")
"""Public keys and certificate authorities in a folder."""
_EXPECTED = "expected Ed25519 or ECDSA on P-256; `degmix-edge sign --new-key NAME` makes a key"


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


def key_name(key: PublicKey) -> str:
    """Return the name of a public key: the beginning of the SHA-256 of its DER form.

    `openssl pkey -pubin -in NAME.pub.pem -outform DER | sha256sum` prints the same.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


def sign_bytes(key: PrivateKey, data: bytes) -> bytes:
    """Return the signature of `data`: Ed25519, or ECDSA with SHA-256."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return key.sign(data) if isinstance(key, Ed25519PrivateKey) else key.sign(data, _ecdsa())


def signed_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` with the private half of `key`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, data)
        else:
            key.verify(signature, data, _ecdsa())
    except InvalidSignature:
        return False
    return True


def read_private_key(path: Path) -> PrivateKey:
    """Read a private key; its passphrase, if it has one, is in `DEGMIX_KEY_PASSPHRASE`.

    Raises:
        ConfigError: The file holds no private key of a kind that we use, or cannot be read.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    passphrase = os.environ.get(PASSPHRASE)
    data = read_text(path, "private key")
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError) as error:
        advice = f"; set {PASSPHRASE}" if isinstance(error, TypeError) and not passphrase else ""
        raise ConfigError(f"{path}: no private key in PEM ({error}){advice}") from None
    _check_kind(key.public_key(), str(path))
    return key  # type: ignore[return-value]


def read_trusted(path: Path) -> tuple[list[PublicKey], list[Certificate]]:
    """Read a public key, the certificates of authorities, or a folder of both.

    Raises:
        ConfigError: The file holds neither, or cannot be read, or the folder holds none.
    """
    if path.is_dir():
        files = sorted(file for pattern in PATTERNS for file in path.glob(pattern))
        if not files:
            raise ConfigError(f"{path}: no {' or '.join(PATTERNS)} in this folder")
        pairs = [read_trusted(file) for file in files]
        return [key for keys, _ in pairs for key in keys], [c for _, some in pairs for c in some]
    if b"BEGIN CERTIFICATE" in read_text(path, "public key"):
        return [], read_certificates(path)
    return [_read_public_key(path)], []


def read_certificates(path: Path) -> list[Certificate]:
    """Read the certificates of a PEM file, in their order.

    Raises:
        ConfigError: The file holds none, or cannot be read.
    """
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(read_text(path, "certificate"))
    except ValueError as error:
        raise ConfigError(f"{path}: no certificate in PEM ({error})") from None


def to_der(certificate: Certificate) -> bytes:
    """Return the bytes of a certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _read_public_key(path: Path) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = read_text(path, "public key")
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        secret = "; it is the private one: robots get NAME.pub.pem" if b"PRIVATE" in data else ""
        raise ConfigError(f"{path}: no public key in PEM ({error}){secret}") from None
    _check_kind(key, str(path))
    return key  # type: ignore[return-value]


def is_known_kind(key: object) -> bool:
    """Whether this public key is of a kind whose signatures are read here."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    on_p256 = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return on_p256 or isinstance(key, Ed25519PublicKey)


def _check_kind(key: object, where: str) -> None:
    if not is_known_kind(key):
        raise ConfigError(f"{where}: {type(key).__name__.removesuffix('PublicKey')}, {_EXPECTED}")


def _ecdsa() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    return ECDSA(SHA256())
