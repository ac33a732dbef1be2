"""A certificate that will not do is one line that names the setting and the cure, and nothing of the key."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from inpaint_ops.errors import ConfigError
from inpaint_ops.signing.credential import credential
from tests.support.certificates import PEM, certified, new_key

NOW = datetime.now(UTC)


@pytest.mark.parametrize("kind", ["es256", "es384", "es512", "ps256", "ed25519"])
def test_the_algorithm_is_that_of_the_key(kind: str) -> None:
    made = certified(kind)
    found = credential(made.chain, made.key, NOW)
    assert (found.algorithm, found.chain) == (kind, made.chain)


def as_pem(key: object, how: serialization.KeySerializationEncryption | None = None) -> bytes:
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(PEM, kind, how or serialization.NoEncryption())  # type: ignore[attr-defined, no-any-return]


def test_what_is_wrong_is_named_with_its_setting_and_cure() -> None:
    good = certified()
    other_root = certified().root
    leaf, root = good.chain.split(b"-----END CERTIFICATE-----\n")[:2]
    end = b"-----END CERTIFICATE-----\n"
    locked = as_pem(new_key(), serialization.BestAvailableEncryption(b"pass"))
    for chain, key, setting, why in (
        (certified(ends=-1, begins=-9).chain, good.key, "CERTIFICATE", "expired on 20"),
        (certified(begins=2).chain, good.key, "CERTIFICATE", "is not valid before 20"),
        (root + end + leaf + end, good.key, "CERTIFICATE", "order the file"),
        (leaf + end + other_root, good.key, "CERTIFICATE", "has not issued"),
        (b"no certificate", good.key, "CERTIFICATE", "holds no PEM certificates"),
        (good.chain, certified().key, "KEY", "is not that of the certificate"),
        (good.chain, locked, "KEY", "is encrypted"),
        (good.chain, b"no key", "KEY", "holds no PEM private key"),
    ):
        with pytest.raises(ConfigError) as raised:
            credential(chain, key, NOW)
        text = str(raised.value)
        assert text.startswith(f"INPAINT_C2PA_{setting}: ") and why in text
        assert not any(line in text for line in key.decode().splitlines() if len(line) > 20)


def test_weak_and_strange_keys_are_refused() -> None:
    from inpaint_ops.signing.credential import _algorithm

    with pytest.raises(ConfigError, match="1024 bits"):
        _algorithm(rsa.generate_private_key(65537, 1024))
    with pytest.raises(ConfigError, match="not secp256k1"):
        _algorithm(ec.generate_private_key(ec.SECP256K1()))
