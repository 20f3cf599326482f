// A client of Pusher that stays: prints its states, and the subscriptions that succeed.
import { createRequire } from "node:module";

import { options } from "./pusher_smoke.mjs";

const Pusher = createRequire(new URL("../../sdk/package.json", import.meta.url))("pusher-js");
const place = JSON.parse(process.env.PUSHER_OPTIONS);
const client = new Pusher(place.key, options(place, "ann"));
client.connection.bind("state_change", ({ current }) => console.log(current));
client.connection.bind("error", ({ data }) => data && console.log(`error ${data.code}`));
client.subscribe("presence-room").bind("pusher:subscription_succeeded", () => console.log("subscribed"));
process.stdin.on("end", () => process.exit(0)).resume();
