// An endpoint's whole life by the client of openapi-generator's `go`: `life URL KEY`.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"life/hooks"
)

const myKey = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func check(right bool, what string) {
	if !right {
		fmt.Fprintln(os.Stderr, "wrong:", what)
		os.Exit(1)
	}
}

func must[T any](value T, response *http.Response, err error) T {
	var failed *hooks.GenericOpenAPIError
	if errors.As(err, &failed) {
		fmt.Fprintln(os.Stderr, string(failed.Body()))
	}
	check(err == nil, fmt.Sprint(err))
	return value
}

func problem(err error, response *http.Response, status int, code hooks.ProblemCode) {
	check(err != nil && response.StatusCode == status, fmt.Sprint("no ", status, ": ", err))
	var failed *hooks.GenericOpenAPIError
	check(errors.As(err, &failed), "kind of error")
	told, known := failed.Model().(hooks.Problem)
	check(known && told.GetCode() == code, fmt.Sprint("no ", code, ": ", string(failed.Body())))
}

func main() {
	configuration := hooks.NewConfiguration()
	configuration.Servers = hooks.ServerConfigurations{{URL: os.Args[1]}}
	client := hooks.NewAPIClient(configuration)
	ctx := context.WithValue(context.Background(), hooks.ContextAccessToken, os.Args[2])
	endpoints, secrets, deliveries := client.EndpointsAPI, client.SecretsAPI, client.DeliveriesAPI
	target := "https://example.com/webhook"

	input := hooks.NewEndpointInput("first", target)
	first, made, err := endpoints.CreateEndpoint(ctx).EndpointInput(*input).IdempotencyKey("go").Execute()
	must(first, made, err)
	etag := made.Header.Get("ETag")
	check(made.StatusCode == 201 && first.Status == hooks.ACTIVE && !first.PausedAt.IsSet() || first.PausedAt.Get() == nil, "first")
	unset := hooks.NewEndpointInput("second", target)
	unset.SetSecretNil()
	unset.SetTimeoutSecondsNil()
	second := must(endpoints.CreateEndpoint(ctx).EndpointInput(*unset).Execute())
	check(second.TimeoutSeconds == 10, "null is as if it were absent")
	_, response, err := endpoints.CreateEndpoint(ctx).EndpointInput(*hooks.NewEndpointInput("", target)).Execute()
	problem(err, response, 422, hooks.INVALID_FIELDS)

	page := must(endpoints.ListEndpoints(ctx).Limit(1).Execute())
	check(len(page) == 1 && page[0].Id == first.Id, "first page")
	page = must(endpoints.ListEndpoints(ctx).Limit(1).Cursor(page[0].Id).Execute())
	check(len(page) == 1 && page[0].Id == second.Id, "second page")

	one := first.Id
	check(must(endpoints.ReadEndpoint(ctx, one).Execute()).Name == "first", "read")
	_, response, _ = endpoints.ReadEndpoint(ctx, one).IfNoneMatch(etag).Execute()
	check(response.StatusCode == 304, "not modified")
	changes := hooks.NewEndpointChanges()
	changes.SetName("renamed")
	check(must(endpoints.UpdateEndpoint(ctx, one).EndpointChanges(*changes).IfMatch(etag).Execute()).Name == "renamed", "renamed")
	narrowed := hooks.NewEndpointChanges()
	narrowed.SetEventTypes([]hooks.EventPattern{"invoice.*"})
	narrowed.SetHeadersJson(map[string]string{"X-Team": "billing"})
	check(must(endpoints.UpdateEndpoint(ctx, one).EndpointChanges(*narrowed).Execute()).HeadersJson["X-Team"] == "billing", "headers")
	_, response, err = endpoints.UpdateEndpoint(ctx, one).EndpointChanges(*changes).IfMatch(`"999"`).Execute()
	problem(err, response, 412, hooks.STALE_ENDPOINT)

	status := hooks.NewEndpointChanges()
	status.SetStatus(hooks.PAUSED)
	check(must(endpoints.UpdateEndpoint(ctx, one).EndpointChanges(*status).Execute()).PausedAt.Get() != nil, "paused")
	_, response, err = deliveries.Ping(ctx, one).Execute()
	problem(err, response, 409, hooks.ENDPOINT_PAUSED)
	status.SetStatus(hooks.ACTIVE)
	check(must(endpoints.UpdateEndpoint(ctx, one).EndpointChanges(*status).Execute()).Status == hooks.ACTIVE, "resumed")

	check(must(secrets.RotateSecret(ctx, one).Execute()).Format == hooks.WHSEC, "generated secret")
	chosen := hooks.NewSecretInput()
	chosen.SetSecret(myKey)
	chosen.SetOverlapSeconds(0)
	check(must(secrets.RotateSecret(ctx, one).SecretInput(*chosen).Execute()).Secret == myKey, "chosen secret")
	check(must(secrets.ReadSecret(ctx, one).Execute()).Secret == myKey, "secret read")

	pinged := must(deliveries.Ping(ctx, one).Execute())
	listed := must(deliveries.ListDeliveries(ctx, one).Status(hooks.PENDING).Execute())
	check(len(listed) == 1 && listed[0].Id == pinged.Id, "deliveries")
	check(must(deliveries.ReadDelivery(ctx, one, pinged.Id).Execute()).Body != "", "delivery")
	check(must(deliveries.Redeliver(ctx, one, pinged.Id).Execute()).EventId == pinged.EventId, "redelivered")
	everywhere := must(deliveries.ListAllDeliveries(ctx).EventId(pinged.EventId).Execute())
	check(len(everywhere) == 1 && everywhere[0].Id == pinged.Id, "deliveries of all endpoints")
	recovery := hooks.NewRecoveryInput(time.Now().Add(-24 * time.Hour))
	recovery.SetDryRun(true)
	check(must(deliveries.Recover(ctx, one).RecoveryInput(*recovery).Execute()).Count == 0, "dry run")

	check(must(deliveries.ReadStats(ctx, one).Execute()).Pending == 1, "statistics")

	for _, id := range []string{first.Id, second.Id} {
		response, err = endpoints.DeleteEndpoint(ctx, id).Execute()
		check(err == nil && response.StatusCode == 204, "deleted")
	}
	_, response, err = endpoints.ReadEndpoint(ctx, one).Execute()
	problem(err, response, 404, hooks.UNKNOWN_ENDPOINT)
}
