"""The tenant's id: what the host says, as it is stored."""

import re
from uuid import UUID

TenantId = int | UUID | str
"""As hosts have it."""

MAX_KEY_LENGTH = 255
"""Characters of a tenant id or an idempotency key."""

# What one database or another can't store: NUL, lone surrogates.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def stored(tenant: object) -> str:
    """Return the id as a string of 1 to 255 characters.

    Raises:
        TypeError: It is neither int, UUID nor str.
        ValueError: It can't be stored, so that it can't be anybody's.

    """
    if isinstance(tenant, bool) or not isinstance(tenant, int | str | UUID):
        raise TypeError(f"A tenant must be an int, a UUID or a str, not {type(tenant).__name__}.")
    tenant_id = str(tenant)
    if not 1 <= len(tenant_id) <= MAX_KEY_LENGTH or _UNSTORABLE.search(tenant_id):
        raise ValueError(f"A tenant's id must be 1 to {MAX_KEY_LENGTH} characters, without NUL.")
    return tenant_id
