// A page with useChat of the AI SDK, or of TanStack AI (#hook=tanstack), on a stock WebSocket (test_ai_chat_rules.py). The rest of its address: #server=…&bot=7&token=…
import { useChat as useAiSdk } from '@ai-sdk/react';
import { webSocket } from '@tanstack/ai-client';
import { useChat as useTanStack } from '@tanstack/ai-react';
import { WebSocketChatTransport } from 'ai';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

const { server, bot, token, hook } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const headers = { Authorization: `Bearer ${token}` };
const textOf = ({ parts }) => parts.map((part) => part.text ?? part.content ?? '').join('');

const transport = new WebSocketChatTransport({
  url: `${server}/ai-chat/socket`,
  headers,
  prepareSendMessagesRequest: ({ messages }) => ({ messages: messages.slice(-1) }),
});

function useStockAiSdk(past) {
  const chat = useAiSdk({ id: bot, transport, messages: past, resume: true });
  const busy = chat.status === 'submitted' || chat.status === 'streaming';
  return { ...chat, busy, send: (text) => chat.sendMessage({ text }) };
}

const url = () => `${server.replace('http', 'ws')}/ai-chat/socket?${new URLSearchParams({ token, chat: bot })}`;
const socket = webSocket(url, { reconnect: { maxAttempts: 20 } });
const connection = { ...socket, send: (messages, ...more) => socket.send(messages.slice(-1), ...more) };

function useStockTanStack(past) {
  const runId = past.findLast(({ role }) => role === 'user')?.id;
  const chat = useTanStack({
    connection,
    threadId: bot,
    initialMessages: past.map((each) => ({ ...each, parts: [{ type: 'text', content: textOf(each) }] })),
    initialResumeSnapshot: runId && { resumeState: { threadId: bot, runId } },
  });
  return { ...chat, busy: chat.isLoading, send: (text) => chat.sendMessage(text) };
}

const useStock = hook === 'tanstack' ? useStockTanStack : useStockAiSdk;

function Chat({ past }) {
  const { messages, send, busy, error } = useStock(past);
  const submit = (event) => {
    event.preventDefault();
    void send(new FormData(event.target).get('text'));
    event.target.reset();
  };
  return (
    <>
      <ol>
        {messages.map((each) => (
          <li key={each.id} className={each.role}>
            {textOf(each)}
          </li>
        ))}
      </ol>
      {error && <p role="alert">{error.message}</p>}
      <form onSubmit={submit}>
        <input name="text" aria-label="Message" />
        <button>{busy ? 'Busy' : 'Send'}</button>
      </form>
    </>
  );
}

function Page() {
  const [past, setPast] = useState();
  useEffect(() => {
    const asked = fetch(`${server}/ai-chat/${bot}/messages`, { headers });
    asked.then((answer) => answer.json()).then(({ messages }) => setPast(messages));
  }, []);
  return past ? <Chat past={past} /> : <p>Loading</p>;
}

createRoot(document.getElementById('page')).render(<Page />);
