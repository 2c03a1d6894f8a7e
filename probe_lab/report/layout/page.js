// Every table sorts by the column whose heading is pressed: numbers by data-key, the rest as text, empty cells last.
// Longer ones can be filtered, and long ones show their first rows until asked for all.
const FILTERED = 24, SHOWN = 50;
const collator = new Intl.Collator("en", { numeric: true });

function key(row, column) {
  const cell = row.cells[column];
  if (!("key" in cell.dataset)) return cell.textContent;
  return cell.dataset.key === "" ? null : Number(cell.dataset.key);
}

function compare(x, y) {
  return typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y);
}

function sorted(rows, column, up) {
  const keyed = rows.map((row) => [key(row, column), row]);
  const known = keyed.filter(([value]) => value !== null).sort(([x], [y]) => (up ? compare(x, y) : compare(y, x)));
  return [...known, ...keyed.filter(([value]) => value === null)].map(([, row]) => row);
}

function number(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u00a0");
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], headings = [...table.tHead.rows[0].cells];
  let rows = [...body.rows], words = [], all = rows.length <= SHOWN;
  const texts = new Map(), count = document.createElement("output"), more = document.createElement("button");

  const text = (row) => {
    if (!texts.has(row)) texts.set(row, [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
    return texts.get(row);
  };
  const show = () => {
    let found = 0;
    for (const row of rows) {
      row.hidden = words.length > 0 && !words.every((word) => text(row).includes(word));
      row.classList.toggle("later", !row.hidden && !all && found >= SHOWN);
      if (!row.hidden) found += 1;
    }
    const shown = all ? found : Math.min(found, SHOWN);
    count.value = shown < rows.length ? `${number(shown)} of ${number(rows.length)} rows` : `${number(rows.length)} rows`;
    more.hidden = shown >= found;
    more.textContent = `Show all ${number(found)}`;
  };

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows = sorted(rows, column, up);
      body.append(...rows);
      show();
    });
  });

  if (rows.length > FILTERED) {
    const tools = document.createElement("div"), input = document.createElement("input");
    tools.className = "tools";
    input.type = "search";
    input.placeholder = "Filter: words of a row";
    input.setAttribute("aria-label", "Filter the rows of this table");
    input.addEventListener("input", () => {
      words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      show();
    });
    more.type = "button";
    more.addEventListener("click", () => {
      all = true;
      show();
    });
    tools.append(input, count, more);
    table.caption.firstElementChild.append(tools);
    show();
  }
}

// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
