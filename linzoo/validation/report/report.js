"use strict";
document.documentElement.classList.add("scripts");
for (const stage of document.querySelectorAll(".stage")) {
  const input = stage.querySelector("input");
  const move = () => {
    stage.style.setProperty("--at", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % teacher, ${100 - input.value} % student`);
  };
  input.addEventListener("input", move);
  input.hidden = false;
  stage.classList.add("sliding");
  move();
}
