"""Certificates: an authority says whose key signed; every way around it is refused by name."""

import base64
import json
import shutil
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.signing import sign
from degmix_edge.errors import BundleError, ConfigError
from degmix_edge.runtime import load

RELEASE, INTERN = "release@acme.example", "intern@acme.example"
CODE, WEB = ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH
TODAY = datetime.now(timezone.utc)


class Authority:
    """Certifies keys, and other authorities; `files` of it go into `folder`."""

    def __init__(self, folder, name, issuer=None):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.chain = []
        self.issuer = issuer or self
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self.issuer.certify_key(name, self.key, basic)
        if issuer:
            self.chain = [self.certificate, *issuer.chain]
        self.file = folder / f"{name}.ca.pem"
        self.file.write_bytes(_pem(self.certificate))

    def certify_key(self, name, key, basic, *, usage=None, names=(), days=(-30, 30)):
        public = key.public_key()
        signs = x509.KeyUsage(
            digital_signature=not basic.ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=basic.ca,
            crl_sign=basic.ca,
            encipher_only=False,
            decipher_only=False,
        )
        start, end = (TODAY + timedelta(days=day) for day in days)
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            public,
            x509.random_serial_number(),
            start,
            end,
        )
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(basic, critical=True)
        builder = builder.add_extension(signs, critical=True)
        builder = builder.add_extension(of_issuer, critical=False)
        of_subject = x509.SubjectKeyIdentifier.from_public_key(public)
        builder = builder.add_extension(of_subject, critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def certify(self, who=RELEASE, *, usage=CODE, key=None, days=(-30, 30)):
        """Files of a private key, and of its certificate with those between."""
        key = key or ed25519.Ed25519PrivateKey.generate()
        basic = x509.BasicConstraints(ca=False, path_length=None)
        names = [x509.RFC822Name(who)]
        leaf = self.certify_key(who, key, basic, usage=usage, names=names, days=days)
        secret, chain = self.folder / "release.key.pem", self.folder / "release.chain.pem"
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        chain.write_bytes(b"".join(map(_pem, [leaf, *self.chain])))
        return secret, chain


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def acme(tmp_path):
    return Authority(tmp_path, "acme")


@pytest.fixture
def robot(bundles, tmp_path):
    return shutil.copytree(bundles["fp32"].path, tmp_path / "robot.degmix")


def trusts(robot, authority, identity=RELEASE):
    load(robot, keys=[authority.file], identity=identity).close()
    return True


def refused(robot, authority, message, identity=RELEASE):
    with pytest.raises(BundleError, match=message):
        trusts(robot, authority, identity)


@pytest.mark.parametrize("make", [ed25519.Ed25519PrivateKey.generate, None])
def test_a_certified_key_is_trusted(robot, acme, make):
    key = make() if make else ec.generate_private_key(ec.SECP256R1())
    sign(open_bundle(robot), *acme.certify(key=key))
    assert trusts(robot, acme)


def test_an_authority_between_comes_along(robot, acme, tmp_path):
    team = Authority(tmp_path, "team", issuer=acme)
    secret, chain = team.certify()
    sign(open_bundle(robot), secret, chain)
    assert trusts(robot, acme)
    chain.write_bytes(_pem(x509.load_pem_x509_certificates(chain.read_bytes())[0]))
    sign(open_bundle(robot), secret, chain)
    refused(robot, acme, "no certificate chain to CN=acme that was valid at")


def test_somebody_else_of_the_same_authority(robot, acme):
    sign(open_bundle(robot), *acme.certify(INTERN))
    refused(robot, acme, f"certified for {INTERN}, expected {RELEASE}")


def test_another_authority_of_the_same_name(robot, acme, tmp_path):
    (tmp_path / "other").mkdir()
    sign(open_bundle(robot), *Authority(tmp_path / "other", "acme").certify())
    refused(robot, acme, "no certificate chain to CN=acme")


def test_a_key_that_certifies_itself(robot, acme):
    """Somebody with a good certificate uses it as an authority."""
    secret, chain = acme.certify(INTERN)
    ours = serialization.load_pem_private_key(secret.read_bytes(), None)
    basic = x509.BasicConstraints(ca=False, path_length=None)
    rogue = Authority(acme.folder, INTERN)
    rogue.key = ec.generate_private_key(ec.SECP256R1())
    leaf = rogue.certify_key(RELEASE, ours, basic, usage=CODE, names=[x509.RFC822Name(RELEASE)])
    chain.write_bytes(_pem(leaf) + chain.read_bytes())
    sign(open_bundle(robot), secret, chain)
    refused(robot, acme, "no certificate chain to CN=acme")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"days": (-30, -1)}, "no certificate chain .* that was valid at"),
        ({"days": (1, 30)}, "no certificate chain .* that was valid at"),
        ({"usage": WEB}, "its extended key usage has no code signing"),
        ({"usage": None}, "no certificate chain"),
    ],
)
def test_a_certificate_that_does_not_count(robot, acme, options, message):
    sign(open_bundle(robot), *acme.certify(**options))
    refused(robot, acme, message)


def test_a_bundle_outlives_the_certificate(robot, acme, monkeypatch):
    """The time of the signature counts, which is signed: not the clock of the robot."""
    from degmix_edge.bundle import signing

    class Earlier(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) - timedelta(days=10)

    secret, chain = acme.certify(days=(-30, -1))
    monkeypatch.setattr(signing, "datetime", Earlier)
    sign(open_bundle(robot), secret, chain)
    monkeypatch.undo()
    assert trusts(robot, acme)
    path = robot / "manifest.sig"
    envelope = json.loads(path.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b"2026", b"2025")
    path.write_text(json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}))
    refused(robot, acme, "was changed: key [0-9a-f]{16} did not sign it")


def test_certificates_are_taken_away_or_damaged(robot, acme):
    sign(open_bundle(robot), *acme.certify())
    path = robot / "manifest.sig"
    envelope = json.loads(path.read_text())
    (entry,) = envelope["signatures"]
    del entry["certificates"]
    path.write_text(json.dumps(envelope))
    refused(robot, acme, f"expected a key with a certificate for {RELEASE}")
    for certificates in (["AAAA"], ["AAAA"] * 9, [1], "AAAA", {"a": 1}):
        entry["certificates"] = certificates
        path.write_text(json.dumps(envelope))
        refused(robot, acme, "manifest.sig: is no signature")


def test_keys_and_identity_that_do_not_belong_together(robot, acme, tmp_path):
    secret, chain = acme.certify()
    opened = open_bundle(robot)
    sign(opened, secret, chain)
    with pytest.raises(ConfigError, match="an authority certifies many keys; say whose"):
        load(robot, keys=[acme.file])
    other, _ = acme.certify(INTERN)
    with pytest.raises(ConfigError, match="its first certificate is not of this key"):
        sign(opened, other, Authority(tmp_path, "new").file)
    with pytest.raises(ConfigError, match="no certificate in PEM"):
        sign(opened, other, other)
    large = rsa.generate_private_key(65537, 2048)
    with pytest.raises(ConfigError, match="RSA, expected Ed25519 or ECDSA on P-256"):
        sign(opened, *acme.certify(key=large))


def test_the_verbs_and_a_fleet(cli, robot, acme, monkeypatch):
    secret, chain = acme.certify()
    code, _, err = cli("sign", robot, "--key", secret, "--certificate", chain)
    assert code == 0, err
    code, out, err = cli("verify", robot, "--key", acme.file, "--identity", RELEASE, "--json")
    assert code == 0, err
    assert json.loads(out)["signer"].endswith(f" ({RELEASE})")
    code, _, err = cli("verify", robot, "--key", acme.file, "--identity", INTERN)
    assert code == 9
    assert f"certified for {RELEASE}, expected {INTERN}" in err
    monkeypatch.setenv("DEGMIX_TRUST", "signed")
    monkeypatch.setenv("DEGMIX_KEYS", str(acme.folder))
    monkeypatch.setenv("DEGMIX_IDENTITY", RELEASE)
    load(robot).close()
    code, _, err = cli("sign", "--new-key", "mine")
    assert code == 0, err
    code, _, err = cli("verify", robot, "--key", "mine.pub.pem")
    assert code == 3
    assert "only public keys are given, expected the certificate of the authority" in err
    code, _, err = cli("sign", "--new-key", "second", "--certificate", chain)
    assert code == 2
    assert "--certificate: give the --key that it is of" in err
