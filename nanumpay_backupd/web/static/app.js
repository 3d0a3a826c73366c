// What every page does: hears from the service what happens, and shows it. Pages work without it.
import { follow } from "./live.js";

const body = document.body;
export const base = body.dataset.base;

const heal = document.querySelector("[data-heal]");
if (heal) {
  // The daemon was not there: look again now and then, and show what was asked for when it is.
  const look = async () => {
    try {
      const answer = await fetch(`${base}/alive`, { cache: "no-store" });
      if (answer.ok && (await answer.json()).daemon) {
        const there = await fetch(location.href, { cache: "no-store" });
        // What was sent by a form is not sent again by itself.
        if (there.status === 405) return location.assign(`${base}/`);
        if (there.status !== 503) return location.reload();
      }
    } catch { /* the service itself is away: it comes again */ }
    setTimeout(look, 3000);
  };
  setTimeout(look, 2000);
}

if (body.dataset.csrf) follow(base);
