"""Who a certificate says that a key belongs to, and whether an authority of ours says so too."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from degmix_edge.bundle.keys import key_name
from degmix_edge.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from degmix_edge.bundle.keys import PublicKey

MAX_CERTIFICATES = 8
"""In one chain."""


def check_pair(chain: Sequence[Certificate], key: PublicKey, where: str) -> None:
    """Check that the first certificate of a chain is of this key.

    Raises:
        ConfigError: It is of another one, or the chain is too long.
    """
    if len(chain) > MAX_CERTIFICATES:
        raise ConfigError(f"{where}: {len(chain)} certificates, at most {MAX_CERTIFICATES}")
    certified = chain[0].public_key()
    if certified != key:
        raise ConfigError(
            f"{where}: its first certificate is not of this key ({key_name(key)}); "
            "the certificate of the key comes first, then those of the authorities between"
        )


def check_chain(
    chain: Sequence[Certificate],
    authorities: Sequence[Certificate],
    identity: str,
    signed: datetime,
    where: str,
) -> None:
    """Check that one of `authorities` certified the chain's first key for `identity`.

    A certificate has to be valid at the time of the signature: a robot goes on after the
    certificate of its bundle has expired, whatever its own clock says.

    Args:
        chain: The certificate of the key that signed, then those between it and an authority.
        authorities: The certificates that are trusted.
        identity: An e-mail address, URI or host name of the first certificate.
        signed: The time of the signature, with its zone.
        where: The file, for messages.

    Raises:
        BundleError: No authority certified the key at that time, or for somebody else.
    """
    from cryptography import x509
    from cryptography.x509 import verification

    policy = verification.ExtensionPolicy
    agnostic = verification.Criticality.AGNOSTIC
    named = policy.permit_all().require_present(x509.SubjectAlternativeName, agnostic, None)
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(list(authorities)))
        .time(signed.astimezone(timezone.utc).replace(tzinfo=None))
        .max_chain_depth(MAX_CERTIFICATES)
        .extension_policies(
            ca_policy=policy.webpki_defaults_ca(),
            ee_policy=named.require_present(x509.ExtendedKeyUsage, agnostic, _may_sign_code),
        )
    )
    try:
        verified = builder.build_client_verifier().verify(chain[0], list(chain[1:]))
    except verification.VerificationError as error:
        who = ", ".join(one.subject.rfc4514_string() for one in authorities)
        raise BundleError(
            f"{where}: no certificate chain to {who} that was valid at {signed.isoformat()}: "
            f"{error}"
        ) from None
    names = [str(name.value) for name in verified.subjects or ()]
    if identity not in names:
        raise BundleError(f"{where}: certified for {', '.join(names)}, expected {identity}")


def _may_sign_code(policy: Any, certificate: Any, usage: Any) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    del policy, certificate
    if ExtendedKeyUsageOID.CODE_SIGNING not in usage:
        raise ValueError("its extended key usage has no code signing")
