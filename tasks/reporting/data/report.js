"use strict";
// The page is complete without this script: it only draws tooltips faster and nicer, opens what is folded before
// printing, and copies or saves text.
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  // what it says is in the tables too; read aloud at every move of the mouse it would be noise
  tip.setAttribute("aria-hidden", "true");
  const words = new WeakMap();
  // native titles would show a second tooltip
  for (const group of document.querySelectorAll("g.tip")) {
    const title = group.querySelector(":scope > title");
    if (title) { words.set(group, title.textContent); title.remove(); }
  }
  const place = (x, y) => {
    const room = 14, width = tip.offsetWidth, height = tip.offsetHeight;
    const left = x + room + width > innerWidth ? x - room - width : x + room;
    const top = y + room + height > innerHeight ? y - room - height : y + room;
    tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
  };
  const show = (event) => {
    const group = event.target instanceof Element ? event.target.closest("g.tip") : null;
    const said = group && words.get(group);
    tip.classList.toggle("on", Boolean(said));
    if (said) { tip.textContent = said; place(event.clientX, event.clientY); }
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show);
  document.addEventListener("scroll", () => tip.classList.remove("on"), { passive: true });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

  const said = (button, text) => {
    const before = button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        said(button, "Copied");
      } catch { said(button, "Not allowed"); }
    });
  }
  for (const button of document.querySelectorAll("[data-save]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const text = document.getElementById(button.dataset.save).textContent;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = `${button.dataset.save}.json`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  // tables that can be sorted by a click on a header, and filtered by words that a row must hold
  const valueOf = (row, column) => {
    const text = row.cells[column].dataset.value;
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], box = table.parentElement.querySelector("input.filter");
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
        rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
        body.append(...rows.map(([, row]) => row));
      });
    }
    box.hidden = false;
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
})();
