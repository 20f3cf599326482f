// @ts-check
/** Line icons of menus and panels. Those of the first view are in `file.js`. */

import { drawing, icon } from "./file.js";

const SIGNS = {
  thread: "M5 5h14v10h-7l-4 4v-4H5zM8.5 8.7h7M8.5 11.6h4.5",
  edit: "M4.5 19.5 5.5 15.5 16 5 19 8 8.5 18.5zM14 7l3 3",
  copy: "M9 9h10v10H9zM6 15H5V5h10v1",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3L12 6.4M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1.1",
  select: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M8.3 12.2l2.6 2.6 4.8-5.2",
  readers: "M3 12c4-6.7 14-6.7 18 0-4 6.7-14 6.7-18 0M12 9.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5",
  unpin: "M9 4.5h6M10 4.5v5.2L7.5 13h9L14 9.7V4.5M12 13v6.5M4.5 4.5l15 15",
  remove: "M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 10.5V16M13.5 10.5V16",
  hide: "M3 12c4-6.7 14-6.7 18 0-4 6.7-14 6.7-18 0M4.5 19.5l15-15",
  read: "M3 12.5l4 4 7.5-8M11.5 15l1.5 1.5 8-8.5",
  unread: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M12 10a2 2 0 1 1 0 4 2 2 0 0 1 0-4",
  bell: "M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15zM10.3 20.5h3.4",
  mute: "M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15zM10.3 20.5h3.4M4.5 4.5l15 15",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  search: "M11 4.5a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13M15.8 15.8 20 20",
  person: "M10 5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7M3.5 19.5a6.5 6.5 0 0 1 13 0M18.5 8v6M15.5 11h6",
  media: "M4 5.5h16v13H4zM4 16l4.5-4.5 4 4 3-3L20 17M15.5 8.5a1 1 0 1 1 0 2 1 1 0 0 1 0-2",
  contact: "M12 4.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7M5 20a7 7 0 0 1 14 0z",
  bot: "M6 8.5h12v9.5H6zM12 8.5V5M9.5 12.2v1.6M14.5 12.2v1.6M3.5 12v3.5M20.5 12v3.5",
  rules: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
  leave: "M14 4.5H5.5v15H14M10 12h10M16.5 8.5 20 12l-3.5 3.5",
  flag: "M6 20V4.5h11l-2 4 2 4H6",
  ban: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M6 6l12 12",
  question: "M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17M9.5 9.8a2.5 2.5 0 1 1 3.5 2.3c-.7.4-1 .9-1 1.7M12 16.3v.3",
  write: "M12.5 5H6.8A1.8 1.8 0 0 0 5 6.8v10.4A1.8 1.8 0 0 0 6.8 19h10.4a1.8 1.8 0 0 0 1.8-1.8v-5.7M9.5 14.5l.7-3.2 8.1-8.1 2.5 2.5-8.1 8.1z",
  group: "M8.5 5.5a3 3 0 1 1 0 6 3 3 0 0 1 0-6M3 18.5c.4-3 2.4-4.5 5.5-4.5s5.1 1.5 5.5 4.5M18 8.5v6M15 11.5h6",
  poll: "M5 19V9.5M10 19V5M15 19v-7M20 19v-4.5",
  other: "M12 11.4a.6.6 0 1 1 0 1.2.6.6 0 0 1 0-1.2",
};

/** @typedef {keyof typeof SIGNS | "reply" | "forward" | "pin" | "archive" | "folder" | "more" | "download" | "attach"} Sign */

/**
 * @param {Sign | `M${string}`} sign  a name, or the lines of an icon in a square of 24
 * @returns {SVGElement}
 */
export function signOf(sign) {
  if (sign in SIGNS) return drawing(SIGNS[/** @type {keyof typeof SIGNS} */ (sign)], sign);
  return sign.startsWith("M") ? drawing(sign) : icon(/** @type {"reply"} */ (sign));
}
