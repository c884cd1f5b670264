// An endpoint's whole life by openapi-fetch with the types of openapi-typescript: `node life.js URL KEY`.
import { deepEqual, equal, ok } from "node:assert/strict";

import createClient from "openapi-fetch";

import type { components, paths } from "./api.js";

const [, , baseUrl, key] = process.argv;
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });
const target = "https://example.com/webhook";
const myKey = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

type Answer<T> = { data?: T; error?: components["schemas"]["Problem"]; response: Response };

function value<T>({ data, error }: Answer<T>): T {
  ok(data !== undefined, JSON.stringify(error));
  return data;
}

function problem({ error, response }: Answer<unknown>, status: number, code: components["schemas"]["ProblemCode"]): void {
  deepEqual([response.status, error?.code], [status, code]);
}

const made = await client.POST("/v1/endpoints", {
  params: { header: { "Idempotency-Key": "openapi-fetch" } },
  body: { name: "first", url: target },
});
const first = value(made);
const etag = made.response.headers.get("ETag") ?? "";
deepEqual([first.status, first.paused_at], ["ACTIVE", null]);
const unset = { secret: null, headers_json: null, timeout_seconds: null, event_types: null };
const second = value(await client.POST("/v1/endpoints", { body: { name: "second", url: target, ...unset } }));
equal(second.timeout_seconds, 10);
problem(await client.POST("/v1/endpoints", { body: { name: "", url: target } }), 422, "invalid_fields");

const page = await client.GET("/v1/endpoints", { params: { query: { limit: 1 } } });
deepEqual(value(page).map(({ id }) => id), [first.id]);
const link = /^<(.+)>; rel="next"$/.exec(page.response.headers.get("Link") ?? "");
equal(new URL(link?.[1] ?? "").searchParams.get("cursor"), first.id);
const following = await client.GET("/v1/endpoints", { params: { query: { limit: 1, cursor: first.id } } });
deepEqual(value(following).map(({ id }) => id), [second.id]);

const path = { ep_id: first.id };
const one = "/v1/endpoints/{ep_id}";
equal(value(await client.GET(one, { params: { path } })).name, "first");
const unchanged = await client.GET(one, { params: { path, header: { "If-None-Match": etag } } });
equal(unchanged.response.status, 304);
const renamed = await client.PATCH(one, { params: { path, header: { "If-Match": etag } }, body: { name: "renamed" } });
equal(value(renamed).name, "renamed");
const emptied = value(await client.PATCH(one, { params: { path }, body: { headers_json: null, event_types: null } }));
deepEqual([emptied.headers_json, emptied.event_types], [{}, null]);
const stale = await client.PATCH(one, { params: { path, header: { "If-Match": '"999"' } }, body: { name: "lost" } });
problem(stale, 412, "stale_endpoint");

equal(value(await client.PATCH(one, { params: { path }, body: { status: "PAUSED" } })).status, "PAUSED");
problem(await client.POST(`${one}/ping`, { params: { path } }), 409, "endpoint_paused");
equal(value(await client.PATCH(one, { params: { path }, body: { status: "ACTIVE" } })).paused_at, null);

equal(value(await client.POST(`${one}/secret/rotate`, { params: { path } })).format, "whsec");
const chosen = await client.POST(`${one}/secret/rotate`, {
  params: { path },
  body: { secret: myKey, overlap_seconds: 0 },
});
deepEqual(value(await client.GET(`${one}/secret`, { params: { path } })), value(chosen));

const pinged = value(await client.POST(`${one}/ping`, { params: { path } }));
const pending = { params: { path, query: { status: "PENDING" } } } as const;
deepEqual(value(await client.GET(`${one}/deliveries`, pending)).map(({ id }) => id), [pinged.id]);
const delivery = { params: { path: { ...path, dlv_id: pinged.id } } };
ok(value(await client.GET(`${one}/deliveries/{dlv_id}`, delivery)).body.includes(first.id));
const again = await client.POST(`${one}/deliveries/{dlv_id}/redeliver`, delivery);
equal(value(again).event_id, pinged.event_id);
const everywhere = await client.GET("/v1/endpoints/deliveries", { params: { query: { event_id: pinged.event_id } } });
deepEqual(value(everywhere).map(({ id }) => id), [pinged.id]);
const since = new Date(Date.now() - 86_400_000).toISOString();
const recovery = await client.POST(`${one}/recover`, { params: { path }, body: { since, dry_run: true } });
equal(value(recovery).count, 0);

equal(value(await client.GET(`${one}/stats`, { params: { path, query: { window: "7d" } } })).pending, 1);

for (const { id } of [first, second])
  equal((await client.DELETE(one, { params: { path: { ep_id: id } } })).response.status, 204);
problem(await client.GET(one, { params: { path } }), 404, "unknown_endpoint");
