"""A small multi-tenant host."""
