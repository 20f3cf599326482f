// @ts-check
/** The viewer of pictures and videos: the whole screen, zoom, swipe and keyboard. Loaded when it is needed. */

import { fill, make, moments } from "../../text.js";
import { loadStyle, withModule } from "../parts/form.js";
import { unformatted } from "../parts/format.js";
import { button, openDialog } from "../parts/panel.js";
import { icon, ownAddress } from "../parts/file.js";
import { pauseOthers } from "./voice.js";

/** @typedef {import("./album.js").Origin} Origin */
/** @typedef {import("./album.js").Item} Item */

/** A finger that moves farther to the side turns the page; twice as far down, it closes the viewer. */
const SWIPE_PIXELS = 60;
const MOST_ZOOM = 8;
/** Factors of the zoom: of a button or key, of the wheel, and of a double click. */
const STEP = 1.5;
const WHEEL_STEP = 1.2;
const DOUBLE_CLICK_ZOOM = 2.5;
const GROW_MS = 200;

/**
 * Lets the picture of a viewer grow from its place in the list.
 *
 * @param {HTMLElement} from
 * @param {HTMLElement} viewer
 */
function grow(from, viewer) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const image = viewer.querySelector("img");
  const start = from.getBoundingClientRect();
  const end = image?.getBoundingClientRect();
  if (!image || !end?.width || !end.height) return; // its size is not known before it is loaded
  const x = start.x + start.width / 2 - (end.x + end.width / 2);
  const y = start.y + start.height / 2 - (end.y + end.height / 2);
  const scale = Math.max(start.width / end.width, start.height / end.height);
  const frames = { transform: [`translate(${x}px, ${y}px) scale(${scale})`, "none"], borderRadius: ["1rem", "0"] };
  image.animate(frames, { duration: GROW_MS, easing: "cubic-bezier(0.2, 0.8, 0.3, 1)" });
}

/**
 * Shows pictures on the whole screen. The focus returns when it is closed.
 *
 * @param {Item[]} pictures
 * @param {number} index  of the first one to show
 * @param {Record<string, string>} words
 * @param {HTMLElement} from  its place in the list
 * @returns {Promise<import("../parts/panel.js").Layer>}
 */
export async function openViewer(pictures, index, words, from) {
  await loadStyle(new URL("../later/viewer.css", import.meta.url));
  const image = /** @type {HTMLImageElement} */ (make("img", "viewer-image"));
  image.draggable = false;
  image.addEventListener("load", () => { image.style.background = ""; });
  const video = /** @type {HTMLVideoElement} */ (make("video", "viewer-image"));
  Object.assign(video, { controls: true, playsInline: true, hidden: true });
  video.addEventListener("play", () => pauseOthers(video));
  const stage = make("div", "viewer-stage", image, video);
  const count = make("span", "viewer-count");
  count.setAttribute("role", "status");
  const save = /** @type {HTMLAnchorElement} */ (make("a", "round", icon("download")));
  save.setAttribute("aria-label", words.messages_media_download);
  save.title = words.messages_media_download;
  const view = new Stage(stage, image, (step) => turn(step), () => layer.close());
  const tool = (/** @type {"previous" | "next" | "more" | "less" | "forward"} */ sign, /** @type {string} */ label, /** @type {() => void} */ act) => {
    const made = button("", "round");
    made.append(icon(sign));
    made.setAttribute("aria-label", label);
    made.title = label;
    made.addEventListener("click", act);
    return made;
  };
  const previous = tool("previous", words.messages_media_previous, () => turn(-1));
  const next = tool("next", words.messages_media_next, () => turn(1));
  const zoomOut = tool("less", words.messages_media_zoom_out, () => view.zoom(1 / STEP));
  const zoomIn = tool("more", words.messages_media_zoom_in, () => view.zoom(STEP));
  const forward = tool("forward", words.messages_forward, () => {
    const { session, entry } = pictures[index].origin ?? {};
    if (session && entry) withModule(import("../people/forward.js"), words, ({ openForward }) => void openForward(session, [entry]));
  });
  const bar = make("div", "viewer-bar", count, zoomOut, zoomIn, save, forward);
  const about = make("div", "viewer-about");
  const layer = openDialog(words.messages_picture, make("div", "viewer-body", stage, previous, next, make("div", "viewer-foot", about, bar)));
  layer.dialog.classList.add("viewer");
  previous.classList.add("viewer-previous");
  next.classList.add("viewer-next");
  layer.dialog.addEventListener("keydown", (event) => {
    const acts = /** @type {Record<string, () => void>} */ ({
      ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), Home: () => turn(-pictures.length), End: () => turn(pictures.length),
      "+": () => view.zoom(STEP), "=": () => view.zoom(STEP), "-": () => view.zoom(1 / STEP), 0: () => view.reset(),
    });
    if (!acts[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
  });
  turn(0);
  grow(from, layer.dialog);
  layer.closed.then(() => video.removeAttribute("src"));
  return layer;

  /** @param {Origin} [origin]  missing: the message is not known, or not sent yet */
  function drawAbout(origin) {
    forward.hidden = !origin?.entry.id;
    about.hidden = !origin;
    if (!origin) return;
    const { session, entry, caption } = origin;
    const name = entry.from === session.user ? words.you : session.people.nameOf(entry.from);
    const text = make("p", "viewer-caption", unformatted(caption));
    text.dir = "auto";
    const line = make("p", "", make("bdi", "", name), ` · ${moments(session.language).format(entry.time)}`);
    about.replaceChildren(line, ...(caption ? [text] : []));
  }

  /**
   * Shows another picture, or the same one again.
   *
   * @param {number} step  the first or last one is not passed
   */
  function turn(step) {
    index = Math.max(0, Math.min(pictures.length - 1, index + step));
    const picture = pictures[index];
    const address = ownAddress(picture.url);
    view.reset();
    image.alt = picture.name || words.messages_picture;
    if (picture.width && picture.height) {
      image.width = picture.width;
      image.height = picture.height;
    } else {
      image.removeAttribute("width");
      image.removeAttribute("height");
    }

    const isVideo = picture.type === "video";
    const thumbnail = ownAddress(picture.thumbnail);
    image.hidden = isVideo;
    video.hidden = !isVideo;
    if (isVideo) {
      image.removeAttribute("src");
      video.poster = thumbnail;
      video.setAttribute("aria-label", picture.name || words.messages_video);
      video.src = address;
      video.play().catch(() => {}); // the browser asks for a click
    } else {
      video.removeAttribute("src");
      image.style.background = thumbnail ? `center / 100% 100% url("${thumbnail}")` : ""; // until the picture is there
      image.src = address;
    }

    save.href = address;
    save.download = picture.name || "";
    drawAbout(picture.origin);
    count.textContent = fill(words.messages_media_position, { number: index + 1, count: pictures.length });
    previous.hidden = index === 0;
    next.hidden = index === pictures.length - 1;
    if (!layer.dialog.contains(document.activeElement)) layer.dialog.focus(); // a hidden button has lost it
    for (const neighbour of [pictures[index + 1], pictures[index - 1]]) {
      if (neighbour && neighbour.type !== "video") new Image().src = ownAddress(neighbour.url); // the browser loads it ahead
    }
  }
}

/** Zoom and movement of one picture, by wheel, fingers and double click. */
class Stage {
  #scale = 1;
  #x = 0;
  #y = 0;
  /** Fingers, or the mouse button, that are down. @type {Map<number, { x: number, y: number }>} */
  #pointers = new Map();
  /** How far a finger has pulled a picture that is not zoomed. */
  #swipe = { x: 0, y: 0 };
  /** Whether two fingers were down since the first one: then it is no swipe. */
  #hasPinched = false;

  /**
   * @param {HTMLElement} stage
   * @param {HTMLElement} image
   * @param {(step: number) => void} turn
   * @param {() => void} close
   */
  constructor(stage, image, turn, close) {
    this.stage = stage;
    this.image = image;
    this.turn = turn;
    this.close = close;
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? WHEEL_STEP : 1 / WHEEL_STEP, event);
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => {
      if (this.#scale > 1) this.reset();
      else this.zoom(DOUBLE_CLICK_ZOOM, event);
    });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.#up(/** @type {PointerEvent} */ (event)));
  }

  reset() {
    this.#scale = 1;
    this.#x = this.#y = 0;
    this.#draw();
  }

  /**
   * @param {number} factor
   * @param {{ clientX: number, clientY: number }} [at]  this point stays where it is; default: the middle
   */
  zoom(factor, at) {
    const scale = Math.max(1, Math.min(MOST_ZOOM, this.#scale * factor));
    const box = this.stage.getBoundingClientRect();
    const x = at ? at.clientX - box.x - box.width / 2 : 0;
    const y = at ? at.clientY - box.y - box.height / 2 : 0;
    const change = scale / this.#scale;
    this.#x = x - (x - this.#x) * change;
    this.#y = y - (y - this.#y) * change;
    this.#scale = scale;
    this.#draw();
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.target instanceof HTMLVideoElement) return; // its controls
    this.stage.setPointerCapture(event.pointerId);
    if (!this.#pointers.size) {
      this.#swipe = { x: 0, y: 0 };
      this.#hasPinched = false;
    }
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.#pointers.set(event.pointerId, now);
    if (other) {
      this.#hasPinched = true;
      const distance = Math.hypot(now.x - other.x, now.y - other.y);
      const distanceBefore = Math.hypot(before.x - other.x, before.y - other.y) || 1;
      return this.zoom(distance / distanceBefore, { clientX: (now.x + other.x) / 2, clientY: (now.y + other.y) / 2 });
    }
    const x = now.x - before.x;
    const y = now.y - before.y;
    if (this.#scale > 1) {
      this.#x += x;
      this.#y += y;
    } else {
      this.#swipe = { x: this.#swipe.x + x, y: this.#swipe.y + y };
    }
    this.#draw();
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (!this.#pointers.delete(event.pointerId) || this.#pointers.size) return; // another finger is still down
    const { x, y } = this.#swipe;
    this.#swipe = { x: 0, y: 0 };
    this.#draw();
    if (this.#scale > 1 || this.#hasPinched || event.type === "pointercancel") return;
    if (Math.abs(x) > SWIPE_PIXELS && Math.abs(x) > Math.abs(y)) this.turn(x < 0 ? 1 : -1);
    else if (y > SWIPE_PIXELS * 2) this.close();
  }

  /** Places the picture, as far as it may be moved: its edges stay outside the stage. */
  #draw() {
    const box = this.stage.getBoundingClientRect();
    const mostX = (box.width * (this.#scale - 1)) / 2;
    const mostY = (box.height * (this.#scale - 1)) / 2;
    this.#x = Math.max(-mostX, Math.min(mostX, this.#x));
    this.#y = Math.max(-mostY, Math.min(mostY, this.#y));
    const { x, y } = this.#swipe;
    this.image.style.transform = `translate(${this.#x + x}px, ${this.#y + Math.max(0, y)}px) scale(${this.#scale})`;
    this.stage.dataset.zoom = this.#scale.toFixed(2);
  }
}
