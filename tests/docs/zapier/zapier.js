// Runs one function of the documented app on Zapier's platform: `node zapier.js APP FUNCTION`, the bundle on standard input.
const { readFileSync } = require("node:fs");
const zapier = require("zapier-platform-core");

const [, , path, name] = process.argv;
const app = require(path);
const ask = zapier.createAppTester(app);
const asked = name === "test" ? app.authentication.test : app.triggers.event.operation[name];
ask(asked, JSON.parse(readFileSync(0, "utf8"))).then((answer) => {
  console.log(JSON.stringify({ answer: answer?.data ?? answer }));
});
