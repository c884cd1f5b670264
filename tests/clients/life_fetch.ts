// An endpoint's whole life by the client of openapi-generator's `typescript-fetch`: `node life.js URL KEY`.
import { deepEqual, equal, ok } from "node:assert/strict";

import {
  Configuration,
  DeliveriesApi,
  DeliveryStatus,
  EndpointStatus,
  EndpointsApi,
  ProblemCode,
  ProblemFromJSON,
  ResponseError,
  SecretFormat,
  SecretsApi,
} from "./client";

const [, , url, key] = process.argv;
const configuration = new Configuration({ basePath: url, accessToken: key });
const endpoints = new EndpointsApi(configuration);
const secrets = new SecretsApi(configuration);
const deliveries = new DeliveriesApi(configuration);
const target = "https://example.com/webhook";
const myKey = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async function problem(answer: Promise<unknown>, status: number, code?: ProblemCode): Promise<void> {
  try {
    await answer;
  } catch (error) {
    ok(error instanceof ResponseError, String(error));
    equal(error.response.status, status);
    if (code) equal(ProblemFromJSON(await error.response.json()).code, code);
    return;
  }
  ok(false, `no ${status}`);
}

async function main(): Promise<void> {
  const made = await endpoints.createEndpointRaw({
    endpointInput: { name: "first", url: target },
    idempotencyKey: "typescript-fetch",
  });
  const first = await made.value();
  const etag = made.raw.headers.get("ETag") ?? "";
  deepEqual([made.raw.status, first.status, first.pausedAt], [201, EndpointStatus.Active, null]);
  const second = await endpoints.createEndpoint({
    endpointInput: { name: "second", url: target, secret: null, headersJson: null, timeoutSeconds: null, eventTypes: null },
  });
  equal(second.timeoutSeconds, 10);
  await problem(endpoints.createEndpoint({ endpointInput: { name: "", url: target } }), 422, ProblemCode.InvalidFields);

  let page = await endpoints.listEndpoints({ limit: 1 });
  deepEqual(page.map(({ id }) => id), [first.id]);
  page = await endpoints.listEndpoints({ limit: 1, cursor: first.id });
  deepEqual(page.map(({ id }) => id), [second.id]);

  const epId = first.id;
  equal((await endpoints.readEndpoint({ epId })).name, "first");
  await problem(endpoints.readEndpoint({ epId, ifNoneMatch: etag }), 304);
  equal((await endpoints.updateEndpoint({ epId, ifMatch: etag, endpointChanges: { name: "renamed" } })).name, "renamed");
  const emptied = await endpoints.updateEndpoint({ epId, endpointChanges: { headersJson: null, eventTypes: null } });
  deepEqual([emptied.headersJson, emptied.eventTypes], [{}, null]);
  const stale = endpoints.updateEndpoint({ epId, ifMatch: '"999"', endpointChanges: { name: "lost" } });
  await problem(stale, 412, ProblemCode.StaleEndpoint);

  const paused = await endpoints.updateEndpoint({ epId, endpointChanges: { status: EndpointStatus.Paused } });
  ok(paused.pausedAt instanceof Date);
  await problem(deliveries.ping({ epId }), 409, ProblemCode.EndpointPaused);
  const resumed = await endpoints.updateEndpoint({ epId, endpointChanges: { status: EndpointStatus.Active } });
  equal(resumed.status, EndpointStatus.Active);

  equal((await secrets.rotateSecret({ epId })).format, SecretFormat.Whsec);
  await secrets.rotateSecret({ epId, secretInput: { secret: myKey, overlapSeconds: 0 } });
  equal((await secrets.readSecret({ epId })).secret, myKey);

  const pinged = await deliveries.ping({ epId });
  const listed = await deliveries.listDeliveries({ epId, status: DeliveryStatus.Pending });
  deepEqual(listed.map(({ id }) => id), [pinged.id]);
  ok((await deliveries.readDelivery({ epId, dlvId: pinged.id })).body.includes(epId));
  equal((await deliveries.redeliver({ epId, dlvId: pinged.id })).eventId, pinged.eventId);
  deepEqual((await deliveries.listAllDeliveries({ eventId: pinged.eventId })).map(({ id }) => id), [pinged.id]);
  const since = new Date(Date.now() - 86_400_000);
  equal((await deliveries.recover({ epId, recoveryInput: { since, dryRun: true } })).count, 0);

  equal((await deliveries.readStats({ epId })).pending, 1);

  for (const { id } of [first, second]) await endpoints.deleteEndpoint({ epId: id });
  await problem(endpoints.readEndpoint({ epId }), 404, ProblemCode.UnknownEndpoint);
}

void main();
