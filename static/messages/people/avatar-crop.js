// @ts-check
/**
 * The picture of an account or a group: the user chooses a file, and cuts a square out of it. They move and zoom the picture in a
 * square window.
 */

import { make, ROOT } from "../../text.js";
import { ApiError } from "../parts/api.js";
import { attempt, input, loadStyle, show } from "../parts/form.js";
import { button, openDialog } from "../parts/panel.js";

/** @typedef {import("../session/session.js").Session} Session */

/** Width and height of the window on the screen, and of the result, in pixels. */
const WINDOW = 288;
const RESULT = 320;
/** The canvas has at most so many pixels for each pixel of the page. */
const MAX_DENSITY = 3;
const JPEG_QUALITY = 0.88;
const MAX_ZOOM = 8;
/** An arrow key moves the picture by so many pixels. */
const KEY_STEP = 16;
/** A key zooms by this factor. */
const KEY_ZOOM = 1.15;
/** The logarithm of the factor for each pixel of the wheel. */
const WHEEL_ZOOM = 0.002;
const UPLOAD_MS = 60_000;

/** @typedef {{ width: number, height: number }} Size */

/**
 * Where the picture lies: `scale` window pixels per picture pixel, and its left upper corner in the window. The corner is never
 * inside the window, so that no edge of the picture is visible.
 *
 * @typedef {{ scale: number, x: number, y: number }} Placement
 */

/**
 * The whole picture as small as possible, in the middle.
 *
 * @param {Size} picture
 * @param {number} [size]  of the window
 * @returns {Placement}
 */
export function startPlacement(picture, size = WINDOW) {
  const scale = smallestScale(picture, size);
  return { scale, x: (size - picture.width * scale) / 2, y: (size - picture.height * scale) / 2 };
}

/**
 * Moves the picture, as far as no edge would be visible.
 *
 * @param {Placement} placement
 * @param {number} x  in window pixels
 * @param {number} y
 * @param {Size} picture
 * @param {number} [size]
 * @returns {Placement}
 */
export function moved(placement, x, y, picture, size = WINDOW) {
  return bounded({ ...placement, x: placement.x + x, y: placement.y + y }, picture, size);
}

/**
 * Zooms; the part of the picture that is at a point of the window stays there, unless an edge would be visible.
 *
 * @param {Placement} placement
 * @param {number} scale
 * @param {{ x: number, y: number }} at
 * @param {Size} picture
 * @param {number} [size]
 * @returns {Placement}
 */
export function zoomed(placement, scale, at, picture, size = WINDOW) {
  const smallest = smallestScale(picture, size);
  const next = Math.min(Math.max(scale, smallest), smallest * MAX_ZOOM);
  const factor = next / placement.scale;
  const x = at.x - (at.x - placement.x) * factor;
  const y = at.y - (at.y - placement.y) * factor;
  return bounded({ scale: next, x, y }, picture, size);
}

/**
 * The square of the picture that is in the window, in pixels of the picture.
 *
 * @param {Placement} placement
 * @param {number} [size]
 * @returns {{ x: number, y: number, size: number }}
 */
export function visibleSquare({ scale, x, y }, size = WINDOW) {
  return { x: 0 - x / scale, y: 0 - y / scale, size: size / scale }; // `-x` would be -0 at an edge
}

/**
 * @param {Size} picture
 * @param {number} size
 * @returns {number} with which the picture just fills the window
 */
function smallestScale({ width, height }, size) {
  return size / Math.min(width, height);
}

/**
 * @param {Placement} placement
 * @param {Size} picture
 * @param {number} size
 * @returns {Placement}
 */
function bounded({ scale, x, y }, { width, height }, size) {
  return { scale, x: Math.min(0, Math.max(x, size - width * scale)), y: Math.min(0, Math.max(y, size - height * scale)) };
}

/**
 * Lets the user choose the square of a picture.
 *
 * @param {Blob} file
 * @param {Record<string, string>} words
 * @returns {Promise<Blob | null>} a JPEG of 320 × 320 pixels; null: the user closed the dialog. Rejected with DOMException if the
 *   browser cannot read the picture.
 */
export async function cropAvatar(file, words) {
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
  await loadStyle(new URL("../later/avatar-crop.css", import.meta.url));
  const view = new CropView(picture, words);
  const cancel = button(words.messages_cancel);
  const use = button(words.messages_avatar_use, "wide");
  const layer = openDialog(words.messages_avatar_crop, make("div", "crop", ...view.elements, make("p", "card-row", cancel, use)));
  view.canvas.focus();
  let isChosen = false;
  cancel.addEventListener("click", () => layer.close());
  use.addEventListener("click", () => {
    isChosen = true;
    layer.close();
  });
  await layer.closed;
  const result = isChosen ? await view.result() : null;
  picture.close();
  return result;
}

/** Owns the placement of one picture, and draws it. */
class CropView {
  /** Where each pointer is that is down. @type {Map<number, { x: number, y: number }>} */
  #pointers = new Map();

  /**
   * @param {ImageBitmap} picture
   * @param {Record<string, string>} words
   */
  constructor(picture, words) {
    this.picture = picture;
    this.placement = startPlacement(picture);
    this.smallest = this.placement.scale;
    this.canvas = /** @type {HTMLCanvasElement} */ (make("canvas", "crop-window"));
    this.canvas.width = this.canvas.height = WINDOW * Math.min(Math.ceil(devicePixelRatio), MAX_DENSITY);
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", words.messages_avatar_window);
    this.zoom = /** @type {HTMLInputElement} */ (make("input", "crop-zoom"));
    Object.assign(this.zoom, { type: "range", min: "0", max: "1", step: "0.01", value: "0" });
    const label = make("label", "crop-label", make("span", "", words.messages_avatar_zoom), this.zoom);
    this.elements = [this.canvas, make("p", "muted", words.messages_avatar_hint), label];
    this.zoom.addEventListener("input", () => this.#zoomTo(this.smallest * MAX_ZOOM ** Number(this.zoom.value)));
    this.canvas.addEventListener("keydown", (event) => this.#onKey(event));
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoomTo(this.placement.scale * Math.exp(-event.deltaY * WHEEL_ZOOM), this.#place(event));
    }, { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, this.#place(event));
    });
    this.canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const type of /** @type {const} */ (["pointerup", "pointercancel"])) {
      this.canvas.addEventListener(type, (event) => this.#pointers.delete(event.pointerId));
    }
    this.#draw();
  }

  /** @returns {Promise<Blob | null>} the square in the window, as a JPEG */
  result() {
    const canvas = /** @type {HTMLCanvasElement} */ (make("canvas", ""));
    canvas.width = canvas.height = RESULT;
    this.#drawOn(canvas);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { key } = event;
    const steps = { ArrowLeft: [KEY_STEP, 0], ArrowRight: [-KEY_STEP, 0], ArrowUp: [0, KEY_STEP], ArrowDown: [0, -KEY_STEP] };
    const [x, y] = steps[/** @type {keyof typeof steps} */ (key)] ?? [0, 0];
    if (key === "+" || key === "=") this.#zoomTo(this.placement.scale * KEY_ZOOM);
    else if (key === "-") this.#zoomTo(this.placement.scale / KEY_ZOOM);
    else if (x || y) this.#move(x, y);
    else return;
    event.preventDefault();
  }

  /** @param {PointerEvent} event  of one finger, which moves the picture, or of two, which zoom it */
  #onMove(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#place(event);
    this.#pointers.set(event.pointerId, now);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) return this.#move(now.x - before.x, now.y - before.y);
    const distance = Math.hypot(now.x - other.x, now.y - other.y);
    const distanceBefore = Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
    const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
    this.#zoomTo(this.placement.scale * (distance / distanceBefore), middle);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  #move(x, y) {
    this.placement = moved(this.placement, x, y, this.picture);
    this.#draw();
  }

  /**
   * @param {number} scale
   * @param {{ x: number, y: number }} [at]  stays where it is; default: the middle
   */
  #zoomTo(scale, at = { x: WINDOW / 2, y: WINDOW / 2 }) {
    this.placement = zoomed(this.placement, scale, at, this.picture);
    this.zoom.value = String(Math.log(this.placement.scale / this.smallest) / Math.log(MAX_ZOOM));
    this.#draw();
  }

  /**
   * @param {MouseEvent} event
   * @returns {{ x: number, y: number }} in window pixels, whatever the size of the canvas on the screen
   */
  #place({ offsetX, offsetY }) {
    const factor = WINDOW / this.canvas.clientWidth;
    return { x: offsetX * factor, y: offsetY * factor };
  }

  #draw() {
    this.#drawOn(this.canvas);
  }

  /** @param {HTMLCanvasElement} canvas */
  #drawOn(canvas) {
    const context = canvas.getContext("2d");
    if (!context) return;
    const { x, y, size } = visibleSquare(this.placement);
    context.fillStyle = "#fff"; // below transparent pictures
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, x, y, size, size, 0, 0, canvas.width, canvas.height);
  }
}

/**
 * Buttons that change and remove a picture.
 *
 * @param {Session} session
 * @param {string} present  address of the picture; empty: none
 * @param {HTMLElement} note  shows why it has failed
 * @param {(url: string) => Promise<unknown>} change  stores the address of the new picture; empty: none
 * @returns {HTMLElement}
 */
export function pictureButtons(session, present, note, change) {
  const { words } = session;
  const file = input({ type: "file", accept: "image/*" });
  file.className = "heard";
  file.id = "avatar-file";
  file.setAttribute("aria-label", words.messages_avatar_choose);
  file.tabIndex = -1;
  const choose = button(words.messages_avatar_choose, "link");
  choose.dataset.key = "avatar";
  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    const [picture] = file.files ?? [];
    file.value = "";
    if (!picture) return;
    await attempt(choose, note, words, async () => {
      const cut = await cropAvatar(picture, words).catch(() => {
        show(note, words.messages_avatar_unreadable);
        return null;
      });
      if (cut) await change(await upload(session, cut));
    });
  });
  const buttons = make("p", "card-actions", file, choose);
  if (present) {
    const remove = button(words.messages_avatar_remove, "link");
    remove.dataset.key = "avatar-remove";
    remove.addEventListener("click", () => attempt(remove, note, words, () => change("")));
    buttons.append(remove);
  }
  return buttons;
}

/**
 * Uploads a picture.
 *
 * @param {Session} session
 * @param {Blob} picture
 * @returns {Promise<string>} its address. Rejected with ApiError.
 */
async function upload({ app, user, token }, picture) {
  const query = new URLSearchParams({ app, user, name: "avatar.jpg", kind: "picture" });
  /** @type {Response} */
  let response;
  let answer;
  try {
    response = await fetch(`${ROOT}/api/v1/uploads?${query}`, {
      method: "POST", body: picture, headers: { Authorization: `Bearer ${token}` }, credentials: "omit", signal: AbortSignal.timeout(UPLOAD_MS),
    });
    answer = await response.json();
  } catch (error) {
    throw new ApiError("no_answer", String(error));
  }
  if (!response.ok) throw new ApiError(String(answer.code), String(answer.message));
  return answer.url;
}
