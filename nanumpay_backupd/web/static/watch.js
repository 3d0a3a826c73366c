// One run as it goes: stage, bytes, rate, and what it says. Drawn anew when a stage ends, and at its end.
import { size } from "./live.js";

const box = document.querySelector("[data-watch]");
if (box) {
  const bar = box.querySelector("progress");
  const log = box.querySelector("[data-log]");
  document.addEventListener("backup", ({ detail: event }) => {
    const id = event.run?.id ?? event.progress?.run;
    if (event.kind === "resync" || event.kind === "up") return;
    if (id !== box.dataset.watch) return;
    if (event.progress) {
      const p = event.progress;
      box.querySelector("[data-stage]").textContent = p.stage;
      if (p.total) { bar.max = p.total; bar.value = Math.min(p.bytes, p.total); } else { bar.removeAttribute("value"); }
      const parts = [p.total ? `${size(p.bytes)} / ${size(p.total)}` : size(p.bytes)];
      if (p.documents) parts.push(p.documents.toLocaleString());
      if (p.rate) parts.push(`${size(p.rate)}/s`);
      if (p.text) parts.push(p.text);
      box.querySelector("[data-told]").textContent = parts.join(" · ");
    }
    if (event.message) {
      const line = document.createElement("p");
      const at = document.createElement("time");
      at.textContent = new Date(event.time).toLocaleTimeString(document.documentElement.lang);
      line.append(at, ` ${event.message}`);
      log.append(line);
      log.scrollTop = log.scrollHeight;
    }
    if (event.kind === "run-ended") location.reload();
  });
}
