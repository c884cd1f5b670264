"""The steps: a customer manages its endpoints, and receives the events of the app."""

from http import HTTPStatus

from example_app.demo.conversation import Conversation
from example_app.demo_accounts import GLOBEX

NEW_ENDPOINT = {
    "name": "my-webhook",
    "url": "https://example.com/webhook",
    "secret": "whsec_your_signing_secret",
    "headers_json": {},
    "timeout_seconds": 10,
}


def manage(acme: Conversation) -> None:
    """Walk through the whole life of an endpoint."""
    path = _register(acme)
    _find_again(acme, path)
    _change(acme, path)
    _refuse(acme)
    _keep_tenants_apart(acme, path)
    _delete(acme, path)


def deliver(acme: Conversation) -> None:
    """Receive deliveries: at once, after an error, after a pause, and until the receiver answers 410."""
    path = _register_receiver(acme)
    _receive(acme)
    _fail_once(acme)
    _pause_and_resume(acme, path)
    _be_gone(acme, path)


def _register(acme: Conversation) -> str:
    acme.step("Acme, a customer, registers the URL where it wants to receive webhooks.")
    endpoint = acme.ask("POST", "/v1/endpoints", NEW_ENDPOINT, status=201)
    sent = {name: value for name, value in NEW_ENDPOINT.items() if name != "secret"}
    acme.expect("the endpoint as it was sent, active", endpoint, sent | {"status": "ACTIVE", "paused_at": None})
    acme.expect("no secret", endpoint.get("secret"), None)
    return f"/v1/endpoints/{endpoint.get('id')}"


def _find_again(acme: Conversation, path: str) -> None:
    acme.step("Acme lists its endpoints; their secrets are not shown.")
    listed = acme.ask("GET", "/v1/endpoints")
    acme.step("Acme reads one of them.")
    acme.expect("what the list showed", listed, [acme.ask("GET", path)])


def _change(acme: Conversation, path: str) -> None:
    paused = {"name": "updated-name", "status": "PAUSED"}
    acme.step("Acme renames it, and pauses it while its server is repaired.")
    endpoint = acme.ask("PATCH", path, paused)
    acme.expect("the new name and status", endpoint, paused)
    acme.expect("the time of the pause", endpoint.get("paused_at"), endpoint.get("updated_at"))
    resumed = {"status": "ACTIVE"}
    acme.step("Acme resumes it.")
    endpoint = acme.ask("PATCH", path, resumed)
    acme.expect("an active endpoint with the new name", endpoint, paused | resumed | {"paused_at": None})


def _refuse(acme: Conversation) -> None:
    acme.step("A URL that leads into the app's own network and a word for a number are refused, field by field.")
    bad = {"name": "bad", "url": "http://169.254.169.254/latest", "timeout_seconds": "soon"}
    problem = acme.ask("POST", "/v1/endpoints", bad, status=422)
    acme.expect("the names of the bad fields", sorted(problem.get("errors", {})), ["timeout_seconds", "url"])
    acme.step("A wrong API key is turned away by the app's own login.")
    acme.ask("GET", "/v1/endpoints", key="wrong-key", status=401)


def _keep_tenants_apart(acme: Conversation, path: str) -> None:
    acme.step("Globex, another customer, sees no endpoint of Acme's.")
    acme.expect("an empty list", acme.ask("GET", "/v1/endpoints", key=GLOBEX.key), [])
    acme.step("To know the id does not help Globex either.")
    acme.ask("GET", path, key=GLOBEX.key, status=404)


def _delete(acme: Conversation, path: str) -> None:
    acme.step("Acme deletes the endpoint.")
    acme.ask("DELETE", path, status=204)
    acme.step("It is gone for good.")
    acme.ask("GET", path, status=404)


def _register_receiver(acme: Conversation) -> str:
    acme.step("Acme starts a receiver of its own on this machine, and wants to hear of paid invoices there.")
    wanted = {"name": "receiver", "url": acme.receiver.url, "event_types": ["invoice.paid"]}
    endpoint = acme.ask("POST", "/v1/endpoints", wanted, status=201)
    path = f"/v1/endpoints/{endpoint.get('id')}"
    acme.step("The signing secret was made for it; the receiver verifies with it, by the library `standardwebhooks`.")
    acme.receiver.secret = acme.ask("GET", f"{path}/secret")["secret"]
    return path


def _receive(acme: Conversation) -> None:
    acme.step("An invoice is paid. The app publishes that in the same transaction, and the worker delivers it, signed.")
    invoice_id = acme.pay_new_invoice("Initech")
    arrived = acme.arrival(whole=True)
    acme.expect("the invoice", arrived.invoice_id, invoice_id)


def _fail_once(acme: Conversation) -> None:
    acme.step("The receiver answers 500. The worker comes again, by its schedule, with the same webhook-id.")
    acme.receiver.troubles = [HTTPStatus.INTERNAL_SERVER_ERROR]
    acme.pay_new_invoice("Initrode")
    failed, repeated = acme.arrival(), acme.arrival()
    acme.expect("a failure, then success", [failed.status, repeated.status], [500, 204])
    acme.expect("the same webhook-id", repeated.id, failed.id)


def _pause_and_resume(acme: Conversation, path: str) -> None:
    acme.step("Acme pauses the endpoint.")
    acme.ask_briefly("PATCH", path, {"status": "PAUSED"})
    acme.step("Three invoices are paid meanwhile; their deliveries are held.")
    invoices = [acme.pay_new_invoice(f"Customer {number}") for number in (1, 2, 3)]
    acme.silence(1)
    acme.step("Acme resumes the endpoint, and gets all three, oldest first.")
    acme.ask_briefly("PATCH", path, {"status": "ACTIVE"})
    acme.expect("the three in order", [acme.arrival().invoice_id for _ in invoices], invoices)


def _be_gone(acme: Conversation, path: str) -> None:
    acme.step("The receiver answers 410: it wants no more.")
    acme.receiver.troubles = [HTTPStatus.GONE]
    acme.pay_new_invoice("Initech")
    acme.expect("410", acme.arrival().status, 410)
    acme.step("So the endpoint is paused, and holds what comes until Acme resumes it.")
    acme.until(path, status="PAUSED")
