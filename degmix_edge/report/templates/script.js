"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const root = document.documentElement;

  // The line between two layers of a map, one place for all maps.
  all(".wipe").forEach((wipe) => wipe.addEventListener("input", () => {
    all(".stage .frame").forEach((frame) => frame.style.setProperty("--cut", wipe.value + "%"));
    all(".wipe").forEach((other) => { other.value = wipe.value; });
  }));

  // Which layers lie on either side. An image without one shows its photograph there.
  const sides = all("#left, #right");
  const choose = () => all(".stage .frame").forEach((frame) => {
    const photo = frame.closest(".panel").querySelector(".photo img");
    const names = sides.map((side) => {
      const layer = all(".layer", frame).find((one) => one.dataset.layer === side.value);
      let shown = layer;
      if (!layer) {
        shown = frame.querySelector(".layer." + side.id + "-photo") || document.createElement("img");
        if (!shown.src) {
          shown.className = "layer " + side.id + "-photo";
          shown.draggable = false;
          shown.alt = photo.alt;
          shown.src = photo.src;
          frame.prepend(shown);
        }
      }
      all(".layer." + side.id, frame).forEach((one) => one.classList.remove(side.id));
      shown.classList.add(side.id);
      const name = layer ? side.value : "image";
      frame.parentElement.querySelector(".name-" + side.id).textContent = name;
      return name;
    });
    const wipe = frame.querySelector(".wipe");
    if (wipe) wipe.setAttribute("aria-label", "left of the line " + names[0] + ", right of it " + names[1]);
  });
  sides.forEach((side) => side.addEventListener("change", choose));

  // All pictures are enlarged and moved together. x and y are percents of a picture's size.
  const viewer = document.querySelector("#pictures");
  const place = { zoom: 1, x: 0, y: 0 };
  const show = () => {
    const most = 100 - 100 / place.zoom;
    place.x = Math.min(0, Math.max(-most, place.x));
    place.y = Math.min(0, Math.max(-most, place.y));
    viewer.style.setProperty("--zoom", place.zoom);
    viewer.style.setProperty("--x", place.x + "%");
    viewer.style.setProperty("--y", place.y + "%");
    viewer.classList.toggle("closer", place.zoom > 1);
  };
  const zoom = (factor, x = 50, y = 50) => {
    const before = place.zoom;
    place.zoom = factor ? Math.min(16, Math.max(1, before * factor)) : 1;
    place.x += x / place.zoom - x / before;
    place.y += y / place.zoom - y / before;
    show();
  };
  all("[data-zoom]").forEach((button) => button.addEventListener("click", () => zoom(Number(button.dataset.zoom))));
  all(".frame").forEach((frame) => {
    const size = () => frame.getBoundingClientRect();
    frame.addEventListener("dblclick", (event) => {
      const box = size();
      zoom(2, 100 * (event.clientX - box.left) / box.width, 100 * (event.clientY - box.top) / box.height);
    });
    if (!frame.hasAttribute("tabindex")) return;
    frame.addEventListener("pointerdown", (event) => {
      if (place.zoom > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!frame.hasPointerCapture(event.pointerId)) return;
      const box = size();
      place.x += 100 * event.movementX / box.width / place.zoom;
      place.y += 100 * event.movementY / box.height / place.zoom;
      show();
    });
    frame.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const move = moves[event.key];
      if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 2 : 0.5);
      else if (move && place.zoom > 1) {
        place.x += 10 * move[0] / place.zoom;
        place.y += 10 * move[1] / place.zoom;
        show();
      } else return;
      event.preventDefault();
    });
  });
  all(".tools").forEach((tools) => { tools.hidden = false; });

  // Tables are sorted by the first number in a cell, else by its text.
  const number = (text) => {
    const found = text.replace("−", "-").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? Number(found[0]) : NaN;
  };
  all("table").forEach((table) => {
    const body = table.tBodies[0];
    const cells = (column) => [...body.rows].map((row) => row.cells[column]);
    all("th", table).forEach((head, column) => {
      const texts = cells(column).map((cell) => cell.textContent.trim());
      const numeric = texts.every((text) => /^[-+−]?\d/.test(text) || text === "-" || text === "");
      head.classList.toggle("number", numeric);
      cells(column).forEach((cell) => {
        cell.classList.toggle("number", numeric);
        cell.classList.toggle("long", cell.textContent.length > 60);
      });
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const text = (row) => row.cells[column].textContent.trim();
        const order = (a, b) => numeric
          ? number(text(a)) - number(text(b))
          : text(a).localeCompare(text(b));
        const known = (row) => !numeric || !Number.isNaN(number(text(row)));
        const rows = [...body.rows];
        const sorted = rows.filter(known).sort((a, b) => (down ? -1 : 1) * order(a, b));
        body.append(...sorted, ...rows.filter((row) => !known(row)));
      });
    });
  });

  const theme = document.querySelector("#theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
