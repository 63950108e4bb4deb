"use strict";
// Browses the clips of the page. Text from models and manifests only ever becomes textContent.
(() => {
  const { benchmarks, colours } = JSON.parse(document.getElementById("clip-data").textContent);
  const find = document.getElementById("find");
  const subset = document.getElementById("subset");
  const pattern = document.getElementById("pattern");
  const count = document.getElementById("count");
  const list = document.getElementById("list");
  const detail = document.getElementById("detail");
  const COLUMNS = { joint: "answer", face: "face alone", voice: "voice alone", words: "text alone" };
  const MOST_LABELS = 12;
  const PAGE = 8;

  const clips = benchmarks.flatMap((benchmark, place) =>
    benchmark.clips.map((clip) => {
      const labels = benchmark.labels;
      const right = clip.answers.map((answer, i) => 2 * answer.right > benchmark.systems[i].runs);
      const said = clip.answers.flatMap((answer) => answer.said.map((label) => labels[label] ?? "unparsed"));
      const text = [clip.id, clip.text ?? "", labels[clip.truth], ...said].join("\n").toLowerCase();
      return { ...clip, benchmark, place, right, haystack: text };
    }),
  );
  let shown = [];
  let chosen = null;

  function element(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "text") node.textContent = value;
      else if (name === "class") node.className = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  const words = (name) => name.replaceAll("_", " ");
  const percent = (share) => `${(100 * share).toFixed(0)}`;

  function answerOf(clip, i) {
    const names = [...new Set(clip.answers[i].said)].map((label) => clip.benchmark.labels[label] ?? "unparsed");
    return names.join(" / ");
  }

  function verdictOf(clip, i) {
    const runs = clip.benchmark.systems[i].runs;
    const word = clip.right[i] ? "right" : "wrong";
    return runs === 1 ? word : `${word}, ${clip.answers[i].right} of ${runs} runs right`;
  }

  // Filters ---------------------------------------------------------------------------------------------------------

  const names = [...new Set(benchmarks.flatMap((benchmark) => benchmark.systems.map((system) => system.name)))];
  const patterns = [
    ["all answers", () => true],
    ["all systems wrong", (clip) => !clip.right.includes(true)],
    ["systems disagree", (clip) => clip.right.includes(true) && clip.right.includes(false)],
    ["all systems right", (clip) => !clip.right.includes(false)],
  ];
  const position = (clip, name) => clip.benchmark.systems.findIndex((system) => system.name === name);
  for (const name of names) {
    const alone = (clip, verdict) => {
      const own = position(clip, name);
      return own >= 0 && clip.right.every((right, i) => right === (i === own ? verdict : !verdict));
    };
    patterns.push([`${words(name)} wrong`, (clip) => clip.right[position(clip, name)] === false]);
    if (names.length > 1) {
      patterns.push([`only ${words(name)} wrong`, (clip) => alone(clip, false)]);
      patterns.push([`only ${words(name)} right`, (clip) => alone(clip, true)]);
    }
  }
  patterns.forEach(([name], i) => pattern.append(element("option", { value: i, text: name })));

  function filter() {
    const wanted = find.value.trim().toLowerCase();
    const accepts = patterns[pattern.value || 0][1];
    shown = clips.filter(
      (clip) =>
        (!subset.value || subset.value === `${clip.place}:${clip.subset}`) &&
        accepts(clip) &&
        clip.haystack.includes(wanted),
    );
    list.replaceChildren(...shown.map(item));
    if (!shown.length) list.append(element("li", { class: "empty", text: "No clip matches.", role: "presentation" }));
    count.textContent = `${shown.length} of ${clips.length} clips`;
    choose(Math.max(0, shown.indexOf(chosen)));
  }

  // List ------------------------------------------------------------------------------------------------------------

  function item(clip, i) {
    const { labels, systems } = clip.benchmark;
    const marks = systems.map((system, k) =>
      element(
        "span",
        { class: clip.right[k] ? "right" : "", title: words(system.name) },
        element("i", { class: colours[system.name], "aria-hidden": "true" }),
        `${clip.right[k] ? "✓" : "✗"} ${answerOf(clip, k)}`,
      ),
    );
    const spoken = systems.map((system, k) => `${words(system.name)}: ${answerOf(clip, k)}, ${verdictOf(clip, k)}`);
    return element(
      "li",
      {
        id: `clip-${i}`,
        role: "option",
        "aria-selected": "false",
        "aria-label": `${clip.id}, ${words(clip.subset)}, true label ${labels[clip.truth]}; ${spoken.join("; ")}`,
      },
      element("div", { class: "line" }, element("code", { text: clip.id }), element("span", { text: labels[clip.truth] })),
      element("div", { class: "marks" }, ...marks),
    );
  }

  function choose(i) {
    const clip = shown[i] ?? null;
    list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    if (clip === null) {
      list.removeAttribute("aria-activedescendant");
    } else {
      const row = list.children[i];
      row.setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", row.id);
      keepInView(row);
    }
    if (clip !== chosen || !clip) show(clip);
    chosen = clip;
  }

  // scrollIntoView would move the page as well.
  function keepInView(row) {
    const [outer, inner] = [list.getBoundingClientRect(), row.getBoundingClientRect()];
    if (inner.top < outer.top + 6) list.scrollTop -= outer.top + 6 - inner.top;
    else if (inner.bottom > outer.bottom - 6) list.scrollTop += inner.bottom - outer.bottom + 6;
  }

  // Detail ----------------------------------------------------------------------------------------------------------

  function show(clip) {
    detail.querySelectorAll("video, audio").forEach((player) => player.pause());
    if (clip === null) {
      detail.replaceChildren(element("p", { class: "note", text: "No clip chosen." }));
      return;
    }
    const { name, labels, systems } = clip.benchmark;
    const where = benchmarks.length > 1 ? `${name}, ` : "";
    detail.replaceChildren(
      element("h3", {}, element("code", { text: clip.id })),
      element(
        "p",
        { class: "facts" },
        element("span", { text: where + words(clip.subset) }),
        element("span", {}, "true label: ", element("b", { text: labels[clip.truth] })),
      ),
      ...media(clip),
      clip.text ? element("blockquote", { text: clip.text }) : element("blockquote", { class: "none", text: "no transcript" }),
      element("div", { class: "verdicts" }, ...systems.map((system, i) => verdict(clip, system, i))),
    );
  }

  function media(clip) {
    const parts = [];
    for (const kind of ["video", "audio"]) {
      if (!clip[kind]) continue;
      const player = element(kind, { src: clip[kind], controls: "", preload: "metadata", "aria-label": `${kind} of ${clip.id}` });
      player.muted = kind === "video" && clip.muted;
      player.addEventListener("error", () =>
        player.replaceWith(element("p", { class: "nomedia", text: `This browser cannot play ${decodeURI(clip[kind])}.` })),
      );
      parts.push(player);
    }
    if (clip.video && clip.muted) {
      parts.push(element("p", { class: "note", text: "Muted: the model was not given the sound of this file." }));
    }
    for (const path of clip.lost) parts.push(element("p", { class: "nomedia", text: `Not found when this page was written: ${path}` }));
    if (!parts.length) parts.push(element("p", { class: "nomedia", text: "This clip has no video, and no sound file is known." }));
    return parts;
  }

  function verdict(clip, system, i) {
    const answer = clip.answers[i];
    const card = element(
      "section",
      { class: "verdict", "aria-label": words(system.name) },
      element("h4", {}, element("i", { class: colours[system.name], "aria-hidden": "true" }), words(system.name)),
      element(
        "p",
        {},
        element("span", { class: clip.right[i] ? "said right" : "said", text: `${clip.right[i] ? "✓" : "✗"} ${answerOf(clip, i)}` }),
        ` (${verdictOf(clip, i)})`,
      ),
    );
    if (answer.conflict !== undefined) {
      const targets = [...new Set(answer.steered)].map((target) => ({ audio: "steered to the voice", visual: "steered to the face" })[target] ?? "left alone");
      card.append(element("p", { text: `conflict ${answer.conflict.toFixed(2)}, ${targets.join(" / ")}` }));
    }
    if (answer.attention) {
      const [before, after] = answer.attention;
      const share = (i) => `${percent(before[i])} → ${percent(after[i])} %`;
      card.append(element("p", { text: `attention: voice ${share(0)}, face ${share(1)}` }));
    }
    for (const wording of answer.wordings ?? []) card.append(element("p", { text: `“${wording}”` }));
    for (const reason of answer.reasons ?? []) card.append(element("p", { text: `unparsed: ${reason}` }));
    const table = evidence(clip, answer, colours[system.name]);
    if (table) card.append(table);
    return card;
  }

  function evidence(clip, answer, colour) {
    const columns = Object.keys(COLUMNS).filter((key) => answer[key]);
    if (!columns.length) return null;
    const { labels } = clip.benchmark;
    const weight = (label) => Math.max(...columns.map((key) => answer[key][label]));
    let order = labels.map((_, label) => label);
    if (order.length > MOST_LABELS) {
      const likely = [...order].sort((a, b) => weight(b) - weight(a)).slice(0, MOST_LABELS);
      order = order.filter((label) => label === clip.truth || likely.includes(label));
    }
    const best = Object.fromEntries(columns.map((key) => [key, answer[key].indexOf(Math.max(...answer[key]))]));
    const cell = (key, label) => {
      const fill = element("i");
      fill.style.width = `${100 * answer[key][label]}%`;
      const bar = element("span", { class: key, "aria-hidden": "true" }, fill);
      return element("td", { class: best[key] === label ? "top" : "" }, `${percent(answer[key][label])} %`, bar);
    };
    const head = ["label", ...columns.map((key) => COLUMNS[key])];
    const rows = order.map((label) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", class: label === clip.truth ? "true" : "", text: labels[label] + (label === clip.truth ? " ✓" : "") }),
        ...columns.map((key) => cell(key, label)),
      ),
    );
    const table = element(
      "table",
      { class: "evidence" },
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col", text })))),
      element("tbody", {}, ...rows),
    );
    table.style.setProperty("--own", `var(--${colour})`);
    return table;
  }

  // Keys ------------------------------------------------------------------------------------------------------------

  list.addEventListener("click", (event) => {
    const row = event.target.closest("[role=option]");
    if (row) choose([...list.children].indexOf(row));
  });
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = shown.length - 1;
    const now = shown.indexOf(chosen);
    const steps = {
      ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - PAGE, PageDown: now + PAGE, Home: 0, End: last,
    };
    if (event.key in steps) choose(Math.min(Math.max(steps[event.key], 0), last));
    else if (event.key === "Enter") detail.focus();
    else return;
    event.preventDefault();
  });
  detail.addEventListener("keydown", (event) => {
    if (event.key === "Escape") list.focus();
  });
  find.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    list.focus();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    find.focus();
    find.select();
  });
  find.addEventListener("input", filter);
  subset.addEventListener("change", filter);
  pattern.addEventListener("change", filter);

  document.getElementById("browser").hidden = false;
  filter();
})();
