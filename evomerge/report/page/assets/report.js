"use strict";
(() => {
  const root = document.documentElement;
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const dark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  for (const button of all("[data-do]")) {
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
    for (const part of all("details:not(.long)")) part.open = true;
  });

  // Hover: the tip of a mark at once, and the row of its trial.
  const tip = document.getElementById("tip");
  const columns = all("#trial-table thead th").map((cell) => cell.textContent);
  const said = (mark) => {
    const title = mark.querySelector(":scope > title");
    if (title) {
      mark.dataset.tip = title.textContent;
      title.remove(); // else the browser shows it a second time
    }
    const lines = mark.dataset.tip ? [mark.dataset.tip] : [];
    const row = mark.dataset.trial && document.querySelector(`#trial-table tr[data-n="${mark.dataset.trial}"]`);
    if (row) [...row.cells].slice(5).forEach((cell, i) => cell.textContent && lines.push(`${columns[5 + i]}: ${cell.textContent}`));
    return lines;
  };
  const show = (event) => {
    const mark = event.target.closest && event.target.closest("svg *");
    const lines = mark ? said(mark) : [];
    tip.hidden = !lines.length;
    if (!lines.length) return;
    tip.replaceChildren(...lines.map((line) => {
      const part = document.createElement("div");
      part.textContent = line;
      return part;
    }));
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, room))}px`;
    const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
    tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 10}px`;
  };
  if (tip) for (const kind of ["pointerover", "click"]) addEventListener(kind, show);

  // Zoom: drag over a plot's area; marks move to the new scales, and ticks are drawn anew.
  const made = (name, attributes) => {
    const element = document.createElementNS(document.querySelector("svg").namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const tickValues = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.75);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const values = [];
    for (let i = Math.ceil(low / step - 1e-6); i * step <= high + 1e-6 * step; i++)
      values.push([i * step, (i * step + 0).toFixed(digits).replace("-", "−")]);
    return values;
  };
  all("g.marks[data-zoom]").forEach((group, index) => {
    const svg = group.ownerSVGElement;
    const ends = group.dataset.zoom.split(";").map((axis) => axis.split(",").map(Number));
    const [left, top, width, height] = group.dataset.box.split(",").map(Number);
    const clip = made("clipPath", { id: `clip${index}` });
    clip.append(made("rect", { x: left - 6, y: top - 6, width: width + 12, height: height + 12 }));
    svg.prepend(clip);
    group.setAttribute("clip-path", "url" + `(#clip${index})`);
    let view = ends.map(([low, high]) => [low, high]);
    const moved = (pixel, axis) => {
      const [low, high, start, end] = ends[axis];
      const value = low + ((pixel - start) / (end - start)) * (high - low);
      return start + ((value - view[axis][0]) / (view[axis][1] - view[axis][0])) * (end - start);
    };
    const kept = new Map();
    const base = (element, key) => {
      if (!kept.has(element)) kept.set(element, {});
      const values = kept.get(element);
      if (!(key in values)) values[key] = element.getAttribute(key);
      return values[key];
    };
    const place = (element, key, axis, half = 0) =>
      element.setAttribute(key, moved(Number(base(element, key)) + half, axis) - half);
    const axes = ["ax", "ay"].map((name) => svg.querySelector(`g.${name}`));
    const templates = axes.map((g) => g && g.children.length && [g.children[0].cloneNode(), g.children[1].cloneNode()]);
    const first = axes.map((g) => g && [...g.childNodes]);
    const draw = () => {
      for (const e of all("circle", group)) { place(e, "cx", 0); place(e, "cy", 1); }
      for (const e of all("rect.at", group)) {
        const half = Number(e.getAttribute("width")) / 2;
        place(e, "x", 0, half);
        place(e, "y", 1, half);
      }
      for (const e of all("text.at", group)) { place(e, "x", 0); place(e, "y", 1); }
      for (const e of all("polyline", group)) {
        const points = base(e, "points").split(" ").map((pair) => pair.split(",").map(Number));
        e.setAttribute("points", points.map(([x, y]) => `${moved(x, 0)},${moved(y, 1)}`).join(" "));
      }
      for (const e of all("line.zero", svg)) {
        const across = base(e, "y1") === base(e, "y2"), axis = across ? 1 : 0, letter = across ? "y" : "x";
        const at = moved(Number(base(e, letter + "1")), axis), [start, end] = ends[axis].slice(2);
        e.setAttribute(letter + "1", at);
        e.setAttribute(letter + "2", at);
        e.style.display = (at - start) * (at - end) > 1 ? "none" : "";
      }
      const whole = view.every(([low, high], axis) => low === ends[axis][0] && high === ends[axis][1]);
      axes.forEach((g, axis) => {
        if (!templates[axis]) return;
        if (whole) return g.replaceChildren(...first[axis]);
        const [start, end] = ends[axis].slice(2), [low, high] = view[axis];
        const count = Math.max(3, Math.min(6, Math.abs(end - start) / 70));
        g.replaceChildren(...tickValues(low, high, count).flatMap(([value, label]) => {
          const at = start + ((value - low) / (high - low)) * (end - start);
          const [rule, text] = templates[axis].map((node) => node.cloneNode());
          for (const key of axis ? ["y1", "y2"] : ["x1", "x2"]) rule.setAttribute(key, at);
          text.setAttribute(axis ? "y" : "x", axis ? at + 4 : at);
          text.textContent = label;
          return [rule, text];
        }));
      });
      svg.classList.toggle("zoomed", !whole);
    };
    const pointer = (event) => {
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    let from = null, frame = null;
    svg.addEventListener("pointerdown", (event) => {
      const [x, y] = pointer(event);
      if (event.pointerType === "touch" || event.button || x < left || x > left + width || y < top || y > top + height) return;
      from = [x, y];
      event.preventDefault();
      svg.setPointerCapture(event.pointerId);
      frame = made("rect", { class: "frame" });
      svg.append(frame);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y] = pointer(event);
      frame.setAttribute("x", Math.min(x, from[0]));
      frame.setAttribute("y", Math.min(y, from[1]));
      frame.setAttribute("width", Math.abs(x - from[0]));
      frame.setAttribute("height", Math.abs(y - from[1]));
    });
    const end = (event) => {
      if (!from) return;
      const to = pointer(event), began = from;
      from = null;
      frame.remove();
      if (Math.abs(to[0] - began[0]) < 8 || Math.abs(to[1] - began[1]) < 8) return;
      view = [0, 1].map((axis) => {
        const [start, stop] = ends[axis].slice(2), [low, high] = view[axis];
        const inside = [Math.min(start, stop), Math.max(start, stop)];
        const values = [began[axis], to[axis]].map((pixel) => {
          const clamped = Math.max(inside[0], Math.min(inside[1], pixel));
          return low + ((clamped - start) / (stop - start)) * (high - low);
        });
        return [Math.min(...values), Math.max(...values)];
      });
      draw();
    };
    svg.addEventListener("pointerup", end);
    svg.addEventListener("pointercancel", () => { from = null; if (frame) frame.remove(); });
    svg.addEventListener("dblclick", () => {
      view = ends.map(([low, high]) => [low, high]);
      draw();
    });
  });

  // Tables: filter by text, sort by a column.
  for (const input of all("[data-filter]")) {
    input.closest(".filter").hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const row of document.getElementById(input.dataset.filter).tBodies[0].rows)
        row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  }
  const valueOf = (row, column) => {
    const text = row.cells[column].textContent.trim(), value = parseFloat(text.replace("−", "-").replaceAll(",", ""));
    return Number.isNaN(value) ? text : value;
  };
  for (const table of all("table.sortable"))
    [...table.tHead.rows[0].cells].forEach((head, column) =>
      head.addEventListener("click", () => {
        const down = head.dataset.order !== "down";
        for (const other of table.tHead.rows[0].cells) delete other.dataset.order;
        head.dataset.order = down ? "down" : "up";
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [x, y] = [valueOf(a, column), valueOf(b, column)];
          const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === "number" ? -1 : 1;
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      }));
})();
