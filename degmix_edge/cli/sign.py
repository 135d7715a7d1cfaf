"""`degmix-edge sign`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Build"


@verb("sign --new-key fleet", "sign robot.degmix --key fleet.key.pem")
@click.argument("bundle", type=PATH, required=False)
@click.option("--key", type=PATH, help="Private key in PEM: Ed25519, or ECDSA on P-256.")
@click.option("--certificate", type=PATH, help="PEM: the key's certificate, then those between.")
@click.option("--new-key", type=PATH, metavar="NAME", help="Make NAME.key.pem and NAME.pub.pem.")
def command(
    output: Output,
    bundle: Path | None,
    key: Path | None,
    certificate: Path | None,
    new_key: Path | None,
) -> None:
    """Sign BUNDLE, so that robots can refuse what others made.

    The signature is over the manifest, which holds the hash of every other file. A robot checks it
    with the public key: `load(bundle, keys=["fleet.pub.pem"])`, or DEGMIX_TRUST=signed and
    DEGMIX_KEYS=fleet.pub.pem for all that runs there. With --certificate a robot needs to know the
    authority only. DEGMIX_KEY_PASSPHRASE protects a private key.
    """
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.bundle.keys import make_key
    from degmix_edge.bundle.signing import sign

    if (bundle is None) != (key is None) or (bundle or new_key) is None:
        raise click.UsageError("give BUNDLE and --key FILE, or --new-key NAME")
    if certificate and not key:
        raise click.UsageError("--certificate: give the --key that it is of, and BUNDLE")
    files = make_key(new_key) if new_key else ()
    for file, who in zip(files, ("keep it secret", "for robots"), strict=False):
        output.say(f"{file}: {who}")
    name = sign(open_bundle(bundle), key, certificate) if bundle and key else None
    if name:
        output.say(f"{bundle}: signed by key {name}")
    output.result({"bundle": bundle, "key": name, "files": files})
