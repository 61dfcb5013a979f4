// Cards of clips: films are asked for when they come into sight, one plays at a time, and a button searches with a clip.
const near = new IntersectionObserver(seen => {
  for (const {isIntersecting, target} of seen) if (isIntersecting) {
    target.preload = "metadata";
    near.unobserve(target);
  }
}, {rootMargin: "200px"});
const look = () => element.querySelectorAll("video, audio").forEach(player => {
  player.preload = "none";
  near.observe(player);
});
const heard = (kind, what) => element.addEventListener(kind, what, true); // events of players do not bubble
heard("play", event => document.querySelectorAll("video, audio").forEach(other => {
  if (other !== event.target && !other.paused) other.pause();
}));
for (const [kind, on] of [["play", true], ["pause", false], ["ended", false]]) {
  heard(kind, event => event.target.closest(".ds-frame")?.classList.toggle("playing", on));
}
heard("loadedmetadata", event => { // a film without pictures
  if (event.target.tagName === "VIDEO" && !event.target.videoWidth) event.target.closest(".ds-card")?.classList.add("ds-sound");
});
heard("error", event => {
  const frame = event.target.closest(".ds-frame");
  if (!frame || frame.querySelector(".ds-gone")) return;
  const words = document.createElement("p"), link = document.createElement("a");
  words.className = "ds-gone";
  words.append("This browser cannot play the film: ");
  link.href = event.target.getAttribute("src");
  link.textContent = "save it";
  link.download = "";
  words.append(link, ".");
  frame.append(words);
});
element.addEventListener("click", event => {
  const button = event.target.closest("[data-map][data-clip]");
  if (button) trigger("select", {clip_id: button.dataset.clip, map: Number(button.dataset.map), modality: button.dataset.modality || null});
});
watch("value", () => {
  element.querySelectorAll(".ds-frame > .ds-gone:not(:only-child)").forEach(words => words.remove());
  look();
  const top = element.getBoundingClientRect().top;
  if (element.querySelector(".ds-line, .ds-note") && (top < 0 || top > window.innerHeight - 120)) element.scrollIntoView({block: "start", behavior: "smooth"});
});
look();
