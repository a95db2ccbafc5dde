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
const tree = document.querySelector(".tree");
if (tree) {
  const all = document.querySelector("#open-all");
  all.hidden = false;
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    for (const module of tree.querySelectorAll("details")) module.open = open;
    all.setAttribute("aria-pressed", open);
    all.textContent = open ? "Close all" : "Open all";
  });
}
