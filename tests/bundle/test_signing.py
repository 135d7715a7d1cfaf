"""Signatures: every way to cheat is refused by name, and a fleet's defaults hold."""

import json
import shutil

import pytest

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.keys import make_key
from degmix_edge.bundle.signing import check_signature, policy, sign
from degmix_edge.errors import BundleError, ConfigError, OutputError
from degmix_edge.runtime import load
from degmix_edge.workflows.engine import rebuild


@pytest.fixture
def keys(tmp_path):
    return make_key(tmp_path / "fleet")


@pytest.fixture
def signed(bundles, tmp_path, keys):
    target = tmp_path / "robot.degmix"
    shutil.copytree(bundles["fp32"].path, target)
    sign(open_bundle(target), keys[0])
    return target


def refused(path, message, *keys, **options):
    with pytest.raises(BundleError, match=message):
        load(path, keys=keys, **options)


def test_a_signed_bundle_runs(signed, keys, pictures):
    with load(signed, keys=[keys[1]]) as session:
        assert session(pictures[0])
    with load(signed, keys=[keys[1].parent]) as session:  # a folder of keys
        assert session(pictures[0])


def test_a_changed_byte_is_found_before_the_signature_is_asked(signed, keys):
    engine = signed / "engines" / "onnxruntime" / "engine.onnx"
    engine.write_bytes(engine.read_bytes() + b"x")
    refused(signed, "engine.onnx' was changed", keys[1])


def test_a_swapped_engine_with_new_hashes_is_not_what_was_signed(signed, bundles, keys):
    """Somebody who writes all hashes anew, and keeps our signature."""
    envelope = (signed / "manifest.sig").read_bytes()
    shutil.rmtree(signed)
    shutil.copytree(bundles["int8"].path, signed)
    (signed / "manifest.sig").write_bytes(envelope)
    refused(signed, "manifest.sig: is of another bundle: it signs manifest.json", keys[1])


def test_another_key(signed, tmp_path):
    _, public = make_key(tmp_path / "other")
    refused(signed, r"signed by [0-9a-f]{16}, expected one of [0-9a-f]{16}", public)


def test_a_stripped_signature(signed, keys):
    (signed / "manifest.sig").unlink()
    refused(signed, "is not signed, and only signed bundles are trusted here", keys[1])


def test_an_older_bundle_that_is_put_back(signed, keys):
    refused(signed, "expected 2100-01-01 or later: an older", keys[1], not_before="2100-01-01")
    load(signed, keys=[keys[1]], not_before="2020-01-01T00:00Z").close()


def test_a_forged_envelope(signed, keys):
    path = signed / "manifest.sig"
    envelope = json.loads(path.read_text())
    forged = envelope | {"payload": envelope["payload"][:-4] + "AAAA"}
    path.write_text(json.dumps(forged))
    refused(signed, "was changed: key [0-9a-f]{16} did not sign it", keys[1])
    path.write_text(json.dumps(envelope | {"payloadType": "text"}))
    refused(signed, "is no signature", keys[1])
    for text in ("", "[]", "{}", '{"payloadType": 1}', "\x00"):
        path.write_text(text)
        refused(signed, "manifest.sig: ", keys[1])


def test_a_fleet_has_defaults(signed, keys, monkeypatch):
    monkeypatch.setenv("DEGMIX_TRUST", "signed")
    with pytest.raises(ConfigError, match="no keys; give keys=.* or set DEGMIX_KEYS"):
        load(signed)
    monkeypatch.setenv("DEGMIX_KEYS", str(keys[1]))
    load(signed).close()
    (signed / "manifest.sig").unlink()
    refused(signed, "is not signed")
    load(signed, trust="any").close()
    monkeypatch.setenv("DEGMIX_TRUST", "sined")
    with pytest.raises(ConfigError, match="trust: got 'sined', expected any or signed"):
        load(signed)


def test_an_engine_built_anew_needs_a_new_signature(signed, keys):
    rebuild(open_bundle(signed))
    refused(signed, "is not signed", keys[1])
    sign(open_bundle(signed), keys[0])
    load(signed, keys=[keys[1]]).close()


def test_keys_that_are_none(signed, keys, tmp_path, monkeypatch):
    opened = open_bundle(signed)
    with pytest.raises(ConfigError, match="no public key in PEM .*it is the private one"):
        check_signature(opened, [keys[0]])
    with pytest.raises(ConfigError, match="no private key in PEM"):
        sign(opened, keys[1])
    with pytest.raises(ConfigError, match="no such public key"):
        check_signature(opened, [tmp_path / "none.pem"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \*.pub.pem or \*.ca.pem in"):
        check_signature(opened, [tmp_path / "empty"])
    with pytest.raises(ConfigError, match="not_before: got 'soon', expected ISO 8601"):
        policy(not_before="soon")
    with pytest.raises(OutputError, match=r"fleet.key.pem: exists"):
        make_key(tmp_path / "fleet")
    assert keys[0].stat().st_mode & 0o077 == 0
    monkeypatch.setenv("DEGMIX_KEY_PASSPHRASE", "secret")
    private, public = make_key(tmp_path / "locked")
    sign(opened, private)
    check_signature(opened, [public])
    monkeypatch.delenv("DEGMIX_KEY_PASSPHRASE")
    with pytest.raises(ConfigError, match="set DEGMIX_KEY_PASSPHRASE"):
        sign(opened, private)


def test_the_verbs(cli, signed, keys, tmp_path):
    code, out, err = cli("sign", "--new-key", "mine", "--json")
    assert code == 0, err
    assert [name.rsplit("/")[-1] for name in json.loads(out)["files"]] == [
        "mine.key.pem",
        "mine.pub.pem",
    ]
    code, _, err = cli("verify", signed, "--key", "mine.pub.pem")
    assert code == 9
    assert "expected one of" in err
    code, out, err = cli("sign", signed, "--key", "mine.key.pem", "--json")
    assert code == 0, err
    name = json.loads(out)["key"]
    code, out, err = cli("verify", signed, "--key", "mine.pub.pem", "--json")
    assert code == 0, err
    assert json.loads(out)["signer"] == name
    assert f"signed by key {name}" in err
    for wrong in ((), ("x.degmix",), ("--key", "mine.key.pem")):
        code, _, err = cli("sign", *wrong)
        assert code == 2
        assert "give BUNDLE and --key FILE, or --new-key NAME" in err
