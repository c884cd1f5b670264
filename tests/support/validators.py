"""Packages that validate what we make, loaded when a test first asks: to load them takes a tenth of a collection."""

from collections.abc import Mapping
from typing import Any


def svix_verifier(secret: str | bytes) -> Any:
    """Make the verifier of the package `svix`."""
    from svix.webhooks import Webhook  # noqa: PLC0415

    return Webhook(secret)


def faults_of(document: Mapping[str, Any]) -> list[Any]:
    """Return what makes a document no OpenAPI 3.1."""
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415

    return list(OpenAPIV31SpecValidator(document).iter_errors())
