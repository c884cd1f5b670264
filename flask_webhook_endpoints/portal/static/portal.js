// Comfort only: every page works without this module.

const language = document.documentElement.lang || undefined;
const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const units = [["second", 60], ["minute", 60], ["hour", 24]];

const distance = (moment) => {
  let amount = (moment - Date.now()) / 1000;
  for (const [unit, size] of units) {
    if (Math.abs(amount) < size) return relative.format(Math.round(amount), unit);
    amount /= size;
  }
};

// Times in the reader's own zone; those of the last day as "5 minutes ago".
const showTimes = () => {
  for (const time of document.querySelectorAll("time.whe-time")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    time.title ||= time.textContent;
    const near = time.dataset.relative === undefined ? undefined : distance(moment);
    const due = moment <= Date.now() && time.dataset.due;
    time.textContent = (due || near) ?? absolute.format(moment);
  }
};

const say = (text) => {
  document.getElementById("whe-live").textContent = text;
};

let loaded;
const start = () => {
  loaded = performance.now();
  showTimes();
  for (const button of document.querySelectorAll("[data-tick], [data-copy]")) {
    button.hidden = button.dataset.copy && !navigator.clipboard;
  }
};

start();
setInterval(showTimes, 30_000);
// htmx and Turbo change the body without loading a page.
const observer = new MutationObserver(start);
observer.observe(document.documentElement, { childList: true });
observer.observe(document.body, { childList: true });

// Buttons that tick every box of their form, and those that copy the text of the element that they name.
document.addEventListener("click", async ({ target }) => {
  const button = target.closest?.("[data-tick], [data-copy]");
  if (!button) return;
  if (!button.dataset.copy) {
    for (const box of button.form.querySelectorAll("[type=checkbox]")) box.checked = true;
    return;
  }
  const source = document.getElementById(button.dataset.copy);
  await navigator.clipboard.writeText(source.value ?? source.textContent);
  say(button.dataset.copied);
});

// A page whose delivery is under way loads itself again, unless its reader is writing, marking or not looking.
const state = () => document.querySelector("[data-state]")?.textContent.trim();
setInterval(() => {
  const refreshing = document.querySelector("[data-refresh]");
  if (!refreshing || performance.now() - loaded < refreshing.dataset.refresh * 1000) return;
  const isWriting = document.activeElement?.matches("input, textarea, select");
  if (document.hidden || isWriting || !getSelection().isCollapsed) return;
  history.replaceState({ ...history.state, whe: state() }, "");
  location.reload();
}, 500);

// Screen readers hear of a state that is another one than before the page loaded itself.
const before = history.state?.whe;
if (before && before !== state()) setTimeout(() => say(state() ?? ""), 500);
