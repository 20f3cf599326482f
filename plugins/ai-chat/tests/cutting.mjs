// What tests of WebSockets share: the program of the bot, and a proxy that cuts. PLACE: what the test has prepared, as JSON.

import assert from 'node:assert/strict';
import net from 'node:net';

export const { url, api, token, bot, chat } = JSON.parse(process.env.PLACE);

export async function produce(path, body) {
  const response = await fetch(`${api}/api/v1/messages/stream/${path}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${bot.token}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ app: 'shop', ...body }),
  });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

export const append = (stream, piece, text) => produce('append', { pieces: [{ stream, piece, text }] });

/** A proxy that cuts a connection after so many bytes of the server. */
export async function cutting(most) {
  const proxy = { passed: 0, head: 0 };
  const { hostname, port } = new URL(url);
  const server = net.createServer((client) => {
    const up = net.connect(port, hostname);
    up.on('data', (data) => {
      const some = data.subarray(0, most - proxy.passed);
      proxy.head ||= data.indexOf('\r\n\r\n') + 4;
      proxy.passed += some.length;
      client.write(some, () => {
        if (proxy.passed === most) up.destroy();
      });
    });
    client.on('data', (data) => up.write(data));
    for (const [each, other] of [
      [client, up],
      [up, client],
    ]) {
      each.on('error', () => {});
      each.on('close', () => other.destroy());
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.close = () => server.close();
  return proxy;
}
