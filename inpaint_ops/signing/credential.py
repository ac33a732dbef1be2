"""A certificate chain and its key, looked at before anything is signed with them: one line for what is wrong."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from inpaint_ops.errors import ConfigError

CERTIFICATE, KEY = "INPAINT_C2PA_CERTIFICATE", "INPAINT_C2PA_KEY"
_LEAST_RSA = 2048
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, slots=True)
class Credential:
    """What signs: the algorithm in C2PA's words, and chain and key as PEM, the signer's certificate first."""

    algorithm: str
    chain: bytes
    key: bytes


def credential(chain: bytes, key: bytes, moment: datetime) -> Credential:
    """Check chain and key (PEM) at `moment`. Raises ConfigError, which repeats nothing of the key."""
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        raise ConfigError(
            f"{CERTIFICATE}: the file holds no PEM certificates: give the signer's, then its issuers'"
        ) from None
    _check_times(certificates, moment)
    for issued, issuer in itertools.pairwise(certificates):
        try:
            issued.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise ConfigError(
                f"{CERTIFICATE}: {_name(issuer)} has not issued {_name(issued)}: "
                "order the file from the signer's certificate up"
            ) from None
    private = _private_key(key)
    if certificates[0].public_key() != private.public_key():
        raise ConfigError(
            f"{KEY}: the key is not that of the certificate {_name(certificates[0])}, the first in {CERTIFICATE}: "
            "give the key that it was issued for"
        )
    plain = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credential(_algorithm(private), chain, plain)


def _check_times(certificates: list[x509.Certificate], moment: datetime) -> None:
    for one in certificates:
        if moment > one.not_valid_after_utc:
            raise ConfigError(
                f"{CERTIFICATE}: {_name(one)} expired on {one.not_valid_after_utc:%Y-%m-%d}: renew the certificate"
            )
        if moment < one.not_valid_before_utc:
            raise ConfigError(
                f"{CERTIFICATE}: {_name(one)} is not valid before {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: "
                "wait, or set this machine's clock"
            )


_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def _private_key(key: bytes) -> _Private:
    try:
        found = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise ConfigError(
            f"{KEY}: the key is encrypted: give it without a pass phrase, readable by this user alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{KEY}: the file holds no PEM private key") from None
    if not isinstance(found, _Private):
        raise ConfigError(f"{KEY}: C2PA takes keys of the kinds ECDSA, RSA and Ed25519")
    return found


def _algorithm(key: _Private) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVES:
            raise ConfigError(f"{KEY}: C2PA takes the curves P-256, P-384 and P-521, not {key.curve.name}")
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _LEAST_RSA:
            raise ConfigError(f"{KEY}: the RSA key has {key.key_size} bits: C2PA asks for {_LEAST_RSA} or more")
        return "ps256"
    return "ed25519"


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string()[:120])
