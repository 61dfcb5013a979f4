// The map: an SVG with a point for each sound (circle) and each film's pictures (triangle). Points can be reached by
// keyboard: arrows go to the nearest one in that direction, Enter plays. Everything that comes from data is set as text
// or as an attribute, never as HTML.
const SVG = "http://www.w3.org/2000/svg";
const make = (tag, names = {}, text = null) => {
  const made = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(names)) if (value !== null) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
};
const WORDS = {audio: "sound", visual: "pictures"};
const find = name => element.querySelector(name);
const [frame, svg, tip, panel, legend, note] = [".map-frame", "svg", ".map-tip", ".map-panel", ".map-legend", ".map-note"].map(find);
let space = null, points = [], number = null, current = -1, asked = 0;

const title = clip => `${clip.name}${clip.when ? " " + clip.when : ""}`;
const described = point => `${title(point.clip)}, ${point.clip.labels.join(", ") || "no label"}, ${WORDS[point.modality]}`;
// Colours past the palette come again, hollow, as in the project's figures.
const style = colour => (colour === null ? "none" : `series-${colour % 10}${Math.floor(colour / 10) % 2 ? " hollow" : ""}`);

const shape = (modality, size) => (modality === "audio"
  ? `M${-size},0a${size},${size} 0 1,0 ${2 * size},0a${size},${size} 0 1,0 ${-2 * size},0z`
  : `M0,${-1.25 * size}L${1.15 * size},${0.8 * size}L${-1.15 * size},${0.8 * size}z`);

async function load(wanted) {
  if (wanted === number) return;
  const turn = ++asked;
  note.textContent = "Drawing the map …";
  try {
    const reply = await fetch(`map/${wanted}`);
    if (!reply.ok) throw new Error(reply.status);
    const found = await reply.json();
    if (turn !== asked) return;
    [space, number] = [found, wanted];
    build();
  } catch (error) {
    note.textContent = "The map could not be had. Load the page again.";
  }
}

function build() {
  svg.replaceChildren();
  points = [];
  current = -1;
  hide();
  const group = make("svg:g", {class: "points"});
  for (const clip of space.clips) {
    for (const modality of ["audio", "visual"]) {
      if (clip[modality] === null) continue;
      const mark = make("svg:path", {d: shape(modality, 4.5), class: `point ${modality} ${style(clip.colour)}`, role: "button", tabindex: -1});
      const point = {clip, modality, mark, x: clip[modality][0], y: clip[modality][1]};
      mark.setAttribute("aria-label", described(point));
      mark.dataset.point = points.length;
      points.push(point);
      group.append(mark);
    }
  }
  svg.append(group);
  if (points.length) points[0].mark.setAttribute("tabindex", 0);
  legend.replaceChildren();
  for (const [label, colour] of space.legend.slice(0, 40)) {
    const button = make("button", {type: "button", "aria-pressed": "false"});
    button.append(make("i", {class: `dot ${style(colour)}`}), make("span", {}, label));
    button.dataset.label = label;
    legend.append(button);
  }
  if (space.legend.length > 40) legend.append(make("span", {}, `and ${space.legend.length - 40} more`));
  const [one, two] = space.shares.map(share => `${Math.round(100 * share)} %`);
  const part = space.clips.length < space.of ? `${space.clips.length.toLocaleString("en")} of ${space.of.toLocaleString("en")} clips` : `${space.of.toLocaleString("en")} clips`;
  note.textContent = points.length ? `${part}. The two directions in which embeddings differ most; they hold ${one} and ${two} of the variance.` : "There is no clip to show.";
  draw();
}

function draw() {
  const width = frame.clientWidth;
  if (!space || !width) return;
  const height = Math.round(Math.min(620, Math.max(320, 0.62 * width))), edge = 22;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  const marks = props.value || {}, query = marks.map === number ? marks.query : null;
  const all = query ? [...points, query] : points;
  const [xs, ys] = [all.map(point => point.x), all.map(point => point.y)];
  const low = list => list.reduce((least, value) => Math.min(least, value), Infinity);
  const high = list => list.reduce((most, value) => Math.max(most, value), -Infinity);
  const scale = (list, size) => {
    const [from, to] = [low(list), high(list)];
    return value => (to > from ? edge + ((value - from) / (to - from)) * (size - 2 * edge) : size / 2);
  };
  const [across, down] = [scale(xs, width), scale(ys, height)];
  const found = new Set(query ? marks.found : []);
  for (const point of points) {
    [point.left, point.top] = [across(point.x), height - down(point.y)];
    point.mark.setAttribute("transform", `translate(${point.left.toFixed(1)},${point.top.toFixed(1)})`);
    point.mark.classList.toggle("found", point.modality === marks.among && found.has(point.clip.id));
  }
  svg.classList.toggle("asked", found.size > 0);
  svg.querySelector(".query")?.remove();
  if (query) {
    const [left, top] = [across(query.x), height - down(query.y)];
    const star = make("svg:g", {class: "query", transform: `translate(${left.toFixed(1)},${top.toFixed(1)})`, role: "img", "aria-label": `Your query: ${query.name}, ${WORDS[query.modality]}`});
    star.append(make("svg:path", {d: "M0,-14L0,14M-14,0L14,0"}), make("svg:circle", {r: 8}));
    const words = make("svg:text", {x: left > width - 90 ? -13 : 13, y: -9, "text-anchor": left > width - 90 ? "end" : "start"}, "your query");
    star.append(words);
    svg.append(star);
  }
}

function hide() { tip.hidden = true; }
function tell(point) {
  tip.replaceChildren(make("b", {}, title(point.clip)), make("span", {}, `${point.clip.labels.join(", ") || "no label"} · ${WORDS[point.modality]}`));
  tip.hidden = false;
  const wide = frame.clientWidth, half = tip.offsetWidth / 2;
  tip.style.left = `${Math.min(Math.max(point.left, half + 4), wide - half - 4)}px`;
  tip.style.top = `${point.top - tip.offsetHeight - 12 > 0 ? point.top - tip.offsetHeight - 12 : point.top + 14}px`;
}
function choose(which, focus) {
  if (current >= 0) {
    points[current].mark.classList.remove("chosen");
    points[current].mark.setAttribute("tabindex", -1);
  } else if (points.length) points[0].mark.setAttribute("tabindex", -1);
  current = which;
  const {mark} = points[which];
  mark.classList.add("chosen");
  mark.setAttribute("tabindex", 0);
  if (focus) mark.focus({preventScroll: true});
}
function play(point) {
  const {clip} = point;
  panel.replaceChildren();
  panel.hidden = false;
  const head = make("div", {class: "map-head"});
  head.append(make("b", {}, title(clip)), make("span", {}, `${clip.labels.join(", ") || "no label"} · ${WORDS[point.modality]}`));
  panel.append(head);
  if (clip.url) {
    const player = make(/\.(wav|mp3|flac|ogg|oga|opus|m4a|aac)$/i.test(clip.name) ? "audio" : "video", {controls: "", src: clip.url, playsinline: ""});
    panel.append(player);
    player.play().catch(() => {});
  } else panel.append(make("p", {}, "The film of this clip is not here."));
  const again = make("button", {type: "button", class: "again"}, `Search with this ${point.modality === "audio" ? "sound" : "picture"}`);
  again.addEventListener("click", () => trigger("select", {clip_id: clip.id, map: number, modality: point.modality}));
  panel.append(again);
}
const of = event => {
  const mark = event.target.closest?.(".point");
  return mark ? Number(mark.dataset.point) : -1;
};
// A finger is no needle: the nearest point counts, if one is near.
const near = event => {
  const box = svg.getBoundingClientRect(), [left, top] = [event.clientX - box.left, event.clientY - box.top];
  let [best, least] = [of(event), event.pointerType === "touch" ? 24 : 12];
  if (best < 0) points.forEach((point, place) => {
    const away = Math.hypot(point.left - left, point.top - top);
    if (away < least && !point.mark.classList.contains("dim")) [best, least] = [place, away];
  });
  return best;
};
svg.addEventListener("click", event => { const which = near(event); if (which >= 0) { choose(which, false); play(points[which]); } });
svg.addEventListener("pointermove", event => { const which = near(event); svg.style.cursor = which >= 0 ? "pointer" : ""; if (which >= 0) tell(points[which]); else hide(); });
svg.addEventListener("pointerleave", hide);
svg.addEventListener("focusin", event => { const which = of(event); if (which >= 0) { if (which !== current) choose(which, false); tell(points[which]); } });
svg.addEventListener("focusout", hide);
const WAYS = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
svg.addEventListener("keydown", event => {
  const which = of(event);
  if (which < 0) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(which, true);
    return play(points[which]);
  }
  const way = WAYS[event.key];
  if (!way) return;
  event.preventDefault();
  const here = points[which];
  let [best, least] = [-1, Infinity];
  points.forEach((point, place) => {
    const [right, low] = [point.left - here.left, point.top - here.top];
    const along = right * way[0] + low * way[1], aside = Math.abs(right * way[1]) + Math.abs(low * way[0]);
    if (place !== which && along > 0.5 && along + 2 * aside < least) [best, least] = [place, along + 2 * aside];
  });
  if (best >= 0) choose(best, true);
});
legend.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  const pressed = button.getAttribute("aria-pressed") !== "true";
  legend.querySelectorAll("button").forEach(other => other.setAttribute("aria-pressed", String(other === button && pressed)));
  for (const point of points) point.mark.classList.toggle("dim", pressed && point.clip.labels[0] !== button.dataset.label);
});
new ResizeObserver(draw).observe(frame);
watch("value", () => { load((props.value || {}).map ?? 0); draw(); });
// Drawn when it is first seen: who only searches never loads it.
new IntersectionObserver(seen => { if (seen.some(one => one.isIntersecting)) load((props.value || {}).map ?? 0); }).observe(frame);
