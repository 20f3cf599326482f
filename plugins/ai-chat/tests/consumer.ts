// A strict program that uses the package (test_ai_chat_rules.py).
import type { ChatTransport, UIMessage } from 'ai';
import { type ImserverMetadata, ImserverChatTransport } from 'imserver-ai-chat';

const transport = new ImserverChatTransport({ url: 'https://chat.example', token: async () => 'token' });
const asTransport: ChatTransport<UIMessage<ImserverMetadata>> = transport;
const stopped: number = await transport.stop('7');
const { messages, before } = await transport.history('7', { before: 12 });
const by: string | undefined = messages[0]?.metadata?.stopped;
const end: () => void = transport.watch('7', (messageId: string) => console.log(messageId));
console.log(asTransport, stopped, before, by, end);
