// An OpenID Connect provider on loopback. Arguments: the path of the npm package oidc-provider, and the address to
// which it sends browsers back (none: only programs ask it). Everybody logs in with any password.
// It prints its issuer, and ends with its input.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { Provider } = await import(pathToFileURL(process.argv[2]));

const KEY_TYPES = {
  RS256: ["rsa", { modulusLength: 2048 }],
  ES256: ["ec", { namedCurve: "P-256" }],
  EdDSA: ["ed25519", {}],
};
const ALGORITHMS = Object.keys(KEY_TYPES);

function newKey([type, options]) {
  const jwk = generateKeyPairSync(type, options).privateKey.export({ format: "jwk" });
  return { ...jwk, use: "sig", kid: randomUUID() };
}

/** The provider of an issuer, with keys of its own. The path of a resource is the algorithm of its tokens. */
function newProvider(issuer) {
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "ann",
        client_secret: "secret of ann",
        grant_types: ["client_credentials"],
        response_types: [],
        redirect_uris: [],
      },
      ...(process.argv[3]
        ? [{ client_id: "im", client_secret: "secret of im", redirect_uris: [process.argv[3]] }]
        : []),
    ],
    claims: { openid: ["sub"], profile: ["name", "picture"] },
    findAccount: (context, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id} of the provider`, picture: `https://img.example.com/${id}.png` }),
    }),
    jwks: { keys: Object.values(KEY_TYPES).map(newKey) },
    enabledJWA: { idTokenSigningAlgValues: ALGORITHMS },
    extraTokenClaims: (context, token) => ({ uid: `user-${token.clientId}` }),
    features: {
      devInteractions: { enabled: process.argv.length > 3 },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (context, resource) => ({
          scope: "",
          audience: "shop",
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: new URL(resource).pathname.slice(1) } },
        }),
      },
    },
  });
  return provider.callback();
}

let answer = null;
const server = createServer((request, response) => answer(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = newProvider(issuer);
  console.log(issuer);
  createInterface({ input: process.stdin }).on("close", () => process.exit(0));
});
