// The timeline: click or drag to the second, arrow keys, Home and End; and buttons that say that they are at work.

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", () => {
    const button = form.querySelector("button[data-busy]");
    if (!button) return;
    // Disabled a moment later, or it would not be sent.
    setTimeout(() => { button.disabled = true; button.textContent = button.dataset.busy; }, 0);
  });
}
// Back from the next page: the button is free again.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// What servers have to be asked for comes when they have answered; a link beside it leads there in any case.
for (const place of document.querySelectorAll("[data-later]")) {
  fetch(place.dataset.later, { headers: { accept: "text/html" }, cache: "no-store" })
    .then(async (answer) => {
      if (!answer.ok) return;
      const part = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.replaceChildren(...part.body.childNodes);
    })
    .catch(() => { /* the page is as good without it */ });
}

const box = document.querySelector("[data-band]");
const field = document.querySelector("input[name=at]");
if (box && field) {
  const { start, end, exact } = JSON.parse(box.dataset.band);
  const reach = exact.map(([first, last]) => [Math.ceil(Date.parse(first) / 1000), Math.floor(Date.parse(last) / 1000)]);
  const mark = box.querySelector(".chosen");
  const [line, dot, text] = mark.children;
  let zone = box.dataset.zone;
  const style = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  let format;
  try { format = new Intl.DateTimeFormat("sv-SE", { ...style, timeZone: zone }); } catch { zone = "UTC"; format = new Intl.DateTimeFormat("sv-SE", { ...style, timeZone: zone }); }

  const wall = (at) => format.format(new Date(at * 1000)).replace(" ", "T");
  const instant = (told) => {
    // What the clocks of that zone showed, as an instant: guessed, and set right by what they show then.
    const plain = Date.parse(`${told}Z`) / 1000;
    let at = plain;
    for (let turn = 0; turn < 2; turn += 1) at += plain - Date.parse(`${wall(at)}Z`) / 1000;
    return at;
  };
  const nearest = (at) => {
    let best = null;
    for (const [first, last] of reach) {
      const near = Math.min(Math.max(at, first), last);
      if (best === null || Math.abs(near - at) < Math.abs(best - at)) best = near;
    }
    return best ?? at;
  };

  let now = field.value ? instant(field.value) : nearest(end);
  const show = (at) => {
    now = at;
    const x = ((at - start) / (end - start)) * 100;
    mark.toggleAttribute("hidden", x < 0 || x > 100);
    for (const name of ["x1", "x2"]) line.setAttribute(name, `${x}%`);
    dot.setAttribute("cx", `${x}%`);
    text.setAttribute("x", `${x}%`);
    text.setAttribute("text-anchor", x < 12 ? "start" : x > 88 ? "end" : "middle");
    text.textContent = wall(at).replace("T", " ");
    box.setAttribute("aria-valuenow", String(Math.round(at)));
    box.setAttribute("aria-valuetext", text.textContent);
  };
  const choose = (at) => {
    const there = nearest(Math.round(at));
    show(there);
    field.value = wall(there);
    const radio = document.querySelector("input[name=when][value=moment]");
    if (radio) radio.checked = true;
  };

  // What were links for who has no script is a picture now: nothing in a slider can be reached by itself.
  for (const link of box.querySelectorAll("a")) {
    if (link.classList.contains("slot")) { link.remove(); continue; }
    const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
    group.setAttribute("class", link.getAttribute("class"));
    group.dataset.backup = link.dataset.backup;
    group.dataset.at = link.dataset.at;
    group.append(...link.childNodes);
    link.replaceWith(group);
  }
  const picture = box.querySelector("svg");
  for (const name of ["role", "aria-label"]) picture.removeAttribute(name);
  picture.setAttribute("aria-hidden", "true");
  const pick = (full) => {
    const list = document.querySelector("select[name=backup]");
    list.value = full.dataset.backup;
    if (list.value !== full.dataset.backup) return false;
    document.querySelector("input[name=when][value=backup]").checked = true;
    show(Date.parse(full.dataset.at) / 1000);
    return true;
  };

  if (reach.length) {
    box.tabIndex = 0;
    box.setAttribute("role", "slider");
    box.setAttribute("aria-label", box.dataset.label);
    box.setAttribute("aria-valuemin", String(reach[0][0]));
    box.setAttribute("aria-valuemax", String(reach.at(-1)[1]));
    const keys = document.querySelector(".keys");
    keys.textContent = box.dataset.keys;
    keys.hidden = false;
    const at = (event) => {
      const frame = box.getBoundingClientRect();
      return start + ((event.clientX - frame.left) / frame.width) * (end - start);
    };
    let held = false;
    box.addEventListener("click", (event) => {
      const full = event.target.closest(".full");
      if (!full || !pick(full)) choose(at(event));
    });
    box.addEventListener("pointerdown", (event) => { held = event.pointerType !== "touch" && !event.target.closest(".full"); });
    box.addEventListener("pointermove", (event) => { if (held) choose(at(event)); });
    addEventListener("pointerup", () => { held = false; });
    box.addEventListener("dragstart", (event) => event.preventDefault());
    box.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 1 : event.ctrlKey ? 60 : Math.max(1, Math.round((end - start) / 100));
      const to = { ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step,
        PageDown: now - 10 * step, PageUp: now + 10 * step, Home: reach[0][0], End: reach.at(-1)[1] }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(jump(now, Math.round(to)));
    });
    // Over a gap, or the arrow would never leave its edge.
    const jump = (from, to) => {
      if (nearest(to) !== from) return to;
      const edges = reach.flat().filter((edge) => (to > from ? edge > from : edge < from));
      if (!edges.length) return from;
      return to > from ? Math.min(...edges) : Math.max(...edges);
    };
    if (document.querySelector("input[name=when][value=moment]")?.checked) show(now); else { box.setAttribute("aria-valuenow", String(Math.round(now))); box.setAttribute("aria-valuetext", wall(now).replace("T", " ")); }
  }
  field.addEventListener("change", () => {
    if (!field.value) return;
    show(instant(field.value));
    document.querySelector("input[name=when][value=moment]").checked = true;
  });
  // Which of the three is meant shows on the band as well.
  for (const radio of document.querySelectorAll("input[name=when]")) {
    radio.addEventListener("change", () => {
      if (radio.value === "moment") show(instant(field.value)); else mark.toggleAttribute("hidden", true);
    });
  }
}
