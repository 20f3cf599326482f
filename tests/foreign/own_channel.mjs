// Stays connected with centrifuge-js, to several servers in turn. Prints what happens in the user's own channel;
// ends when its input ends.

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
client.on('subscribed', ({ recovered }) => console.log(`subscribed ${recovered}`));
client.on('publication', ({ data }) => console.log(data.text));
client.connect();
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
