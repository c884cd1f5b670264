// Comfort only: every page works without this module.

const live = document.getElementById("whe-live");
const language = document.documentElement.lang || undefined;

const say = (text) => {
  if (live) live.textContent = text;
};

// Times in the reader's own zone; those of the last day as "5 minutes ago".
const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const steps = [["second", 60], ["minute", 60], ["hour", 24]];

const distance = (moment) => {
  let amount = (moment - Date.now()) / 1000;
  for (const [unit, size] of steps) {
    if (Math.abs(amount) < size) return relative.format(Math.round(amount), unit);
    amount /= size;
  }
};

const showTimes = () => {
  for (const time of document.querySelectorAll("time.whe-time")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    time.title ||= time.textContent;
    const near = time.dataset.relative === undefined ? undefined : distance(moment);
    time.textContent = near ?? absolute.format(moment);
  }
};

showTimes();
setInterval(showTimes, 30_000);

// Buttons that copy the text of the element that they name.
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(source.value ?? source.textContent);
    say(button.dataset.copied);
  });
}

// A page whose delivery is under way loads itself again, unless its reader is writing or not looking.
const refreshing = document.querySelector("[data-refresh]");
if (refreshing) {
  const seconds = Number(refreshing.dataset.refresh);
  setInterval(() => {
    const isWriting = document.activeElement?.matches("input, textarea, select");
    const isMarking = !getSelection().isCollapsed;
    if (!document.hidden && !isWriting && !isMarking) location.reload();
  }, seconds * 1000);
}
