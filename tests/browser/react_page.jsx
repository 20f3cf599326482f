// A page with all hooks of imserver-react, which tests/browser/test_react.py bundles and drives.
import { ImClient } from "imserver-client";
import { Messenger } from "imserver-client/messenger";
import { useConversation, useImClient, useMessages, useNotifications, usePresence } from "imserver-react";
import React, { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

const { url, httpUrl, app, tokens, user, peer } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const options = { url, httpUrl, app, user, token: tokens[user] };

function Live() {
  const { client, state } = useImClient(() => new ImClient({ ...options, device: "live" }), []);
  const messages = useMessages(client, 2);
  const online = usePresence(client, [peer, "nobody"], 500);
  const { state: notified, enable, disable } = useNotifications(client);
  return <section>
    <output id="live-state">{state.state}</output>
    <output id="presence">{JSON.stringify(online)}</output>
    <output id="notified">{notified}</output>
    <button id="notify" onClick={enable}>notify</button>
    <button id="silence" onClick={disable}>silence</button>
    <ul id="pushes">{messages.map(({ id, from, text }) => <li key={id}>{`${from}: ${text}`}</li>)}</ul>
    <button id="push" onClick={() => client.sendMessage(peer, `push from ${user}`)}>push</button>
  </section>;
}

function Conversation() {
  const { client, state } = useImClient(() => new Messenger({ ...options, cursor: null }), []);
  const [where, setWhere] = useState({ to: peer });
  const [rejected, setRejected] = useState("");
  const { entries, hasMore, loadEarlier, send, edit, recall, markRead, typing, typingUser, error } = useConversation(client, where, 3);
  const own = entries.filter(({ from }) => from === user);
  return <section>
    <output id="state">{state.state}</output>
    <output id="typing">{typingUser}</output>
    <output id="error">{error?.message}</output>
    <ul id="entries">{entries.map((each) => <li key={each.id}>
      {each.about === each.id ? `${each.from} recalled` : `${each.from}: ${each.text}${each.meta?.edited ? " (edited)" : ""}`}
    </li>)}</ul>
    {hasMore && <button id="earlier" onClick={loadEarlier}>earlier</button>}
    <input id="text" onInput={typing} />
    <button id="send" onClick={() => send(document.querySelector("#text").value).catch(({ reason }) => setRejected(reason))}>send</button>
    <output id="rejected">{rejected}</output>
    <button id="edit" onClick={() => edit(own.at(-1).id, "changed")}>edit</button>
    <button id="recall" onClick={() => recall(own.at(-1).id)}>recall</button>
    <button id="read" onClick={markRead}>read</button>
    <button id="by-number" onClick={() => setWhere({ conversation: entries[0].conversation })}>by number</button>
    <button id="elsewhere" onClick={() => setWhere({ to: "zoe" })}>elsewhere</button>
  </section>;
}

function Page() {
  const [shown, setShown] = useState(true);
  return <>
    {shown && <><Live /><Conversation /></>}
    <button id="unmount" onClick={() => setShown(false)}>unmount</button>
  </>;
}

createRoot(document.querySelector("#page")).render(<StrictMode><Page /></StrictMode>);
