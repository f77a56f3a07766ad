// The browser of rows: search, filter, sort, and links to single rows in the page's hash.

const page = Object.fromEntries(
  ["browser", "no-rows", "search", "shows", "filters", "sort", "clear", "count", "list", "none", "detail"].map(
    (id) => [id, document.getElementById(id)],
  ),
);

async function unpack() {
  const packed = atob(document.getElementById("packed-rows").textContent.trim());
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// What is asked for: `show`, `q`, `sort`, `row`, and a value per facet. All of it is in the hash.
let asked = {};
let data;
let list;
const haystacks = new Map();

function haystack(row) {
  if (!haystacks.has(row)) {
    const words = [row.key, ...(row.also ?? []), row.error];
    const gather = (value) => {
      if (typeof value === "string") words.push(value);
      else if (value && typeof value === "object") Object.values(value).forEach(gather);
    };
    gather(row.messages);
    gather(row.body);
    haystacks.set(row, words.join("\n").toLowerCase());
  }
  return haystacks.get(row);
}

function matching() {
  const facets = Object.keys(data.facets).filter((name) => asked[name]);
  const words = (asked.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const rows = data.rows.filter(
    (row) =>
      row.show === asked.show &&
      facets.every((name) => row.facets[name]?.includes(asked[name])) &&
      words.every((word) => haystack(row).includes(word)),
  );
  const [order, direction] = (asked.sort ?? "").split(" ");
  if (!order) return rows;
  const sign = direction === "up" ? 1 : -1;
  const known = rows.filter((row) => Object.hasOwn(row.orders, order));
  known.sort((a, b) => sign * (a.orders[order] - b.orders[order]));
  return [...known, ...rows.filter((row) => !Object.hasOwn(row.orders, order))];
}

const has = (row, key) => row.key === key || row.also?.includes(key);

function hash(changes = {}) {
  const wanted = Object.entries({ ...asked, ...changes }).filter(([, value]) => value);
  return `#${new URLSearchParams(wanted)}`;
}

function ask(changes) {
  asked = { ...asked, ...changes };
  history.replaceState(null, "", hash());
  update();
}

function update() {
  const rows = matching();
  const total = data.totals[asked.show] ?? 0;
  const held = data.rows.filter((row) => row.show === asked.show).length;
  let place = rows.findIndex((row) => asked.row && has(row, asked.row));
  if (place < 0 && rows.length) place = 0;
  list.fill(rows, place);
  detail(rows[place]);
  page.none.hidden = rows.length > 0;
  page.count.textContent =
    `${rows.length.toLocaleString("en")} of ${held.toLocaleString("en")}` +
    (total > held ? `, a sample of ${total.toLocaleString("en")} in the run’s files` : "");
  page.clear.hidden = !Object.keys(asked).some((name) => asked[name] && !["show", "row"].includes(name));
  controls();
}

function detail(row) {
  page.detail.replaceChildren(...(row ? drawDetail(row, hash({ row: row.key })) : []));
  page.detail.scrollTop = 0;
}

function options(select, values, first) {
  select.replaceChildren(
    element("option", { value: "" }, first),
    ...values.map(([value, title]) => element("option", { value }, title)),
  );
}

const facetSelects = () => page.filters.querySelectorAll("select[data-facet]");

// Filters and orders offer what the shown sort of rows has, with counts.
let offered;

function offer(show) {
  offered = show;
  const rows = data.rows.filter((row) => row.show === show);
  for (const select of facetSelects()) {
    const counts = new Map();
    for (const row of rows)
      for (const value of new Set(row.facets[select.dataset.facet] ?? []))
        counts.set(value, (counts.get(value) ?? 0) + 1);
    const values = [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
    options(select, values.map(([value, n]) => [value, `${value} (${n.toLocaleString("en")})`]), "all");
  }
  const known = Object.keys(data.orders).filter((name) => rows.some((row) => Object.hasOwn(row.orders, name)));
  const orders = known.flatMap((name) => [
    [`${name} down`, `${data.orders[name]}, high to low`],
    [`${name} up`, `${data.orders[name]}, low to high`],
  ]);
  options(page.sort, orders, "most interesting");
}

function controls() {
  if (offered !== asked.show) offer(asked.show);
  for (const input of page.shows.querySelectorAll("input")) input.checked = input.value === asked.show;
  if (page.search.value !== (asked.q ?? "")) page.search.value = asked.q ?? "";
  for (const select of facetSelects()) {
    const chosen = asked[select.dataset.facet] ?? "";
    select.value = chosen;
    if (select.value !== chosen) {
      select.append(element("option", { value: chosen }, `${chosen} (0)`));
      select.value = chosen;
    }
    select.parentNode.hidden = select.options.length < 3 && !chosen;
  }
  page.sort.value = asked.sort ?? "";
}

const labelPath = (labels) => [...labels.slice(0, -1).map(dot), chip(labels.at(-1))];

function drawListRow(row) {
  const opening = row.messages.at(-1)?.[1] || "(an empty conversation)";
  const { label } = row.body;
  const end =
    row.show === "comparison" && label !== null
      ? [element("span", {}, two(label))]
      : row.show === "revision"
        ? labelPath(row.body.labels)
        : labelPath((row.body.replies ?? []).map((reply) => reply.label));
  const where = new Set([...row.facets.kind, ...row.facets.category, ...(row.state === "ok" ? [] : [plainly(row.state)])]);
  return [
    element("span", { class: "opening" }, opening),
    element("span", { class: "meta" }, [...where].join(" · "), ...end.filter((node) => node !== null)),
  ];
}

function build() {
  for (const [show, title] of Object.entries(data.shows)) {
    const count = data.rows.filter((row) => row.show === show).length;
    if (!count) continue;
    const input = element("input", { type: "radio", name: "show", value: show });
    page.shows.append(element("label", {}, input, element("span", {}, title, " ", element("small", {}, count.toLocaleString("en")))));
    input.addEventListener("change", () => {
      asked = { q: asked.q };
      ask({ show });
    });
  }
  for (const [facet, title] of Object.entries(data.facets)) {
    const select = element("select", { id: `by-${facet}`, "data-facet": facet });
    const field = element("div", {}, element("label", { for: select.id }, title), select);
    select.addEventListener("change", () => ask({ [facet]: select.value }));
    page.sort.parentNode.before(field);
  }
  page.sort.addEventListener("change", () => ask({ sort: page.sort.value }));
  page.search.addEventListener("input", () => ask({ q: page.search.value }));
  page.clear.addEventListener("click", () => {
    asked = { show: asked.show, row: asked.row };
    ask({});
    page.search.focus();
  });
  list = new RowList(page.list, drawListRow, (row) => {
    asked.row = row.key;
    history.replaceState(null, "", hash());
    detail(row);
  });
}

// Follows a link such as #show=revision&principle=theft; a bare row is found wherever it is.
function follow() {
  const wanted = location.hash.includes("=") ? Object.fromEntries(new URLSearchParams(location.hash.slice(1))) : null;
  if (wanted) {
    const target = wanted.row && data.rows.find((row) => has(row, wanted.row));
    asked = { ...wanted, show: target?.show ?? (Object.hasOwn(data.shows, wanted.show) ? wanted.show : data.rows[0].show) };
  } else {
    asked = { show: asked.show ?? data.rows[0].show };
  }
  update();
  if (wanted) document.getElementById("rows").scrollIntoView();
}

try {
  data = await unpack();
  data.labels.forEach((label) => LABELS.add(label));
  Object.entries(data.flaws).forEach(([flaw, means]) => FLAWS.set(flaw, means));
  if (data.rows.length) {
    page["no-rows"].hidden = true;
    page.browser.hidden = false;
    build();
    follow();
    window.addEventListener("hashchange", follow);
  } else {
    page["no-rows"].textContent = "There are no rows yet.";
  }
} catch (error) {
  page["no-rows"].append(` (${error})`);
}
