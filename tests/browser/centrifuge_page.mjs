// centrifuge-js on a page: its transports, with JSON and with protobuf frames.
import { Centrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';

const forms = {
  json: { Class: Centrifuge, read: (data) => data, written: (value) => value },
  protobuf: {
    Class: ProtobufCentrifuge,
    read: (data) => JSON.parse(new TextDecoder().decode(data)),
    written: (value) => new TextEncoder().encode(JSON.stringify(value)),
  },
};

const once = (emitter, event, fits = () => true) =>
  new Promise((resolve) => {
    const listener = (context) => {
      if (fits(context)) {
        emitter.removeListener(event, listener);
        resolve(context);
      }
    };
    emitter.on(event, listener);
  });

function equal(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
  }
}

async function talk(place, form, transport) {
  const { Class, read, written } = forms[form];
  const endpoint = `${transport === 'websocket' ? place.ws : place.http}/connection/${transport}`;
  const connect = (token) => {
    const client = new Class([{ transport, endpoint }], {
      token,
      emulationEndpoint: `${place.http}/emulation`,
      minReconnectDelay: 10,
    });
    client.connect();
    return client;
  };
  const [ann, bob] = [connect(place.tokens.ann), connect(place.tokens.bob)];
  const channel = `past:page-${form}-${transport}`;
  const heard = ann.newSubscription(channel, { recoverable: true });
  const said = bob.newSubscription(channel);
  const received = [];
  heard.on('publication', ({ data }) => received.push(read(data)));
  for (const each of [heard, said]) each.subscribe();
  await Promise.all([heard.ready(10_000), said.ready(10_000)]);
  await said.publish(written('你好\n'));
  ann.disconnect();
  await said.publish(written({ n: 2 }));
  const subscribed = once(heard, 'subscribed');
  ann.connect();
  equal((await subscribed).recovered, true);
  const last = once(heard, 'publication', ({ data }) => read(data).n === 3);
  await said.publish(written({ n: 3 }));
  await last;
  equal(received, ['你好\n', { n: 2 }, { n: 3 }]);
  equal(read((await ann.rpc('conversations', written({}))).data).hasMore, false);
  for (const each of [ann, bob]) each.disconnect();
}

window.run = async (place) => {
  for (const transport of ['websocket', 'http_stream', 'sse']) await talk(place, 'json', transport);
  for (const transport of ['websocket', 'http_stream']) await talk(place, 'protobuf', transport);
  return 'all is well';
};
