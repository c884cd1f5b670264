"""The cipher reads what `cryptography`'s Fernet writes, and nothing that was changed since."""

import pytest
from cryptography.fernet import Fernet

from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.security.encryption import Cipher

KEYS = [Fernet.generate_key().decode() for _ in range(2)]
TEXTS = ["x" * length for length in (0, 1, 15, 16, 17, 31, 32, 100, 8192)] + ["Zoë ✓"]


@pytest.mark.parametrize("key", KEYS, ids=["newest", "older"])
def test_tokens_of_fernet_are_read_one_after_another(key):
    cipher, tokens = Cipher(KEYS), [Fernet(key).encrypt(text.encode()).decode() for text in TEXTS]

    assert [cipher.decrypt(token) for token in tokens] == TEXTS


def test_fernet_reads_the_tokens_of_the_cipher():
    assert [Fernet(KEYS[0]).decrypt(Cipher(KEYS).encrypt(text)).decode() for text in TEXTS] == TEXTS


def test_a_token_that_was_changed_anywhere_or_cut_off_is_unreadable():
    cipher = Cipher(KEYS)
    token = cipher.encrypt("a secret", "its place")
    changed = [f"{token[:at]}{'A' if each != 'A' else 'B'}{token[at + 1 :]}" for at, each in enumerate(token[:-2])]

    for each in [*changed, token[:-4], token[4:], "", "A", "é"]:
        with pytest.raises(UnreadableValue):
            cipher.decrypt(each, "its place")
    assert cipher.decrypt(token, "its place") == "a secret"


def test_a_token_of_another_key_is_unreadable():
    with pytest.raises(UnreadableValue):
        Cipher(KEYS[:1]).decrypt(Cipher(KEYS[1:]).encrypt("a secret"))
