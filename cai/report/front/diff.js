// What a revision changed, word by word.

const TOKENS = /\s+|[\p{L}\p{N}_’'-]{1,200}|[^\s]/gu;

// Returns [change, text] pairs in reading order; those "same" or "removed" make up `before`, those
// "same" or "added" make up `after`. What is kept is a common subsequence with as many
// words as there can be, and among those one with as many spaces.
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
  const worth = old.map((token) => (token.trim() ? 10000 : 1));
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

// Joins neighbours. Space alone between two changes belongs to both: "red car" to "blue van" is
// one change and not two.
function merged(segments) {
  const result = [];
  let removed = "";
  let added = "";
  const flush = () => {
    if (removed) result.push(["removed", removed]);
    if (added) result.push(["added", added]);
    removed = added = "";
  };
  segments.forEach(([change, text], place) => {
    if (change === "removed") removed += text;
    else if (change === "added") added += text;
    else if (text) {
      const next = segments[place + 1];
      if ((removed || added) && !text.trim() && next && next[0] !== "same") {
        removed += text;
        added += text;
        return;
      }
      flush();
      if (result.at(-1)?.[0] === "same") result.at(-1)[1] += text;
      else result.push(["same", text]);
    }
  });
  flush();
  return result;
}
