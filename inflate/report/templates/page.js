"use strict";
for (const viewer of document.querySelectorAll(".viewer")) {
  const frames = [...viewer.querySelectorAll(".frame")];
  const control = viewer.querySelector(".control");
  if (frames.length < 2) continue;
  const [range, output, play] = ["input", "output", "button"].map((tag) => control.querySelector(tag));
  const show = () => {
    const now = Number(range.value);
    frames.forEach((frame, index) => { frame.hidden = index !== now; });
    output.value = `${frames[now].dataset.label} (${now + 1} of ${frames.length})`;
    range.setAttribute("aria-valuetext", output.value);
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "Stop";
    timer = setInterval(() => { range.value = (Number(range.value) + 1) % frames.length; show(); }, 400);
  });
  range.max = frames.length - 1;
  range.value = 0;
  range.addEventListener("input", () => { stop(); show(); });
  for (const title of viewer.querySelectorAll(".frame h4")) title.hidden = true;
  control.hidden = false;
  show();
}
const all = document.querySelector("#open-all");
if (all) {
  all.hidden = false;
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    for (const part of document.querySelectorAll("#plan details")) part.open = open;
    all.setAttribute("aria-pressed", open);
    all.textContent = open ? "Close all" : "Open all";
  });
}
const hint = () => {
  for (const box of document.querySelectorAll(".scroll")) {
    box.classList.toggle("wide", box.scrollWidth > box.clientWidth);
  }
};
addEventListener("resize", hint);
addEventListener("toggle", hint, true);
hint();
const jobs = document.querySelector("#jobs");
if (jobs) {
  const body = jobs.tBodies[0];
  const rows = [...body.rows];
  const filters = document.querySelector(".filters");
  const [words, count] = ["input[type=search]", "output"].map((tag) => filters.querySelector(tag));
  const boxes = [...filters.querySelectorAll("input[type=checkbox]")];
  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/);
    const statuses = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    for (const row of rows) {
      const text = row.dataset.text.toLowerCase();
      row.hidden = !statuses.has(row.dataset.status) || !wanted.every((word) => text.includes(word));
    }
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
  };
  filters.hidden = false;
  filters.addEventListener("input", show);
  show();
  const heads = [...jobs.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
      const compare = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      const number = (a, b) => Number(key(a)) - Number(key(b));
      rows.sort(head.classList.contains("number") ? number : compare);
      if (down) rows.reverse();
      body.append(...rows);
    });
  });
}
