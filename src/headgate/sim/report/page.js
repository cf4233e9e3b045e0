// Figures under the pointer: one moment in time, marked in every panel at once.
const hover = JSON.parse(document.getElementById("hover").textContent);
const tip = document.getElementById("tip");
const cursors = document.querySelectorAll("svg .cursor");
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function clock(hours) {
  const minutes = Math.round(hours * 60) % 1440;
  const two = (n) => String(n).padStart(2, "0");
  const time = two(Math.floor(minutes / 60)) + ":" + two(minutes % 60);
  return hover.days > 1 ? "day " + (Math.floor(hours / 24) + 1) + ", " + time : time;
}

function line(colour, name, value) {
  const row = document.createElement("div");
  const swatch = document.createElement("i");
  swatch.style.background = colour;
  const figure = document.createElement("b");
  figure.textContent = whole.format(value);
  row.append(swatch, document.createTextNode(name), figure);
  return row;
}

function show(svg, event) {
  const panel = hover.panels[svg.dataset.panel];
  const box = svg.getBoundingClientRect();
  const { left, right, width } = hover.frame;
  const x = ((event.clientX - box.left) / box.width) * width;
  const share = Math.min(1, Math.max(0, (x - left) / (right - left)));
  const hours = share * hover.days * 24;
  const row = panel.at_h.findIndex((at) => at >= hours);
  const at = row < 0 ? panel.at_h.length - 1 : row;
  for (const cursor of cursors) {
    cursor.style.visibility = "visible";
    cursor.setAttribute("x1", left + share * (right - left));
    cursor.setAttribute("x2", left + share * (right - left));
  }
  const head = document.createElement("strong");
  head.textContent = clock(panel.at_h[at]) + " · GPUs";
  const lines = panel.series.map((s) => line(s.colour, s.name, s.values[at])).reverse();
  tip.replaceChildren(head, ...lines);
  tip.hidden = false;
  const wide = tip.offsetWidth, tall = tip.offsetHeight;
  const after = event.clientX + 18 + wide < innerWidth;
  tip.style.left = (after ? event.clientX + 18 : event.clientX - 18 - wide) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY - tall / 2, innerHeight - tall - 4)) + "px";
}

function hide() {
  tip.hidden = true;
  for (const cursor of cursors) cursor.style.visibility = "hidden";
}

for (const svg of document.querySelectorAll("svg[data-panel]")) {
  svg.addEventListener("pointermove", (event) => show(svg, event));
  svg.addEventListener("pointerleave", hide);
}
