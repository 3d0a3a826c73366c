// The timeline: a click, or the arrow keys, choose a moment; the form takes it over.
const form = document.getElementById("recover");
const drawing = document.querySelector("svg.timeline");

if (form) {
  const choose = () => {
    const way = form.elements.way.value ?? "backup";
    for (const box of form.querySelectorAll("[data-when]")) box.hidden = box.dataset.when !== `way=${way}`;
  };
  form.addEventListener("input", choose);
  choose();
}

const field = form?.elements.moment;
if (drawing && field) {
  const begin = Number(drawing.dataset.begin);
  const end = Number(drawing.dataset.end);
  const zone = drawing.dataset.zone;
  const mark = drawing.querySelector(".t-mark");
  // What the clock on the daemon's wall shows at a moment, as the field wants it.
  const parts = new Intl.DateTimeFormat("sv-SE", { timeZone: zone || undefined, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const ranges = [...drawing.querySelectorAll(".t-range, .t-single")].map((box) => [Number(box.dataset.first), Number(box.dataset.last)]);

  const set = (at) => {
    // The nearest moment that can be restored.
    let best = null;
    for (const [first, last] of ranges) {
      const near = Math.min(Math.max(at, first), last);
      if (best === null || Math.abs(near - at) < Math.abs(best - at)) best = near;
    }
    if (best === null) return;
    const x = ((best - begin) / (end - begin)) * 720;
    mark.setAttribute("x1", x);
    mark.setAttribute("x2", x);
    field.value = parts.format(new Date(Math.floor(best) * 1000)).replace(" ", "T");
    drawing.setAttribute("aria-valuenow", Math.floor(best));
    drawing.setAttribute("aria-valuetext", field.value);
    for (const radio of form.querySelectorAll("[name=way]")) radio.checked = radio.value === "moment";
    form.dispatchEvent(new Event("input"));
    now = best;
  };

  let now = end;
  drawing.setAttribute("tabindex", "0");
  drawing.setAttribute("role", "slider");
  drawing.setAttribute("aria-valuemin", begin);
  drawing.setAttribute("aria-valuemax", end);
  drawing.setAttribute("aria-valuenow", end);
  drawing.setAttribute("aria-valuetext", field.value);
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    set(begin + ((event.clientX - box.left) / box.width) * (end - begin));
  });
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -60, ArrowRight: 60, PageUp: -3600, PageDown: 3600, Home: begin - now, End: end - now }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    set(now + step);
  });
}
