"""One attempt of a delivery: sign, post, judge. The bytes that are signed are the bytes that are sent.

Source: Standard Webhooks 1.0.0, "Webhook headers".
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from http import HTTPStatus

from cryptography.hazmat.primitives.hmac import HMAC

from flask_webhook_endpoints import logs, telemetry
from flask_webhook_endpoints.core.attempt_errors import SendError
from flask_webhook_endpoints.core.headers import request_headers
from flask_webhook_endpoints.core.results import Claimed, Settlement
from flask_webhook_endpoints.database.models import DeliveryStatus
from flask_webhook_endpoints.errors import UnreadableValue
from flask_webhook_endpoints.identifiers import format_id
from flask_webhook_endpoints.security import encryption, signing
from flask_webhook_endpoints.security.encryption import Headers
from flask_webhook_endpoints.security.private import forget_locals
from flask_webhook_endpoints.state import State
from flask_webhook_endpoints.worker import failure_log, retry
from flask_webhook_endpoints.worker.http_client import Answer, Sender
from flask_webhook_endpoints.worker.retry import Verdict

MAX_KEPT = 4096
"""The number of signers that are kept, and of decrypted custom headers."""

_log = logs.logger("flask_webhook_endpoints.delivery")  # the name that hosts have configured


class Courier:
    """Attempts the deliveries of one application; all attempts in flight share it."""

    def __init__(self, sender: Sender, state: State) -> None:
        self._sender = sender
        self._settings = state.settings
        self._now = state.now
        self._observer = telemetry.Observer()
        # The same few values again and again; they are in memory anyway while they sign.
        self._signer = lru_cache(maxsize=MAX_KEPT)(lambda *stored: signing.signer(state.cipher.decrypt(*stored)))
        self._custom_headers = lru_cache(maxsize=MAX_KEPT)(state.cipher.decrypt_headers)

    def prepare(self, deliveries: Iterable[Claimed]) -> None:
        """Decrypt the secrets and custom headers of claimed deliveries, unless they are kept already.

        Between attempts this would take two to three times as long, because the processor's caches have other code.
        """
        for secrets, headers, ep_id in {
            (each.secrets_encrypted, each.headers_encrypted, each.ep_id) for each in deliveries
        }:
            # The attempt itself meets the error again, and records it.
            with suppress(Exception):
                list(self._signers(secrets))
                self._custom(headers, ep_id)

    async def attempt(self, delivery: Claimed) -> Settlement:
        """Send a delivery once and return the result. An error of any kind is a failed attempt.

        Raise `Shortage` if the worker itself lacked something, because the receiver is not at fault.
        """
        with self._observer.attempt(delivery):
            started_at = self._now()
            headers = self._headers(delivery, started_at)
            if isinstance(headers, SendError):
                answer = Answer(status=None, error=headers, duration_ms=0, excerpt=b"", retry_after_seconds=None)
            else:
                answer = await self._sender.post(
                    delivery.url,
                    headers=headers,
                    body=delivery.body,
                    # A lease is as long as today's ceiling, which may be lower than when the endpoint was written.
                    timeout_seconds=min(delivery.timeout_seconds, self._settings.max_timeout_seconds),
                )
            settlement = self._settlement(delivery, started_at, answer)
            self._observer.settled(settlement)
            if settlement.status is not DeliveryStatus.DELIVERED:
                failure_log.log(settlement, now=self._now())
            return settlement

    def _headers(self, delivery: Claimed, now: datetime) -> Headers | SendError:
        """Return the headers of the request, or why nothing can be sent."""
        message_id, timestamp = delivery.evt_id, int(now.timestamp())
        try:
            signers = list(self._signers(delivery.secrets_encrypted))
            custom = self._custom(delivery.headers_encrypted, delivery.ep_id)
            headers = request_headers(
                custom,
                message_id=message_id,
                timestamp=timestamp,
                signature=signing.sign_with(signers, message_id=message_id, timestamp=timestamp, body=delivery.body),
                trace=telemetry.trace_headers(),
            )
        except UnreadableValue:
            return SendError.UNREADABLE_SECRET
        except MemoryError:
            raise
        except Exception as error:
            forget_locals(error)
            # An attempt that is not recorded would be made for ever, so record it, whatever the row holds.
            extra = {"webhooks.delivery_id": format_id(delivery.id, "dlv"), "webhooks.event_id": message_id}
            _log.exception("webhooks.not_prepared", extra=extra)
            return SendError.UNEXPECTED
        return headers if signers else SendError.UNREADABLE_SECRET

    def _signers(self, secrets: Sequence[tuple[str, str]]) -> Iterator[HMAC]:
        """Yield what signs with the current secret, and with those previous ones whose encryption key is not lost."""
        for number, secret in enumerate(secrets):
            try:
                yield self._signer(*secret)
            except UnreadableValue:
                if number == 0:
                    raise

    def _custom(self, token: str | None, ep_id: str) -> Headers | None:
        return None if token is None else self._custom_headers(token, encryption.place_of_headers(ep_id))

    def _settlement(self, delivery: Claimed, started_at: datetime, answer: Answer) -> Settlement:
        # The status of an answer that is not complete proves nothing.
        verdict = retry.judge(answer.status if answer.error is None else None)
        status, due, now, schedule = DeliveryStatus.DELIVERED, None, self._now(), self._settings.retry_schedule
        rests_seconds, uncounted = None, delivery.attempt - delivery.counted
        if verdict is Verdict.RETRY:
            # Treat a failed proxy as 502, so that a wrong proxy password uses up no attempts. The head of an answer
            # asks for rest, whatever becomes of the body.
            answered = HTTPStatus.BAD_GATEWAY if answer.error is SendError.PROXY else answer.status
            asked = answer.retry_after_seconds
            rests_seconds = retry.rests_seconds(answered, asked, times=delivery.rests, schedule=schedule)
        if delivery.rests and rests_seconds is not None and retry.may_wait(delivery.id, now=now, schedule=schedule):
            # It was sent to try out an endpoint that goes on resting.
            uncounted += 1
            status, due = DeliveryStatus.PENDING, now + timedelta(seconds=rests_seconds)
        elif verdict is not Verdict.DELIVERED:
            due = retry.next_attempt_at(
                delivery.counted,
                now=now,
                schedule=schedule,
                jitter=self._settings.retry_jitter,
                retry_after_seconds=answer.retry_after_seconds,
                random=random.random,
            )
            status = DeliveryStatus.FAILED if due is None else DeliveryStatus.PENDING
        return Settlement(
            delivery=delivery,
            status=status,
            next_attempt_at=due,
            attempts_before=uncounted,
            rests_seconds=rests_seconds,
            gone=verdict is Verdict.GONE,
            started_at=started_at,
            duration_ms=answer.duration_ms,
            response_status=answer.status,
            error=answer.error,
            response_excerpt=answer.excerpt or None,
            response_headers=answer.headers,
        )
