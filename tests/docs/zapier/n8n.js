// Runs one method of the documented node as n8n does: `node n8n.js NODE METHOD`, what n8n has on standard input.
const { readFileSync } = require("node:fs");

const [, , path, name] = process.argv;
const { ShopTrigger } = require(path);
const { authorization, kept, url, eventType, request } = JSON.parse(readFileSync(0, "utf8"));
let status = 200;

const n8n = {
  getWorkflowStaticData: () => kept,
  getNodeWebhookUrl: () => url,
  getNodeParameter: () => eventType,
  getRequestObject: () => ({ headers: request.headers, rawBody: Buffer.from(request.body) }),
  getBodyData: () => JSON.parse(request.body),
  getResponseObject: () => ({ status: (answered) => ((status = answered), { end: () => {} }) }),
  helpers: {
    returnJsonArray: (json) => [{ json }],
    async httpRequestWithAuthentication(credential, { method, url, body, ignoreHttpStatusErrors }) {
      if (credential !== "httpHeaderAuth") throw new Error(credential);
      const headers = { authorization, "content-type": "application/json" };
      const answer = await fetch(url, { method, headers, body: JSON.stringify(body) });
      if (!answer.ok && !ignoreHttpStatusErrors) throw new Error(`${answer.status} ${await answer.text()}`);
      const text = await answer.text();
      return text && JSON.parse(text);
    },
  },
};

const node = new ShopTrigger();
const method = name === "webhook" ? node.webhook : node.webhookMethods.default[name];
method.call(n8n).then((answer) => console.log(JSON.stringify({ answer, kept, status })));
