"""An alternative to Flask: Django REST Framework with Django's own entities, on the same tables."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import django
from cryptography.fernet import Fernet
from django.conf import settings
from sqlalchemy.engine import make_url

from benchmarks.hosts import decrypted
from flask_webhook_endpoints.database.models import new_id
from flask_webhook_endpoints.security.encryption import derive_key

_fernet = Fernet(derive_key("benchmark"))


def application(url: str) -> Any:
    """Make the application on the tables at this URL; Django allows one in a process."""
    settings.configure(
        SECRET_KEY="benchmark",  # noqa: S106 - protects nothing
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.django_rest",
        INSTALLED_APPS=["django.contrib.contenttypes", "rest_framework"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        DATABASES={"default": _database(url)},
        USE_TZ=True,
        APPEND_SLASH=False,
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": [],
            "DEFAULT_PERMISSION_CLASSES": [],
            "UNAUTHENTICATED_USER": None,
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
            "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        },
    )
    django.setup()
    urlpatterns.extend(_urls())
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415 - after the settings

    return _Application(get_wsgi_application())


urlpatterns: list[Any] = []


class _Application:
    """A WSGI application that is called like Flask's."""

    name = "django"

    def __init__(self, wsgi_app: Any) -> None:
        self.wsgi_app = wsgi_app


def _database(url: str) -> dict[str, Any]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parsed.database, "CONN_MAX_AGE": None}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parsed.database,
        "USER": parsed.username or "",
        "PASSWORD": parsed.password or "",
        "HOST": parsed.host or "",
        "PORT": parsed.port or "",
        "CONN_MAX_AGE": None,
        "OPTIONS": {key: value for key, value in parsed.query.items() if key == "options"},
    }


def _urls() -> list[Any]:  # noqa: C901 - views in one place
    from django.db import models, transaction  # noqa: PLC0415 - after the settings
    from django.urls import path  # noqa: PLC0415
    from rest_framework import serializers, status  # noqa: PLC0415
    from rest_framework.exceptions import NotFound  # noqa: PLC0415
    from rest_framework.response import Response  # noqa: PLC0415
    from rest_framework.views import APIView  # noqa: PLC0415

    class Endpoint(models.Model):
        id = models.UUIDField(primary_key=True)
        tenant_id = models.TextField()
        name = models.TextField()
        url = models.TextField()
        headers_encrypted = models.TextField(null=True)
        timeout_seconds = models.IntegerField()
        event_types = models.TextField(null=True)
        paused_at = models.DateTimeField(null=True)
        version = models.IntegerField()
        created_at = models.DateTimeField()
        updated_at = models.DateTimeField()

        class Meta:
            app_label, managed, db_table = "contenttypes", False, "webhook_endpoint"

    class Secret(models.Model):
        id = models.UUIDField(primary_key=True)
        endpoint_id = models.UUIDField()
        secret_encrypted = models.TextField()
        created_at = models.DateTimeField()

        class Meta:
            app_label, managed, db_table = "contenttypes", False, "webhook_secret"

    class Delivery(models.Model):
        id = models.UUIDField(primary_key=True)
        status = models.TextField()
        finished_at = models.DateTimeField(null=True)

        class Meta:
            app_label, managed, db_table = "contenttypes", False, "webhook_delivery"

    class Queue(models.Model):
        delivery_id = models.UUIDField(primary_key=True)
        tenant_id = models.TextField()
        endpoint_id = models.UUIDField()
        state = models.TextField()

        class Meta:
            app_label, managed, db_table = "contenttypes", False, "webhook_queue"

    class Rest(models.Model):
        endpoint_id = models.UUIDField(primary_key=True)

        class Meta:
            app_label, managed, db_table = "contenttypes", False, "webhook_rest"

    class EndpointSerializer(serializers.ModelSerializer):
        id = serializers.SerializerMethodField()
        url = serializers.URLField(max_length=2048)
        name = serializers.CharField(max_length=255)
        secret = serializers.CharField(write_only=True)
        headers_json = serializers.DictField(child=serializers.CharField(), required=False, write_only=True)
        timeout_seconds = serializers.IntegerField(min_value=1, max_value=30)
        status = serializers.SerializerMethodField()
        event_types = serializers.CharField(read_only=True)
        paused_at = serializers.DateTimeField(read_only=True)
        created_at = serializers.DateTimeField(read_only=True)
        updated_at = serializers.DateTimeField(read_only=True)

        class Meta:
            model = Endpoint
            fields = (
                *("id", "name", "url", "secret", "headers_json", "timeout_seconds", "status"),
                *("event_types", "paused_at", "created_at", "updated_at"),
            )

        def get_id(self, endpoint: Any) -> str:
            return f"ep_{endpoint.id}"

        def get_status(self, endpoint: Any) -> str:
            return "PAUSED" if endpoint.paused_at else "ACTIVE"

        def to_representation(self, endpoint: Any) -> Any:
            sealed = endpoint.headers_encrypted
            shown = super().to_representation(endpoint)
            return {**shown, "headers_json": json.loads(decrypted(sealed)) if sealed else {}}

    def find(request: Any, ep_id: str) -> Any:
        endpoint = Endpoint.objects.filter(tenant_id=request.headers["X-Tenant"], id=UUID(ep_id[3:])).first()
        if endpoint is None:
            raise NotFound
        return endpoint

    class Endpoints(APIView):
        def get(self, request: Any) -> Any:
            found = Endpoint.objects.filter(tenant_id=request.headers["X-Tenant"]).order_by("id")
            return Response(EndpointSerializer(found, many=True).data)

        @transaction.atomic
        def post(self, request: Any) -> Any:
            serializer = EndpointSerializer(data=request.data)
            serializer.is_valid(raise_exception=True)
            fields, now, tenant_id = dict(serializer.validated_data), datetime.now(UTC), request.headers["X-Tenant"]
            secret, headers = fields.pop("secret"), fields.pop("headers_json", {})
            sealed = _fernet.encrypt(json.dumps(headers).encode()).decode() if headers else None
            times = {"created_at": now, "updated_at": now}
            endpoint = Endpoint.objects.create(
                id=new_id(), tenant_id=tenant_id, headers_encrypted=sealed, version=1, **times, **fields
            )
            if Endpoint.objects.filter(tenant_id=tenant_id).count() > 100_000:  # noqa: PLR2004 - the quota
                transaction.set_rollback(True)
                return Response(status=status.HTTP_409_CONFLICT)
            encrypted = _fernet.encrypt(secret.encode()).decode()
            Secret.objects.create(id=new_id(), endpoint_id=endpoint.id, secret_encrypted=encrypted, created_at=now)
            return Response(EndpointSerializer(endpoint).data, status=status.HTTP_201_CREATED)

    class One(APIView):
        def get(self, request: Any, ep_id: str) -> Any:
            return Response(EndpointSerializer(find(request, ep_id)).data)

        def patch(self, request: Any, ep_id: str) -> Any:
            endpoint = find(request, ep_id)
            serializer = EndpointSerializer(endpoint, data=request.data, partial=True)
            serializer.is_valid(raise_exception=True)
            serializer.save(version=endpoint.version + 1, updated_at=datetime.now(UTC))
            return Response(serializer.data)

        @transaction.atomic
        def delete(self, request: Any, ep_id: str) -> Any:
            endpoint = find(request, ep_id)
            Secret.objects.filter(endpoint_id=endpoint.id).delete()
            Rest.objects.filter(endpoint_id=endpoint.id).delete()
            of_endpoint = Queue.objects.filter(tenant_id=endpoint.tenant_id, endpoint_id=endpoint.id)
            waiting = of_endpoint.filter(state__in=("READY", "WAITING", "HELD"))
            cancelled = Delivery.objects.filter(id__in=waiting.values("delivery_id"))
            cancelled.update(status="CANCELLED", finished_at=datetime.now(UTC))
            waiting.delete()
            endpoint.delete()
            return Response(status=status.HTTP_204_NO_CONTENT)

    return [path("v1/endpoints", Endpoints.as_view()), path("v1/endpoints/<ep_id>", One.as_view())]
