// Stays connected with centrifuge-js, to several servers in turn. Prints what happens in the user's own channel,
// and what it has missed of it after a cut; ends when its input ends.

import { createRequire } from 'node:module';

const load = createRequire(process.env.NODE_PACKAGES);
const { Centrifuge } = load('centrifuge');
const endpoints = JSON.parse(process.env.IM_ENDPOINTS);

let connections = 0;

class InTurn extends load('ws') {
  constructor(_url, protocols) {
    super(endpoints[connections++ % endpoints.length], protocols);
  }
}

const client = new Centrifuge(endpoints[0], {
  websocket: InTurn,
  token: process.env.IM_TOKEN,
  minReconnectDelay: 10,
  maxReconnectDelay: 500,
});
let cursor = 0;
const show = ({ id, text }) => {
  cursor = id;
  console.log(text);
};
client.on('subscribed', async ({ recovered }) => {
  console.log(`subscribed ${recovered}`);
  if (!cursor || recovered) return;
  const { messages } = (await client.rpc('sync', { cursor })).data;
  messages.forEach(show);
});
client.on('publication', ({ data }) => show(data));
client.connect();
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
