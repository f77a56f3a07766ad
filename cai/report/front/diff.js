// What a revision changed, word by word.

const TOKENS = /\s+|[\p{L}\p{N}_’'-]{1,200}|[^\s]/gu;
const isWord = (text) => /[\p{L}\p{N}]/u.test(text);

// Returns [change, text] pairs in reading order; those "same" or "removed" make up `before`, those
// "same" or "added" make up `after`. What is kept is a common subsequence with as many
// words as there can be, and among those one with the most of the rest.
function wordDiff(before, after) {
  const old = before.match(TOKENS) ?? [];
  const now = after.match(TOKENS) ?? [];
  let start = 0;
  while (start < old.length && start < now.length && old[start] === now[start]) start++;
  let tail = 0;
  const room = Math.min(old.length, now.length) - start;
  while (tail < room && old.at(-1 - tail) === now.at(-1 - tail)) tail++;
  const segments = [
    ["same", old.slice(0, start).join("")],
    ...middle(old.slice(start, old.length - tail), now.slice(start, now.length - tail)),
    ["same", tail ? old.slice(-tail).join("") : ""],
  ];
  return merged(segments);
}

function middle(old, now) {
  const width = now.length + 1;
  const common = new Uint32Array((old.length + 1) * width);
  const worth = old.map((token) => (isWord(token) ? 10000 : 1));
  for (let i = old.length - 1; i >= 0; i--)
    for (let j = now.length - 1; j >= 0; j--)
      common[i * width + j] =
        old[i] === now[j]
          ? common[(i + 1) * width + j + 1] + worth[i]
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  const segments = [];
  let i = 0;
  let j = 0;
  while (i < old.length || j < now.length) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      segments.push(["same", old[i++]]);
      j++;
    } else if (j >= now.length || (i < old.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      segments.push(["removed", old[i++]]);
    } else {
      segments.push(["added", now[j++]]);
    }
  }
  return segments;
}

// Joins neighbours. Space and punctuation alone between two changes belong to both: "red, old" to
// "blue, new" is one change and not two.
function merged(segments) {
  const joined = [];
  for (const [change, text] of segments) {
    if (joined.at(-1)?.[0] === change) joined.at(-1)[1] += text;
    else if (text) joined.push([change, text]);
  }
  const result = [];
  const push = (change, text) => {
    if (result.at(-1)?.[0] === change) result.at(-1)[1] += text;
    else if (text) result.push([change, text]);
  };
  const held = { removed: "", added: "" };
  const flush = () => {
    // Space at the end of both is no part of the change.
    let end = 0;
    while (/\s/.test(held.removed.at(-1 - end) ?? "") && held.removed.at(-1 - end) === held.added.at(-1 - end)) end++;
    const space = end ? held.added.slice(-end) : "";
    for (const change of ["removed", "added"]) push(change, held[change].slice(0, held[change].length - end));
    push("same", space);
    held.removed = held.added = "";
  };
  joined.forEach(([change, text], place) => {
    const between = (held.removed || held.added) && place + 1 < joined.length;
    if (change !== "same") {
      held[change] += text;
    } else if (between && !isWord(text)) {
      held.removed += text;
      held.added += text;
    } else {
      flush();
      push(change, text);
    }
  });
  flush();
  return result;
}
