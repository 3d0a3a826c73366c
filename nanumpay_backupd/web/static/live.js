// The stream of events: the health at the top, runs under way, and pages that are drawn anew when something ended.

const size = (bytes) => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (bytes >= 999.5 && at < units.length - 1) { bytes /= 1000; at += 1; }
  return `${at === 0 || bytes >= 99.95 ? bytes.toFixed(0) : bytes >= 9.995 ? bytes.toFixed(1) : bytes.toFixed(2)} ${units[at]}`;
};

export function follow(base) {
  const pulse = document.getElementById("pulse");
  const live = document.getElementById("live");
  const listeners = new Set();
  let wasDown = false;

  const say = (state) => {
    if (!pulse) return;
    pulse.dataset.state = state;
    pulse.querySelector(".pulse-word").textContent = pulse.dataset[state] ?? pulse.dataset.ok;
  };

  const card = (run) => {
    let box = live.querySelector(`[data-run="${CSS.escape(run.id)}"]`);
    if (!box) {
      box = document.createElement("a");
      box.className = "going";
      box.dataset.run = run.id;
      box.href = `${base}/run/${encodeURIComponent(run.id)}`;
      const head = document.createElement("span");
      head.className = "row";
      const title = document.createElement("b");
      title.textContent = `${live.dataset.title} · ${run.job}`;
      const told = document.createElement("span");
      told.className = "soft told";
      head.append(title, told);
      box.append(head, document.createElement("progress"));
      live.append(box);
      live.hidden = false;
    }
    return box;
  };

  const show = (event) => {
    if (!live) return;
    if (event.run && !event.run.outcome && event.kind === "run-started") card(event.run);
    if (event.progress) {
      const p = event.progress;
      const box = card({ id: p.run, job: p.job });
      const bar = box.querySelector("progress");
      if (p.total) { bar.max = p.total; bar.value = Math.min(p.bytes, p.total); } else { bar.removeAttribute("value"); }
      box.querySelector(".told").textContent = [p.stage, size(p.bytes), p.rate ? `${size(p.rate)}/s` : ""].filter(Boolean).join(" · ");
    }
    if (event.kind === "run-ended" && event.run) {
      live.querySelector(`[data-run="${CSS.escape(event.run.id)}"]`)?.remove();
      live.hidden = !live.children.length;
    }
  };

  // A page that shows the state of things is drawn anew, in place, so that nobody loses what they were typing.
  let waiting = 0;
  const redraw = () => {
    if (!document.querySelector("[data-refresh]")) return;
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = fresh.querySelector("main");
      const now = document.querySelector("main");
      if (!main || now.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) return;
      const going = live ? [...live.children] : [];
      now.replaceChildren(...main.childNodes);
      const place = document.getElementById("live");
      if (place && going.length) { place.replaceWith(live); }
      const health = fresh.getElementById("pulse")?.dataset.state;
      if (health) say(health);
    }, 600);
  };

  const open = () => {
    const source = new EventSource(`${base}/api/admin/backup/events`);
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.kind === "down") { wasDown = true; say("down"); }
      if (event.kind === "up" && wasDown) { wasDown = false; redraw(); }
      show(event);
      for (const listener of listeners) listener(event);
      document.dispatchEvent(new CustomEvent("backup", { detail: event }));
      if (["run-ended", "settings", "plan", "resync"].includes(event.kind)) redraw();
    };
  };
  open();
}

export { size };
