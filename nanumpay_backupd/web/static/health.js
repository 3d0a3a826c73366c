// Health: commands that can be copied, and the doctor's findings while they come.

const words = document.querySelector("[data-words]").dataset;

const copying = (root) => {
  if (!navigator.clipboard) return; // only where the browser trusts the address: HTTPS, or this very host
  for (const box of root.querySelectorAll(".command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = words.copy;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = words.copied;
      setTimeout(() => { button.textContent = words.copy; }, 2000);
    });
    box.append(button);
  }
};
copying(document);

for (const form of document.querySelectorAll("form")) {
  const button = form.querySelector("button[data-busy]");
  if (!button) continue;
  const label = button.querySelector("span");
  const idle = label.textContent;
  form.addEventListener("submit", async (event) => {
    setTimeout(() => { button.disabled = true; label.textContent = button.dataset.busy; }, 0);
    if (!("doctor" in form.dataset)) return;
    event.preventDefault();
    const place = document.querySelector("[data-findings]");
    place.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        headers: { accept: "application/x-ndjson", "x-csrf-token": document.body.dataset.csrf, "content-type": "application/x-www-form-urlencoded" },
        body: new URLSearchParams(new FormData(form)),
      });
      if (!answer.ok) throw new Error(String(answer.status));
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const told = JSON.parse(line);
          if (told.fault) {
            const note = document.createElement("p");
            note.className = "note n-bad";
            note.textContent = told.fault;
            place.append(note);
          } else {
            // Written by the service, every text in it escaped there.
            place.innerHTML = told.html;
          }
        }
      }
      copying(place);
    } catch {
      const note = document.createElement("p");
      note.className = "note n-bad";
      note.textContent = words.lost;
      place.append(note);
    } finally {
      place.removeAttribute("aria-busy");
      button.disabled = false;
      label.textContent = idle;
    }
  });
}
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
