// One row in full. Text of models and people only ever becomes text nodes.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Labels that have a colour of their own; the page's data names them.
const LABELS = new Set();
const plainly = (name) => name.replaceAll("_", " ");
const two = (number) => (number === null || number === undefined ? "–" : number.toFixed(2));

// P(a response is better), both orders averaged, or the one that was asked.
const mean = ({ forward, backward }) =>
  forward !== null && backward !== null ? (forward + backward) / 2 : (forward ?? backward);

function chip(label) {
  if (label === null || label === undefined) return null;
  const kind = LABELS.has(label) ? label : "other";
  return element("span", { class: `chip ${kind}` }, element("i"), plainly(label));
}

// Nothing but the colour, for tight places; the word is there for screen readers and on hover.
function dot(label) {
  const made = chip(label);
  if (made) {
    made.title = made.textContent;
    made.replaceChildren(made.firstChild, element("span", { class: "unseen" }, made.title));
  }
  return made;
}

function said(who, ...more) {
  return element("p", { class: "said" }, who, ...more.flatMap((m) => (m === null ? [] : [" ", m])));
}

function text(content) {
  return element("div", { class: "text" }, content || "(empty)");
}

function changes(before, after) {
  const names = { removed: "del", added: "ins" };
  return element(
    "div",
    { class: "text" },
    ...wordDiff(before, after).map(([change, part]) =>
      change === "same" ? part : element(names[change], {}, part),
    ),
  );
}

// What the flaws of texts mean; the page's data says it.
const FLAWS = new Map();

function flawMarks(flaws, where) {
  return flaws
    .filter((found) => found.where === where)
    .map(({ flaw, quote }) => {
      const means = `${where}s with this flaw ${FLAWS.get(flaw) ?? ""}`;
      return element("span", { class: "flaw", title: quote ? `${means}: “${quote}”` : means }, plainly(flaw));
    });
}

// `models` are those of the first response and of the revisions, if they are two.
function drawRevision({ response, labels, models, steps }) {
  const nodes = [said("First response", models[0] ? `by ${models[0]}` : null, chip(labels[0])), text(response)];
  let before = response;
  steps.forEach((step, n) => {
    const principle = element("b", {}, step.principle);
    if (step.critique !== null) {
      nodes.push(
        said(`Critique ${n + 1} under`, principle, ...flawMarks(step.flaws, "critique")),
        text(step.critique),
      );
      nodes.at(-1).classList.add("quiet");
    }
    const same = step.text === before;
    nodes.push(
      said(
        `Revision ${n + 1}`,
        models[1] ? `by ${models[1]}` : null,
        step.critique === null ? principle : null,
        chip(labels[n + 1]),
        same ? element("span", { class: "same" }, "unchanged") : null,
        ...flawMarks(step.flaws, "revision"),
      ),
    );
    if (!same) nodes.push(changes(before, step.text));
    before = step.text;
  });
  return nodes;
}

function drawComparison({ source, label, better, responses, votes }) {
  const columns = responses.map((response, n) => {
    const probability = label === null ? null : n === 0 ? label : 1 - label;
    return element(
      "div",
      {},
      said(`Response ${n + 1}`, response.model || null, chip(response.label)),
      text(response.text),
      probability === null ? null : meter(`P(better) = ${two(probability)}`, probability),
      better === n ? element("p", { class: "truth" }, "The grader ranks this response first.") : null,
    );
  });
  const nodes = [element("div", { class: "columns" }, ...columns)];
  if (source === "human") nodes.push(said("The label is from a person, or simulated."));
  if (votes.length) nodes.push(voteTable(votes, "response 1"));
  for (const vote of votes)
    vote.reasoning.forEach((reasoning, n) => {
      const order = vote.reasoning.length > 1 ? ["(response 1 shown first)", "(response 2 shown first)"][n] : null;
      nodes.push(said("Reasoning under", element("b", {}, vote.principle), order), text(reasoning));
      nodes.at(-1).classList.add("quiet");
    });
  return nodes;
}

function voteTable(votes, whose) {
  const heads = ["Principle", "shown first", "shown second", "mean", "mass", ""];
  const rows = votes.map((vote) => {
    const { forward, backward } = vote;
    const note =
      vote.state !== "ok" ? plainly(vote.state) : vote.agree === false ? "the orders disagree" : "";
    const numbers = [forward, backward, mean(vote), vote.mass];
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, vote.principle),
      ...numbers.map((number) => element("td", { class: "n" }, two(number))),
      element("td", { class: "note" }, note),
    );
  });
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Probabilities by principle" },
    element(
      "table",
      { class: "votes" },
      element("caption", {}, `Probability that ${whose} is better; mass is the probability of both options together`),
      element(
        "thead",
        {},
        element("tr", {}, ...heads.map((head, n) => element(head ? "th" : "td", n && head ? { class: "n", scope: "col" } : head ? { scope: "col" } : {}, head))),
      ),
      element("tbody", {}, ...rows),
    ),
  );
}

function meter(caption, share) {
  const bar = element("i");
  bar.style.width = `${100 * share}%`;
  return element("p", { class: "meter" }, caption, element("span", { "aria-hidden": "true" }, bar));
}

function drawAnswers({ replies }) {
  const columns = replies.map((reply) =>
    element(
      "div",
      {},
      said(element("b", {}, reply.model), chip(reply.label)),
      text(reply.text),
      reply.error ? said(reply.error) : null,
    ),
  );
  return [element("div", { class: "columns" }, ...columns)];
}

const DRAW = { revision: drawRevision, comparison: drawComparison, answers: drawAnswers };

function drawDetail(row, link) {
  const facts = new Set([...row.facets.kind, ...row.facets.category, ...row.facets.found]);
  return [
    element(
      "p",
      { class: "facts" },
      [...facts].join(" · "),
      " · row ",
      element("a", { href: link, title: "A link to this row" }, row.key),
    ),
    row.state === "ok" ? null : said(`State: ${plainly(row.state)}.`, row.error || null),
    ...row.messages.flatMap(([role, content]) => [said(plainly(role)), text(content)]),
    ...DRAW[row.show](row.body),
  ].filter((node) => node !== null);
}
