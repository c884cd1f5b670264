// Reads messages as JSON from standard input; answers for each which official verifiers refuse it, and why.
import { readFileSync } from "node:fs";
import * as standardwebhooks from "standardwebhooks";
import * as svix from "svix";

const answers = JSON.parse(readFileSync(0, "utf8")).map(({ secret, format, headers, body }) => {
  const refusals = {};
  for (const [name, { Webhook }] of Object.entries({ standardwebhooks, svix })) {
    try {
      new Webhook(secret, format ? { format } : undefined).verify(body, headers);
    } catch (error) {
      refusals[name] = String(error);
    }
  }
  return refusals;
});
console.log(JSON.stringify(answers));
