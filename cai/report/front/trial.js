// One trial of the constitution, as far as it has come.

const requested = (words) => element("p", { class: "asked" }, words);

// Returns the nodes of a trial's steps and end. `earlier` is the same trial before the edit, if it
// was made; what was asked is told where it is not by the principle `under` edit.
function drawTrial({ steps, end }, earlier, under) {
  const nodes = [];
  let last;
  steps.forEach((step, n) => {
    const differs = earlier?.steps[n] && earlier.steps[n].text !== step.text;
    const critique = step.kind === "critique";
    const name = step.kind === "response" ? "First response" : `${critique ? "Critique" : "Revision"} ${step.round}`;
    const principle = critique ? element("b", {}, step.principle) : null;
    const same = step.kind === "revision" && step.text === last;
    nodes.push(
      said(
        name,
        principle && "under",
        principle,
        chip(step.label),
        same ? element("span", { class: "same" }, "unchanged") : null,
        differs ? element("span", { class: "differs" }, "different before the edit") : null,
      ),
    );
    if (step.asked && step.principle !== under) nodes.push(requested(step.asked));
    if (critique) {
      nodes.push(text(step.text));
      nodes.at(-1).classList.add("quiet");
    } else {
      if (!same) nodes.push(last === undefined ? text(step.text) : changes(last, step.text));
      last = step.text;
    }
  });
  if (end?.event === "failed") nodes.push(element("p", { class: "alarm" }, end.message));
  else if (end) nodes.push(...drawVerdict(end, earlier?.end, under));
  return nodes;
}

function drawVerdict({ vote, asked, error }, earlier, under) {
  if (!vote) return [said("No verdict: the response did not change.")];
  const nodes = [said("Verdict under", element("b", {}, vote.principle))];
  if (vote.principle !== under) nodes.push(requested(asked));
  if (vote.state !== "ok") return [...nodes, element("p", { class: "alarm" }, `${plainly(vote.state)}: ${error}`)];
  const now = mean(vote);
  const was = earlier && (earlier.vote ? two(mean(earlier.vote)) : "no verdict");
  const note = was ? element("span", { class: "before" }, `before the edit: ${was}`) : null;
  const better = two(now) === "0.50" ? "Neither is better" : now > 0.5 ? "The revision is better" : "The first response is better";
  nodes.push(
    element("p", { class: "outcome" }, better, note),
    meter(`P(the revision is better) = ${two(now)}`, now),
    voteTable([vote], "the revision"),
  );
  vote.reasoning.forEach((words, n) => {
    const order = vote.reasoning.length > 1 ? ["the first response shown first", "the revision shown first"][n] : "";
    nodes.push(element("details", {}, element("summary", {}, `Reasoning${order && `, ${order}`}`), text(words)));
  });
  return nodes;
}
