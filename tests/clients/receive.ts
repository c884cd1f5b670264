// A receiver made of the types of openapi-typescript: standard input is an attempt and the secret, as JSON.
import { readFileSync } from "node:fs";

import { Webhook } from "standardwebhooks";

import type { webhooks } from "./api.js";

type Ping = webhooks["webhook.ping"]["post"];
type Body = Ping["requestBody"]["content"]["application/json"];
type Headers = Record<keyof Ping["parameters"]["header"], string>;

const received: { secret: string; headers: Headers; body: string } = JSON.parse(readFileSync(0, "utf8"));
const event = new Webhook(received.secret).verify(received.body, received.headers) as Body;
if (event.type === "webhook.ping") console.log(event.data.endpoint_id);
