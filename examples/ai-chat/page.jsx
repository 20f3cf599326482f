// A chat with a bot. Its address: http://127.0.0.1:3000/#server=http://127.0.0.1:8080&bot=7&token=…
import { useChat } from '@ai-sdk/react';
import { ImserverChatTransport } from 'imserver-ai-chat';
import { useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

const { server, bot, token } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const transport = new ImserverChatTransport({ url: server, token });

function Chat({ past }) {
  const { messages, setMessages, sendMessage, resumeStream, status, error } = useChat({
    id: bot,
    transport,
    messages: past,
    resume: true, // goes on after a reload
  });
  const busy = status === 'submitted' || status === 'streaming';
  const latest = useRef();
  latest.current = { busy, setMessages, resumeStream };
  useEffect(() => {
    // An answer that begins on another device, or in another tab.
    return transport.watch(bot, async () => {
      if (latest.current.busy) return;
      latest.current.setMessages((await transport.history(bot)).messages);
      await latest.current.resumeStream();
    });
  }, []);
  const end = useRef();
  useEffect(() => {
    end.current?.scrollIntoView({ block: 'end' });
  }, [messages]);
  const send = (event) => {
    event.preventDefault();
    const text = new FormData(event.target).get('text').trim();
    event.target.reset();
    if (text && !busy) sendMessage({ text });
  };
  return (
    <>
      <h1>Chat with a bot</h1>
      <ol role="log" aria-label="Messages">
        {messages.map(({ id, role, parts, metadata }) => (
          <li key={id} className={role}>
            {parts.map((part) => (part.type === 'text' ? part.text : ''))}
            {metadata?.stopped && <small>Stopped</small>}
            {metadata?.incomplete && !metadata.stopped && <small>Not finished</small>}
          </li>
        ))}
        <li ref={end} className="end" />
      </ol>
      {error && <p role="alert">{error.message}</p>}
      <form onSubmit={send}>
        <input name="text" placeholder="Ask something" aria-label="Message" autoComplete="off" />
        {busy ? (
          <button type="button" className="stop" onClick={() => transport.stop(bot)}>
            Stop
          </button>
        ) : (
          <button>Send</button>
        )}
      </form>
    </>
  );
}

function Page() {
  const [past, setPast] = useState();
  const [error, setError] = useState('');
  useEffect(() => {
    transport.history(bot).then(({ messages }) => setPast(messages), (failed) => setError(failed.message));
  }, []);
  return past ? <Chat past={past} /> : <p>{error || 'Loading'}</p>;
}

createRoot(document.getElementById('page')).render(<Page />);
