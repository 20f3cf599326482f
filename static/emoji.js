// @ts-check
/** A grid of emoji with one tab stop. The arrow keys, Home and End move the focus; Enter or a click picks an emoji. */

export const EMOJI = (
  "😀 😄 😁 😂 🤣 😊 😉 😍 😘 😋 😎 🤔 🤗 🤩 😏 😴 😅 😇 🙃 🥳 🥺 😢 😭 😤 😡 🤯 😱 😳 🤫 🙄 🤝 👍 👎 👏 🙏 💪 ✌️ 👌 👋 🫡 " +
  "❤️ 🧡 💛 💚 💙 💜 💔 💯 ✨ 🎉 🎂 🎁 🔥 ⭐ 🌙 ☀️ 🌈 🌸 🍀 🌹 🍵 ☕ 🍺 🍜 🥟 🍉 🐼 🐯 🐶 🐱 🐉 🚀 ⚡ 💡 📌 ✅ ❓ ❗ 🀄 🏮"
).split(" ");

/**
 * @param {HTMLElement} grid
 * @param {(emoji: string) => void} onPick
 * @returns {{ focus: () => void }}
 */
export function makeEmojiGrid(grid, onPick) {
  const buttons = EMOJI.map((emoji) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = emoji;
    button.tabIndex = -1;
    button.addEventListener("click", () => onPick(emoji));
    return button;
  });
  let current = 0;
  buttons[current].tabIndex = 0;
  grid.append(...buttons);

  /** @param {number} index */
  const moveTo = (index) => {
    buttons[current].tabIndex = -1;
    current = Math.max(0, Math.min(buttons.length - 1, index));
    buttons[current].tabIndex = 0;
    buttons[current].focus();
  };
  const countColumns = () => {
    const { offsetTop } = buttons[0];
    const secondRow = buttons.findIndex((button) => button.offsetTop !== offsetTop);
    return secondRow < 0 ? buttons.length : secondRow;
  };
  grid.addEventListener("focusin", (event) => {
    const index = buttons.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    if (index >= 0 && index !== current) moveTo(index);
  });
  grid.addEventListener("keydown", (event) => {
    const columns = countColumns();
    const target = {
      ArrowRight: current + 1,
      ArrowLeft: current - 1,
      ArrowDown: current + columns < buttons.length ? current + columns : current,
      ArrowUp: current >= columns ? current - columns : current,
      Home: 0,
      End: buttons.length - 1,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    moveTo(target);
  });
  return { focus: () => moveTo(current) };
}
