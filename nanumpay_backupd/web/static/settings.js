// The settings form: shows what belongs to the choice, what the settings would mean, and whether the place answers.
const form = document.getElementById("settings");
const base = document.body.dataset.base;
const csrf = document.body.dataset.csrf;
const lang = document.documentElement.lang;
const zone = document.querySelector("[data-zone]")?.dataset.zone;

const choose = () => {
  for (const box of form.querySelectorAll("[data-when]")) {
    const [name, value] = box.dataset.when.split("=");
    box.hidden = form.elements[name].value !== value;
  }
};

// The names of the fields are the paths of the application's document.
const read = () => {
  const backup = {};
  for (const field of form.elements) {
    if (!field.name || ["csrf", "revision"].includes(field.name) || field.name.startsWith("clear:")) continue;
    if (field.type === "radio" && !field.checked) continue;
    let value = field.value;
    if (field.type === "checkbox") value = field.checked;
    else if (field.type === "number" || ["dayOfWeek", "dayOfMonth"].includes(field.name)) value = value === "" ? value : Number(value);
    else if (field.type === "password" && value === "") continue;
    const parts = field.name.split(".");
    let table = backup;
    for (const part of parts.slice(0, -1)) table = table[part] ??= {};
    table[parts.at(-1)] = value;
  }
  return { backup };
};

const ask = async (what) => {
  const answer = await fetch(`${base}/api/admin/settings/${what}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-csrf-token": csrf },
    body: JSON.stringify(read()),
  });
  return [answer.ok, await answer.json()];
};

const line = (kind, text, note = "") => {
  const item = document.createElement("li");
  const mark = document.createElement("span");
  mark.className = `badge b-${kind}`;
  mark.textContent = { good: "✓", warn: "!", bad: "✕", busy: "…", off: "·" }[kind];
  const told = document.createElement("span");
  told.textContent = text;
  item.append(mark, told);
  if (note) {
    const more = document.createElement("span");
    more.className = "soft";
    more.textContent = note;
    item.append(more);
  }
  return item;
};

const style = { weekday: "short", year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const shown = (at) => {
  // A host may have a time zone of its own making, which no browser knows: then as the daemon writes it.
  try { return new Intl.DateTimeFormat(lang, { ...style, timeZone: zone || undefined }).format(new Date(at)); } catch { return at.slice(0, 16).replace("T", " "); }
};
let turn = 0;
let waiting = 0;
const preview = () => {
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    const mine = ++turn;
    const place = document.getElementById("preview");
    try {
      const [good, reply] = await ask("preview");
      if (mine !== turn) return;
      const list = document.createElement("ol");
      list.className = "plain next";
      if (!good || reply.problem) {
        list.append(line("bad", form.dataset.refused, (reply.problem ?? reply).message));
      } else if (!reply.runs.length) {
        list.append(line("off", form.dataset.off));
      } else {
        for (const at of reply.runs) {
          const item = document.createElement("li");
          item.textContent = shown(at);
          list.append(item);
        }
      }
      place.replaceChildren(list);
    } catch { /* away for a moment: what was shown stays */ }
  }, 250);
};

const test = document.getElementById("test");
test.addEventListener("click", async () => {
  const list = document.getElementById("tested");
  test.disabled = true;
  list.replaceChildren(line("busy", form.dataset.testing));
  try {
    const [good, reply] = await ask("test");
    const kinds = { ok: "good", warning: "warn", failed: "bad" };
    list.replaceChildren(...(good ? reply.checks.map((check) => line(kinds[check.state], check.message, check.hint)) : [line("bad", reply.message, reply.hint)]));
  } catch (error) {
    list.replaceChildren(line("bad", String(error)));
  }
  test.disabled = false;
});

for (const box of document.querySelectorAll("[data-script]")) box.hidden = false;
form.addEventListener("input", () => { choose(); preview(); });
choose();
