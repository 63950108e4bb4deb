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
  const DIMENSIONS = ["valence", "arousal"];

  // A label has a number, a set of labels a list of numbers, and an answer that could not be read has null.
  function named(labels, label) {
    if (Array.isArray(label)) return label.map((one) => labels[one]).join(" + ") || "none";
    return labels[label] ?? "unparsed";
  }

  const clips = benchmarks.flatMap((benchmark, place) =>
    benchmark.clips.map((clip) => {
      const labels = benchmark.labels;
      const right = clip.answers.map((answer, i) => 2 * answer.right > benchmark.systems[i].runs);
      const said = clip.answers.flatMap((answer) => answer.said.map((label) => named(labels, label)));
      const text = [clip.id, clip.text ?? "", named(labels, clip.truth), ...said].join("\n").toLowerCase();
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
    const names = clip.answers[i].said.map((label) => named(clip.benchmark.labels, label));
    return [...new Set(names)].join(" / ");
  }

  function verdictOf(clip, i) {
    const runs = clip.benchmark.systems[i].runs;
    const { overlap } = clip.answers[i];
    const word = clip.right[i] ? "right" : overlap ? `overlap ${percent(overlap)} %` : "wrong";
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
        "aria-label": `${clip.id}, ${words(clip.subset)}, true label ${named(labels, clip.truth)}; ${spoken.join("; ")}`,
      },
      element("div", { class: "line" }, element("code", { text: clip.id }), element("span", { text: named(labels, clip.truth) })),
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

  function truthName(clip) {
    if (Array.isArray(clip.truth)) return "true labels";
    return clip.score === undefined && clip.series === undefined ? "true label" : "true class";
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
        element("span", {}, `${truthName(clip)}: `, element("b", { text: named(labels, clip.truth) })),
        clip.score === undefined ? null : element("span", {}, "true score: ", element("b", { text: clip.score.toFixed(3) })),
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
    if (answer.scores) {
      const scores = answer.scores.map((score) => score?.toFixed(3) ?? "none");
      card.append(element("p", { text: `score ${scores.join(" / ")}` }));
    }
    if (clip.series) card.append(...DIMENSIONS.map((name, place) => lines(clip, answer, name, place, colours[system.name])));
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

  // Truth and one system's mean over its runs, with gaps where a step is not annotated.
  function lines(clip, answer, name, place, colour) {
    const [wide, high] = [240, 70];
    const columns = [["truth", clip.series], [colour, answer.series ?? []]];
    const values = columns.flatMap(([, series]) => series.map((step) => step[place])).filter((value) => value !== null);
    const [low, top] = [Math.min(-1, ...values), Math.max(1, ...values)];
    const last = Math.max(1, clip.series.length - 1);
    const x = (step) => ((wide * step) / last).toFixed(1);
    const y = (value) => ((high * (top - value)) / (top - low)).toFixed(1);
    const drawing = drawn("svg", {
      class: "lines", viewBox: `-3 -3 ${wide + 6} ${high + 6}`, role: "img", "aria-label": `${name} by step, truth and answer`,
    });
    drawing.append(drawn("line", { class: "zero", x1: 0, x2: wide, y1: y(0), y2: y(0) }));
    for (const [css, series] of columns) {
      let path = "";
      series.forEach((step, i) => {
        const here = step[place];
        if (here === null) return;
        const alone = (series[i - 1]?.[place] ?? null) === null;
        path += `${alone ? "M" : "L"}${x(i)} ${y(here)}${alone ? "h0" : ""}`;
      });
      if (path) drawing.append(drawn("path", { class: `line ${css}`, d: path }));
    }
    const steps = clip.steps > clip.series.length ? `${clip.series.length} of ${clip.steps} steps` : `${clip.steps} steps`;
    return element("figure", {}, element("figcaption", { text: `${name}, ${low.toFixed(1)} to ${top.toFixed(1)}, ${steps}` }), drawing);
  }

  function drawn(tag, options) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(options)) node.setAttribute(name, value);
    return node;
  }

  function evidence(clip, answer, colour) {
    const columns = Object.keys(COLUMNS).filter((key) => answer[key]);
    if (!columns.length) return null;
    const { labels } = clip.benchmark;
    const sets = Array.isArray(clip.truth);
    const isTrue = (label) => (sets ? clip.truth.includes(label) : label === clip.truth);
    const chosen = (label) => answer.said.some((set) => set?.includes(label));
    const weight = (label) => Math.max(...columns.map((key) => answer[key][label]));
    let order = labels.map((_, label) => label);
    if (order.length > MOST_LABELS) {
      const likely = [...order].sort((a, b) => weight(b) - weight(a)).slice(0, MOST_LABELS);
      order = order.filter((label) => isTrue(label) || likely.includes(label));
    }
    const best = Object.fromEntries(columns.map((key) => [key, answer[key].indexOf(Math.max(...answer[key]))]));
    const cell = (key, label) => {
      const fill = element("i");
      fill.style.width = `${100 * answer[key][label]}%`;
      const bar = element("span", { class: key, "aria-hidden": "true" }, fill);
      const top = sets ? key === "joint" && chosen(label) : best[key] === label;
      return element("td", { class: top ? "top" : "" }, `${percent(answer[key][label])} %`, bar);
    };
    const head = ["label", ...columns.map((key) => COLUMNS[key])];
    const rows = order.map((label) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", class: isTrue(label) ? "true" : "", text: labels[label] + (isTrue(label) ? " ✓" : "") }),
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
