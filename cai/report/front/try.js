// Try the constitution: edit a principle, and see at once what becomes of some prompts.
// Only a page that `cai view` serves has this; the server does the work and streams its steps.
{
  const part = Object.fromEntries(
    [
      "about", "error", "bench", "editor", "principle", "origin", "texts", "findings", "save", "undo", "reload",
      "saved", "ask", "words", "pick", "draw", "rounds", "reasoning", "again", "status", "trials",
    ].map((id) => [id, document.getElementById(`try-${id}`)]),
  );
  const HALVES = {
    critique: "Critique: what to look for",
    revision: "Revision: how to rewrite",
    comparison: "Comparison: which response is better",
  };
  const PAUSE = 400; // Milliseconds without a keystroke before the model is asked.

  let facts;
  let seed = 0;
  const edits = new Map(); // "principle half" to words that are not saved.
  const chosen = []; // Prompts on trial: {name, wish, node, head, shown}.
  const before = new Map(); // What came out under the file as it is, by what was asked.
  let running = null;
  let timer = null;
  let findings = [];

  const place = (principle, half) => `${principle} ${half}`;
  const principle = () => facts.principles.find((one) => one.id === part.principle.value);
  // A textarea makes one line end of each; what is compared with what it says must do so too.
  const typed = (words) => words.replace(/\r\n?/g, "\n");

  function alarm(message) {
    part.error.textContent = message ?? "";
    part.error.hidden = !message;
  }

  async function ask(path, body, signal) {
    const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
    let answer;
    try {
      answer = await fetch(path, { ...options, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is `cai view` still running?");
    }
    if (!answer.ok && answer.status !== 422) {
      const said = await answer.json().then((facts) => facts.error, () => null);
      if (answer.status === 409) part.reload.hidden = false;
      throw new Error(said ?? `The server answered with status ${answer.status}.`);
    }
    return answer;
  }

  // The editor.

  function drawPrinciple() {
    const { id, own, from, weight, description, texts } = principle();
    const told = [own ? null : `From ${from}. Edit it in that file; here it can only be tried.`, weight === 1 ? null : `Weight ${weight}.`, description];
    part.origin.textContent = told.filter(Boolean).join(" ");
    part.texts.replaceChildren(
      ...Object.entries(texts).flatMap(([half, { text: words, hidden }]) => {
        const area = element("textarea", { id: `try-${half}`, rows: "2", "data-half": half, spellcheck: "true", "aria-describedby": `try-${half}-findings` });
        area.value = edits.get(place(id, half)) ?? words;
        area.readOnly = !own;
        area.addEventListener("input", () => edit(id, half, area.value));
        const label = element("label", { for: area.id }, HALVES[half], element("span", { class: "tag" }));
        const list = element("ul", { class: "findings", id: `try-${half}-findings` });
        const note = hidden ? element("p", { class: "note" }, "This text has invisible characters, or characters that change the order of others.") : null;
        return [label, area, note, list].filter((node) => node !== null);
      }),
    );
    drawState();
  }

  function edit(id, half, words) {
    if (words === typed(facts.principles.find((one) => one.id === id).texts[half].text)) edits.delete(place(id, half));
    else edits.set(place(id, half), words);
    part.saved.textContent = "";
    drawState();
    soon();
  }

  function drawState() {
    const { id, own } = principle();
    for (const area of part.texts.querySelectorAll("textarea")) {
      const { half } = area.dataset;
      const mine = findings.filter((found) => found.principle === id && found.half === half);
      area.setAttribute("aria-invalid", String(mine.some((found) => found.severity === "error")));
      part.texts.querySelector(`#try-${half}-findings`).replaceChildren(...mine.map(drawFinding));
      part.texts.querySelector(`label[for=try-${half}] .tag`).textContent = edits.has(place(id, half)) ? "edited" : "";
    }
    const rest = findings.filter((found) => !(found.principle === id && found.half));
    part.findings.replaceChildren(...rest.map(drawFinding));
    for (const option of part.principle.options)
      option.textContent = option.value + ([...edits.keys()].some((key) => key.startsWith(`${option.value} `)) ? " (edited)" : "");
    const broken = findings.some((found) => found.severity === "error");
    part.save.disabled = edits.size === 0 || broken;
    part.undo.disabled = edits.size === 0;
    part.save.textContent = facts.copy ? "Save a copy" : "Save";
    part.save.title = facts.target;
    if (!own) part.origin.hidden = false;
  }

  function drawFinding(found) {
    return element("li", { class: found.severity }, element("b", {}, `${found.severity}: `), found.message);
  }

  async function save() {
    alarm();
    part.saved.textContent = "Saving …";
    try {
      const answer = await ask("api/save", { version: facts.version, edits: wanted() });
      findings = (await answer.json()).findings;
      if (answer.ok) {
        const { target, diff } = facts;
        await load();
        before.clear();
        soon();
        part.saved.replaceChildren(`Saved to ${target}. This command lists the rows of the run that it changes: `, element("code", {}, diff));
      } else part.saved.textContent = "Not saved: fix the marked errors first.";
      drawState();
    } catch (error) {
      part.saved.textContent = "";
      alarm(error.message);
    }
  }

  const wanted = () =>
    [...edits].map(([key, words]) => {
      const [id, half] = key.split(" ");
      return { principle: id, half, text: words };
    });

  // Prompts.

  function add(name, wish, tag) {
    if (chosen.length >= facts.most) {
      alarm(`At most ${facts.most} prompts at a time: remove one first.`);
      return false;
    }
    const body = element("div", { class: "body" });
    const remove = element("button", { type: "button", "aria-label": `Remove: ${name}` }, "Remove");
    const head = element("h3", {}, name, tag ? element("small", {}, tag) : null);
    const node = element("article", { class: "trial" }, element("header", {}, head, remove), body);
    const one = { name, wish, node, body, steps: [] };
    remove.addEventListener("click", () => {
      chosen.splice(chosen.indexOf(one), 1);
      node.remove();
      part.words.focus();
      soon();
    });
    chosen.push(one);
    part.trials.append(node);
    return true;
  }

  function addOfRun(prompt) {
    const tag = [prompt.kind, prompt.category, prompt.turns > 1 ? `the last of ${prompt.turns} turns` : ""];
    return add(prompt.opening, { key: prompt.key }, tag.filter(Boolean).join(" · "));
  }

  // One red-team prompt that the principle seems to be about, if any is, and one that it is not.
  function startWith() {
    const { id, tags } = principle();
    const red = facts.prompts.filter((prompt) => prompt.kind === "red-team");
    const near = red.find((prompt) => prompt.category === id || tags.includes(prompt.category));
    const far = red.find((prompt) => prompt.category !== (near ?? red[0]).category) ?? red.find((prompt) => prompt !== (near ?? red[0]));
    for (const prompt of [near ?? red[0], far]) if (prompt) addOfRun(prompt);
  }

  function offerPrompts() {
    const groups = new Map();
    for (const prompt of facts.prompts) {
      const title = [prompt.kind, prompt.category].filter(Boolean).join(", ");
      if (!groups.has(title)) groups.set(title, element("optgroup", { label: title }));
      groups.get(title).append(element("option", { value: prompt.key }, prompt.opening));
    }
    part.pick.replaceChildren(element("option", { value: "" }, "add one …"), ...groups.values());
    part.pick.parentNode.hidden = groups.size === 0;
  }

  // Trials.

  function soon(pause = PAUSE) {
    running?.abort();
    running = null;
    clearTimeout(timer);
    timer = setTimeout(run, pause);
  }

  const status = (words, busy = false) => {
    part.status.textContent = words;
    part.status.toggleAttribute("data-busy", busy);
  };

  async function run() {
    const mine = new AbortController();
    running = mine;
    alarm();
    const body = {
      version: facts.version,
      edits: wanted(),
      prompts: chosen.map((one) => one.wish),
      principle: part.draw.value ? part.principle.value : null,
      rounds: Number(part.rounds.value),
      reasoning: Boolean(part.reasoning.value),
      seed,
    };
    const trials = chosen.map((one) => ({ ...one, asked: JSON.stringify([one.wish, body.principle, body.rounds, body.reasoning, seed]), steps: [], end: null }));
    try {
      status("Sending …", true);
      const answer = await ask("api/try", body, mine.signal);
      for await (const event of lines(answer.body)) {
        if (running !== mine) return;
        heed(event, trials);
      }
    } catch (error) {
      if (running !== mine) return;
      status("");
      if (error.name !== "AbortError") alarm(error.message);
    }
    for (const one of trials) one.node.setAttribute("aria-busy", "false");
  }

  async function* lines(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const line of parts) yield JSON.parse(line);
    }
  }

  function heed(event, trials) {
    const one = trials[event.prompt];
    const told = {
      findings() {
        findings = event.findings;
        drawState();
        if (findings.some((found) => found.severity === "error")) status("Not tried: fix the marked errors first.");
      },
      waiting: () => status("The model is busy with another page. Please wait.", true),
      loading: () => status(`Loading ${event.model} …`, true),
      started() {
        status(trials.length ? "The model is answering …" : "Add a prompt to try.", trials.length > 0);
        for (const trial of trials) trial.node.setAttribute("aria-busy", "true");
        for (const trial of trials) for (const node of trial.body.children) node.classList.add("old");
      },
      step() {
        one.steps.push(event);
        draw(one);
      },
      verdict() {
        one.end = event;
        finish(one);
      },
      failed() {
        one.end = event;
        finish(one);
      },
      done() {
        for (const trial of trials) if (!trial.end) finish(trial);
        status(trials.length ? `Done in ${event.seconds.toFixed(1)} s. Sample ${seed + 1}.` : "Add a prompt to try.");
      },
      error() {
        status("");
        alarm(event.message);
      },
    };
    told[event.event]?.();
  }

  function finish(one) {
    one.node.setAttribute("aria-busy", "false");
    draw(one);
    if (edits.size === 0) before.set(one.asked, { steps: one.steps, end: one.end });
  }

  function draw(one) {
    const nodes = drawTrial(one, edits.size ? before.get(one.asked) : undefined, part.principle.value);
    // What is not there yet is shown as it was, until it comes.
    const kept = one.end ? [] : [...one.body.children].slice(nodes.length).filter((node) => node.classList.contains("old"));
    one.body.replaceChildren(...nodes, ...kept);
  }

  // Putting it together.

  async function load() {
    facts = await (await ask("api/constitution")).json();
    findings = facts.findings;
    const kept = part.principle.value;
    part.principle.replaceChildren(...facts.principles.map(({ id }) => element("option", { value: id }, id)));
    if (facts.principles.some(({ id }) => id === kept)) part.principle.value = kept;
    for (const key of edits.keys()) {
      const [id, half] = key.split(" ");
      const found = facts.principles.find((one) => one.id === id);
      const written = found?.own ? found.texts[half] : undefined;
      if (!written || typed(written.text) === edits.get(key).trim()) edits.delete(key);
    }
    const reviser = facts.reviser ? ` The run’s reviser, ${facts.reviser}, is not used here.` : "";
    const judge = facts.feedback ? ` The run’s feedback model, ${facts.feedback}, is not used here.` : "";
    const where = facts.copy ? `The file itself does not change: Save writes a copy, ${facts.target}.` : `Save writes to ${facts.path}.`;
    const strange = facts.model === "playground" && facts.name !== "playground" ? " The playground’s tiny model knows only the principles of its own constitution: use another model with --model." : "";
    part.about.textContent = `Edit a principle of ${facts.name} and see the output of the model ${facts.model}, on training prompts or your own. ${where}${judge}${strange}`;
    offerPrompts();
    part.reload.hidden = true;
    drawPrinciple();
  }

  async function start() {
    await load();
    part.bench.hidden = false;
    part.rounds.value = String(facts.rounds);
    part.reasoning.value = facts.reasoning ? "yes" : "";
    part.words.maxLength = facts.longest;
    startWith();
    part.principle.addEventListener("change", () => {
      drawPrinciple();
      soon(0);
    });
    part.editor.addEventListener("submit", (event) => {
      event.preventDefault();
      save();
    });
    part.editor.addEventListener("keydown", (event) => {
      if (event.key !== "s" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      if (!part.save.disabled) save();
    });
    part.undo.addEventListener("click", () => {
      edits.clear();
      drawPrinciple();
      soon(0);
    });
    part.reload.addEventListener("click", async () => {
      try {
        await load();
        before.clear();
        soon(0);
      } catch (error) {
        alarm(error.message);
      }
    });
    part.ask.addEventListener("submit", (event) => {
      event.preventDefault();
      const words = part.words.value.trim();
      if (!words) return part.words.focus();
      if (!add(words, { text: words }, "your own")) return;
      part.words.value = "";
      soon(0);
    });
    part.words.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        part.ask.requestSubmit();
      }
    });
    part.pick.addEventListener("change", () => {
      const prompt = facts.prompts.find(({ key }) => key === part.pick.value);
      part.pick.value = "";
      if (prompt && addOfRun(prompt)) soon(0);
    });
    for (const choice of [part.draw, part.rounds, part.reasoning]) choice.addEventListener("change", () => soon(0));
    part.again.addEventListener("click", () => {
      seed += 1;
      soon(0);
    });
    window.addEventListener("beforeunload", (event) => {
      if (edits.size) event.preventDefault();
    });
    run();
  }

  start().catch((error) => {
    part.about.textContent = "";
    alarm(error.message);
  });
}
