"use strict";
(() => {
  const root = document.documentElement;
  const dark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  for (const button of document.querySelectorAll("[data-do]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      if (button.dataset.do === "theme") {
        root.dataset.theme = dark() ? "light" : "dark";
        return;
      }
      const text = document.getElementById(button.dataset.of).textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      } catch {
        button.textContent = "select it by hand";
      }
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not(.long)")) part.open = true;
  });
})();
