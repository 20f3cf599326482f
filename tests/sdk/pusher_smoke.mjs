// What clients of Pusher do, in Node.js and in a browser: `smoke(Pusher, Echo, place)`.

/** @param {ArrayBuffer} bytes */
const hex = (bytes) => [...new Uint8Array(bytes)].map((each) => each.toString(16).padStart(2, "0")).join("");

/** Signs as the back end of the app does. */
export async function sign(secret, text) {
  const encode = (value) => new TextEncoder().encode(value);
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", encode(secret), algorithm, false, ["sign"]);
  return hex(await crypto.subtle.sign("HMAC", key, encode(text)));
}

/** Options of a client whose back end permits everything to `user`. */
export function options(place, user) {
  return {
    wsHost: place.host,
    wsPort: place.port,
    wssPort: place.port,
    forceTLS: false,
    enabledTransports: ["ws"],
    disableStats: true,
    cluster: "",
    channelAuthorization: {
      customHandler: async ({ socketId, channelName }, callback) => {
        const data = channelName.startsWith("presence-")
          ? JSON.stringify({ user_id: user, user_info: { name: user } })
          : undefined;
        const text = data ? `${socketId}:${channelName}:${data}` : `${socketId}:${channelName}`;
        const auth = `${place.key}:${await sign(place.secret, text)}`;
        callback(null, { auth, channel_data: data });
      },
    },
    userAuthentication: {
      customHandler: async ({ socketId }, callback) => {
        const data = JSON.stringify({ id: user });
        const auth = `${place.key}:${await sign(place.secret, `${socketId}::user::${data}`)}`;
        callback(null, { auth, user_data: data });
      },
    },
  };
}

/** Resolves with the first value that `bind` passes on, or fails after a minute. */
export function once(what, bind) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${what}`)), 60_000);
    bind((value) => {
      clearTimeout(timer);
      resolve(value);
    });
  });
}

function same(found, wanted, what) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
  }
}

export async function smoke(Pusher, Echo, place) {
  const ann = new Pusher(place.key, options(place, "ann"));
  const bob = new Pusher(place.key, options(place, "bob"));
  try {
    await pusher(ann, bob);
    await echo(Echo, Pusher, ann, bob);
    await refused(Pusher, place);
  } finally {
    ann.disconnect();
    bob.disconnect();
  }
  return "all is well";
}

const subscribed = (channel) =>
  once(`subscription to ${channel.name}`, (take) => channel.bind("pusher:subscription_succeeded", take));

async function pusher(ann, bob) {
  const news = ann.subscribe("news");
  await subscribed(news);
  const room = ann.subscribe("presence-room");
  await subscribed(room);
  same([room.members.count, room.members.me.info], [1, { name: "ann" }], "members");

  const joined = once("member_added", (take) => room.bind("pusher:member_added", take));
  const other = bob.subscribe("presence-room");
  const members = await subscribed(other);
  same([members.count, members.get("ann").info.name], [2, "ann"], "members of the second");
  same((await joined).id, "bob", "who came");

  const moved = once("client event", (take) => other.bind("client-moved", (...found) => take(found)));
  room.trigger("client-moved", { x: 1 });
  same(await moved, [{ x: 1 }, { user_id: "ann" }], "client event");

  const left = once("member_removed", (take) => room.bind("pusher:member_removed", take));
  bob.unsubscribe("presence-room");
  same((await left).id, "bob", "who left");

  const wrong = once("an error", (take) => ann.connection.bind("error", take));
  ann.send_event("client-moved", {}, "news");
  same((await wrong).data.code, 4301, "a client event in a public channel");

  const cached = bob.subscribe("cache-prices");
  await once("cache_miss", (take) => cached.bind("pusher:cache_miss", take));

  bob.signin();
  await bob.user.signinDonePromise;
  same(bob.user.user_data, { id: "bob" }, "the user who signed in");
}

async function echo(Echo, Pusher, ann, bob) {
  const here = new Echo({ broadcaster: "pusher", client: ann, Pusher });
  const there = new Echo({ broadcaster: "pusher", client: bob, Pusher });
  await once("subscription", (take) => here.private("orders.1").subscribed(take));
  await once("subscription", (take) => there.private("orders.1").subscribed(take));
  const heard = once("whisper", (take) => there.private("orders.1").listenForWhisper("typing", take));
  here.private("orders.1").whisper("typing", { name: "ann" });
  same(await heard, { name: "ann" }, "whisper");

  const inside = await once("members", (take) => here.join("hall").here(take));
  same(inside, [{ name: "ann" }], "who is here");
  const joining = once("somebody", (take) => here.join("hall").joining(take));
  await once("members", (take) => there.join("hall").here(take));
  same(await joining, { name: "bob" }, "who joins");
  const leaving = once("somebody", (take) => here.join("hall").leaving(take));
  there.leave("hall");
  same(await leaving, { name: "bob" }, "who leaves");
}

async function refused(Pusher, place) {
  const stranger = new Pusher(place.key, options({ ...place, secret: "wrong" }, "eve"));
  const channel = stranger.subscribe("private-orders");
  const error = await once("a refusal", (take) => channel.bind("pusher:subscription_error", take));
  same([error.type, error.status], ["AuthError", 401], "a wrong signature");
  stranger.disconnect();

  const nobody = new Pusher("nokey", options(place, "eve"));
  const states = [];
  nobody.connection.bind("state_change", ({ current }) => states.push(current));
  const why = await once("an error", (take) => nobody.connection.bind("error", take));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  same([why.error?.data?.code ?? why.data?.code, nobody.connection.state], [4001, "disconnected"], states);
  nobody.disconnect();
}
