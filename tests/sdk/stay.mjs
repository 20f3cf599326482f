// Stays connected and prints every state on a line of its own; ends when its input ends.
import { ImClient } from "../../sdk/js/imserver.js";

const client = new ImClient({ url: process.env.IM_WS, httpUrl: process.env.IM_HTTP, app: 101, user: "stayer", retryBaseMs: 200 });
client.on("state", ({ state, code }) => console.log(`${state} ${code}`));
client.connect();
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
