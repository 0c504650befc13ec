"""A certificate for one pod, signed by the cluster's authority: what Ray's TLS (`RAY_USE_TLS`) asks of every process.

Runs in an init container, the only one that sees the authority's key. Ray compares a peer's certificate with the address it connected to,
so the certificate names the pod's own address, and that of the head also the name of its service, by which workers find it; it serves as
server and as client.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 30
"""A pod that lives longer must be made anew."""


def write_authority(folder: Path) -> None:
    """Write `tls.crt` and `tls.key` of a new authority into `folder`; the key can be read by its owner only.

    Args:
        folder: An existing folder.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clinjepa")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), 365)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(folder / "tls.key", _key_bytes(key), 0o600)


def write_certificate(authority: Path, folder: Path, address: str, service: str = "") -> None:
    """Write `tls.crt`, `tls.key` and the authority's `ca.crt` into `folder`.

    Args:
        authority: Folder with the authority's `tls.crt` and `tls.key`.
        folder: An existing folder.
        address: The pod's IP address.
        service: Name by which others reach the pod too; empty for none.

    Raises:
        ValueError: `address` is no IP address.
    """
    issuer = x509.load_pem_x509_certificate((authority / "tls.crt").read_bytes())
    signer = serialization.load_pem_private_key((authority / "tls.key").read_bytes(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an elliptic-curve key; make it with this file")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address(address)),
    ]
    if service:
        names.append(x509.DNSName(service))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clinjepa node")])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(folder / "tls.key", _key_bytes(key), 0o600)
    _write(folder / "ca.crt", (authority / "tls.crt").read_bytes(), 0o644)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    """Valid from five minutes ago, since clocks differ."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)


if __name__ == "__main__":
    # KubeRay gives the name of the head's service to every init container.
    service = os.environ["FQ_RAY_IP"] if "head" in sys.argv[1:] else ""
    write_certificate(Path("/authority"), Path("/tls"), os.environ["POD_IP"], service)
