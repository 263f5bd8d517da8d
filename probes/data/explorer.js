"use strict";
// The mosaic explorer: what is chosen is read from the controls, and everything is drawn anew from that.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const KINDS = ["current_token", "token_to_right"];
  const COUNTED = ["either", ...KINDS];
  const LABELS = { current_token: "current token", token_to_right: "token to right", either: "either" };
  const FONT = { family: "Helvetica, Arial, DejaVu Sans, sans-serif", size: 13 };
  const TITLE = { x: 0.01, y: 1, yref: "container", yanchor: "top", pad: { t: 12 } };
  const CONFIG = { displayModeBar: false, responsive: true };
  const MEAN = 0; // the place of the mean on the axis of seeds, where there are several

  const byId = (id) => document.getElementById(id);
  const runs = new Map(data.runs.map((run) => [run.at.join(), run]));
  const runAt = (at) => runs.get(at.join());
  const replaced = (at, axis, place) => at.map((old, i) => (i === axis ? place : old));
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  // Plotly reads marks of HTML in its texts; names are to stay what they are.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function element(tag, text = "", attributes = {}) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(text);
    return made;
  }

  // ---- numbers -------------------------------------------------------------------------------

  // A head without a score is null, which JavaScript would take for 0.
  const reaches = (score, threshold) => score !== null && score * 100 >= threshold * data.unit;

  function headsOf(run) {
    return run.current_token.flatMap((row, layer) =>
      row.map((current, head) => {
        const right = run.token_to_right[layer][head];
        return { layer, head, current_token: current, token_to_right: right, either: current === null ? right : Math.max(current, right) };
      })
    );
  }

  function countsOf(run, threshold) {
    const heads = headsOf(run);
    const counts = Object.fromEntries(COUNTED.map((kind) => [kind, heads.filter((h) => reaches(h[kind], threshold)).length]));
    return { ...counts, all: heads.length };
  }

  // The runs of each seed where their mean is chosen, else the one run; those that there are.
  function runsOfSeeds(at) {
    if (data.mean === null || at[data.mean] !== MEAN) return [runAt(at)].filter(Boolean);
    const seeds = data.axes[data.mean].labels.map((_, place) => place).filter((place) => place !== MEAN);
    return seeds.map((place) => runAt(replaced(at, data.mean, place))).filter(Boolean);
  }

  // ---- controls ------------------------------------------------------------------------------

  const selects = data.axes.map((axis, i) => {
    const id = `axis-${i}`;
    const select = element("select", "", { id });
    axis.labels.forEach((label, place) => select.append(element("option", label, { value: String(place) })));
    select.value = String(data.first[i]);
    const control = element("div", "", { className: "control" });
    control.append(element("label", axis.name, { htmlFor: id }), select);
    byId("axes").append(control);
    return select;
  });
  COUNTED.forEach((kind) => byId("lines-kind").append(element("option", LABELS[kind], { value: kind })));
  byId("threshold").value = String(data.threshold);

  function meanOf(at) {
    const n = runsOfSeeds(at).length;
    return n ? `mean over ${n} seed${n > 1 ? "s" : ""}` : data.axes[data.mean].labels[MEAN];
  }

  function chosen() {
    const at = selects.map((select) => Number(select.value));
    const threshold = Number(byId("threshold").value);
    const names = data.axes.map((axis, i) => axis.labels[at[i]]);
    const words = data.axes.map((axis, i) => (i === data.mean && at[i] === MEAN ? meanOf(at) : `${axis.name} ${names[i]}`));
    const rest = words.filter((_, i) => i !== data.model);
    return { at, threshold, words, rest, model: names[data.model], run: runAt(at) };
  }

  // ---- parts of the page ---------------------------------------------------------------------

  function drawMissing({ at, words }) {
    const kept = data.axes.flatMap((axis, i) => {
      const there = axis.labels.filter((_, place) => runAt(replaced(at, i, place)));
      return there.length ? [`${axis.name} ${there.join(" or ")}`] : [];
    });
    const hint = kept.length ? `With one change there are: ${kept.join("; ")}.` : "Change more than one of the menus.";
    byId("missing").textContent = `The sweep has no run with ${words.join(", ")}. ${hint}`;
  }

  function drawCounts({ at, run, threshold }) {
    const counts = countsOf(run, threshold);
    const averaged = data.mean !== null && at[data.mean] === MEAN;
    const seeds = runsOfSeeds(at);
    const tiles = [...KINDS, "either"].map((kind) => {
      const each = seeds.map((one) => countsOf(one, threshold)[kind]);
      const small = averaged ? `${Math.min(...each)} to ${Math.max(...each)} by seed` : "";
      return [LABELS[kind], String(counts[kind]), ` of ${counts.all} heads, ${percent(counts[kind] / counts.all)}`, small, data.colors[kind], kind];
    });
    const accuracy = run.accuracy === null ? "not known" : percent(run.accuracy);
    tiles.push(["accuracy of the continuation", accuracy, "", "", "#ccc", "accuracy"]);
    byId("counts").replaceChildren(
      ...tiles.map(([name, number, rest, small, color, key]) => {
        const value = element("dd", element("strong", number));
        value.append(rest);
        const tile = element("div", element("dt", name), { id: `count-${key}` });
        tile.style.borderColor = color;
        tile.append(value, small && element("dd", small, { className: "note" }));
        return tile;
      })
    );
    const chance = run.tokens === null ? "" : `Chance is ${(1 / run.tokens).toFixed(3)}, one of ${run.tokens} tokens that can be seen.`;
    const means = averaged ? `Scores and accuracy: ${meanOf(at)}; counts: of the heads whose mean score reaches the threshold.` : "";
    byId("note").textContent = `${chance} ${means}`;
  }

  const ticks = (n) => ({ tick0: 0, dtick: n <= 12 ? 1 : 2, showgrid: false, zeroline: false, fixedrange: true });

  function drawMosaic({ run, threshold, model, rest }) {
    const [layers, heads] = [run.current_token.length, run.current_token[0].length];
    const height = Math.max(343, 173 + (layers > 12 ? 22 : 30) * layers);
    const width = byId("mosaic").clientWidth;
    // The plot's width less margins and the gap, by columns; its height less margins, by rows.
    const size = Math.max(5, Math.min(18, 0.5 * Math.min((0.45 * (width - 165)) / heads, (height - 168) / layers)));
    const counts = countsOf(run, threshold);
    const traces = KINDS.flatMap((kind, panel) => {
      const scores = run[kind].map((row) => row.map((score) => (score === null ? null : score / data.unit)));
      const over = headsOf(run).filter((h) => reaches(h[kind], threshold));
      const axes = panel ? { xaxis: "x2", yaxis: "y2" } : {};
      const names = scores.map((row, layer) => row.map((_, head) => `${run.site}.${layer}.${head}`));
      const hover = `%{customdata}<br>${LABELS[kind]} %{z:.4f}<extra></extra>`;
      // White is not seen on the scale's light end.
      const color = over.map((h) => (h[kind] > 0.7 * data.unit ? "#222" : "white"));
      const marker = { symbol: "circle-open", size, color, line: { width: 2 } };
      return [
        { type: "heatmap", z: scores, customdata: names, coloraxis: "coloraxis", hovertemplate: hover, hoverongaps: false, xgap: 1, ygap: 1, ...axes },
        { type: "scatter", mode: "markers", x: over.map((h) => h.head), y: over.map((h) => h.layer), marker, hoverinfo: "skip", showlegend: false, ...axes },
      ];
    });
    const title = `Induction mosaic of ${model}`;
    const subtitle = `${rest.join(", ")}; ringed: at least ${(threshold / 100).toFixed(2)}`;
    const x = { title: { text: "head" }, range: [-0.5, heads - 0.5], ...ticks(heads) };
    const y = { title: { text: "layer" }, range: [layers - 0.5, -0.5], ...ticks(layers) };
    // Where no head reaches the threshold: which one comes closest.
    const note = (kind) => {
      const strongest = headsOf(run).filter((h) => h[kind] !== null).sort((a, b) => b[kind] - a[kind])[0];
      if (counts[kind] || !strongest) return "";
      const which = `${run.site}.${strongest.layer}.${strongest.head}, ${(strongest[kind] / data.unit).toFixed(2)}`;
      return `<br><span style="font-size: 12px; color: #666">no head reaches ${(threshold / 100).toFixed(2)}; the strongest is ${which}</span>`;
    };
    const panelTitle = (kind, at) => ({
      text: `${LABELS[kind]}: ${counts[kind]} of ${counts.all} heads${note(kind)}`,
      x: at, y: 1, xref: "paper", yref: "paper", xanchor: "center", yanchor: "bottom", showarrow: false, font: { ...FONT, size: 15 },
    });
    const layout = {
      font: FONT, height, autosize: true, margin: { l: 60, r: 105, t: 118, b: 50 }, plot_bgcolor: "#f0f0f0",
      title: { text: plain(title), subtitle: { text: plain(subtitle), font: { size: 13, color: "#666" } }, ...TITLE },
      xaxis: { ...x, domain: [0, 0.46] }, xaxis2: { ...x, domain: [0.54, 1], anchor: "y2" },
      yaxis: y, yaxis2: { ...y, anchor: "x2" },
      coloraxis: { colorscale: data.scale, cmin: 0, cmax: 1, colorbar: { title: { text: "attention" } } },
      annotations: [panelTitle("current_token", 0.23), panelTitle("token_to_right", 0.77)],
    };
    Plotly.react("mosaic", traces, layout, CONFIG);
  }

  function drawHeads({ run, threshold }) {
    const over = headsOf(run).filter((h) => reaches(h.either, threshold));
    over.sort((a, b) => b.either - a.either || a.layer - b.layer || a.head - b.head);
    if (!over.length) {
      byId("heads").replaceChildren(element("p", "No head reaches this threshold."));
      return;
    }
    const row = (cells) => cells.reduce((made, cell) => (made.append(cell), made), element("tr"));
    const names = ["head", ...KINDS.map((kind) => LABELS[kind])];
    const top = element("thead", row(names.map((name) => element("th", name, { scope: "col" }))));
    const body = element("tbody");
    over.forEach((h) => {
      const scores = KINDS.map((kind) => {
        const shown = h[kind] === null ? "" : (h[kind] / data.unit).toFixed(4);
        return element("td", shown, { className: reaches(h[kind], threshold) ? "over" : "" });
      });
      body.append(row([element("td", `${run.site}.${h.layer}.${h.head}`), ...scores]));
    });
    const table = element("table", top);
    table.append(body);
    byId("heads").replaceChildren(table);
  }

  function drawLines({ at, threshold, model }) {
    const { x, by, values, colors } = data.lines;
    const kind = byId("lines-kind").value;
    const lengths = by === null ? [""] : data.axes[by].labels;
    const several = data.mean !== null && at[data.mean] === MEAN;
    const now = []; // the point of the mosaic above
    const traces = lengths.flatMap((length, i) => {
      const points = values.flatMap((value, place) => {
        const there = replaced(by === null ? at : replaced(at, by, i), x, place);
        const counts = runsOfSeeds(there).map((run) => countsOf(run, threshold)[kind]);
        const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
        if (counts.length && there.join() === at.join()) now.push({ value, mean, color: colors[i] });
        return counts.length ? [{ value, mean, low: mean - Math.min(...counts), high: Math.max(...counts) - mean }] : [];
      });
      if (!points.length) return [];
      const each = (key) => points.map((point) => point[key]);
      const bars = { type: "data", symmetric: false, array: each("high"), arrayminus: each("low"), thickness: 1, width: 3 };
      return [{
        type: "scatter", mode: "lines+markers", name: length, x: each("value"), y: each("mean"),
        line: { color: colors[i], width: 2 }, ...(several ? { error_y: bars } : {}),
        marker: { size: 6 },
        hovertemplate: `${by === null ? "" : `${data.axes[by].name} ${length}, `}%{x} repetitions<br>%{y:.4~g} heads<extra></extra>`,
        showlegend: by !== null,
      }];
    });
    const most = Math.max(1, ...traces.flatMap((trace) => trace.y.map((y, i) => y + (trace.error_y ? trace.error_y.array[i] : 0))));
    traces.push({
      type: "scatter", mode: "markers", x: now.map((p) => p.value), y: now.map((p) => p.mean), hoverinfo: "skip", showlegend: false,
      marker: { symbol: "circle-open", size: 15, color: now.map((p) => p.color), line: { width: 2.5 } },
    });
    const subtitle = `${LABELS[kind]}, at least ${(threshold / 100).toFixed(2)}${several ? "; means of the seeds' counts, bars from lowest to highest" : ""}`;
    const layout = {
      font: FONT, height: 400, autosize: true, uirevision: "kept", margin: { l: 60, r: 20, t: 80, b: 50 },
      title: { text: `Heads by repetitions, ${plain(model)}`, subtitle: { text: plain(subtitle), font: { size: 13, color: "#666" } }, ...TITLE },
      xaxis: { title: { text: "repetitions" }, tickvals: values, zeroline: false, fixedrange: true },
      yaxis: { title: { text: "heads" }, range: [-0.04 * most, 1.08 * most], zeroline: false, fixedrange: true, ...(most < 6 ? { dtick: 1 } : { nticks: 8 }) },
      legend: { title: { text: by === null ? "" : data.axes[by].name.replace(" ", "<br>") }, traceorder: "normal" },
    };
    Plotly.react("lines", traces, layout, CONFIG);
  }

  // ---- the whole -----------------------------------------------------------------------------

  function draw() {
    const now = chosen();
    byId("threshold-value").textContent = (now.threshold / 100).toFixed(2);
    byId("threshold").setAttribute("aria-valuetext", (now.threshold / 100).toFixed(2));
    byId("found").hidden = byId("heads-section").hidden = byId("save").disabled = byId("save-json").disabled = !now.run;
    byId("missing").hidden = Boolean(now.run);
    if (now.run) [drawCounts, drawMosaic, drawHeads].forEach((part) => part(now));
    else drawMissing(now);
    byId("lines-section").hidden = data.lines.x === null;
    if (data.lines.x !== null) drawLines(now);
  }

  function fileName({ model, rest, threshold }) {
    const name = ["mosaic", model, ...rest, "threshold", (threshold / 100).toFixed(2)].join("-");
    return name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/-{2,}/g, "-");
  }

  function save() {
    const { clientWidth: width, clientHeight: height } = byId("mosaic");
    Plotly.downloadImage("mosaic", { format: "png", scale: 2, width, height, filename: fileName(chosen()) });
  }

  // The numbers of the mosaic that is shown: its place in the sweep, its counts, its scores `[layer][head]`.
  function contents({ at, run, threshold }) {
    const number = (label) => (/^-?\d+(\.\d+)?$/.test(label) ? Number(label) : label);
    const axes = data.axes.map((axis, i) => [axis.name.replace(/ /g, "_"), number(axis.labels[at[i]])]);
    const scores = KINDS.map((kind) => [kind, run[kind].map((row) => row.map((s) => (s === null ? null : s / data.unit)))]);
    const heads = headsOf(run).filter((h) => reaches(h.either, threshold)).map((h) => `${run.site}.${h.layer}.${h.head}`);
    return {
      ...Object.fromEntries(axes), threshold: threshold / 100, counts: countsOf(run, threshold), accuracy: run.accuracy,
      n_tokens: run.tokens, site: run.site, heads, ...Object.fromEntries(scores),
    };
  }

  function saveJson() {
    const now = chosen();
    const href = URL.createObjectURL(new Blob([JSON.stringify(contents(now), null, 1)], { type: "application/json" }));
    element("a", "", { href, download: `${fileName(now)}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  }

  // A slider that is dragged tells more often than a screen is drawn.
  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  byId("controls").addEventListener("input", soon);
  window.addEventListener("resize", soon); // rings are as large as their cells allow
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("lines-kind").addEventListener("input", soon);
  byId("save").addEventListener("click", save);
  byId("save-json").addEventListener("click", saveJson);
  draw();
})();
