"""Places: a worker has one for each delivery in flight, and no tenant takes all of them."""

from collections.abc import Mapping
from typing import NamedTuple

SHARE = 6
"""A tenant may have this many times the places of a worker that are free and not kept."""

KEPT = 20
"""A worker keeps one place in so many for tenants that have none."""

ALONE = 5
"""One tenant alone leaves one place in so many. So a worker that has fewer places keeps none."""


class Places(NamedTuple):
    """The places of a worker: one for each delivery that it attempts at the same time."""

    free: int
    taken: Mapping[str, int]
    """Places that each tenant has."""

    @property
    def kept(self) -> int:
        """Places that a tenant may take only as its first one."""
        number = self.free + sum(self.taken.values())
        return max(number // KEPT, min(number // ALONE, 1))

    def may_have_more(self, tenant_id: str) -> bool:
        """Return whether a tenant may take another place."""
        return may_have(self.taken.get(tenant_id, 0), self.free, self.kept)


def may_have(count: int, free: float, kept: int) -> bool:
    """Return whether a tenant that has so many places may take another one of those that are free."""
    return count < SHARE * (free - kept) if count else free > 0
