import type { ChatTransport, UIMessage } from 'ai';
import { DefaultChatTransport } from 'ai';

/** `url`: of the server, without `/ai-chat`. `token`: of the user, or a function that gets it before each request. */
export interface ImserverChatOptions {
  url?: string;
  token: string | (() => string | Promise<string>);
  fetch?: typeof globalThis.fetch;
}

/** What the server says of a message: its id in the log, who wrote it, and when (Unix milliseconds). */
export interface ImserverMetadata {
  id?: number;
  from?: string;
  time?: number;
  /** The producer has not finished it. */
  incomplete?: boolean;
  /** The user who has stopped it. */
  stopped?: string;
}

/** A page of messages, the oldest first. `before` leads to earlier ones; 0: there are none. */
export interface ImserverHistory<MESSAGE extends UIMessage> {
  before: number;
  messages: MESSAGE[];
}

export class ImserverChatTransport<MESSAGE extends UIMessage = UIMessage<ImserverMetadata>>
  extends DefaultChatTransport<MESSAGE>
  implements ChatTransport<MESSAGE>
{
  constructor(options: ImserverChatOptions);
  stop(chatId: string): Promise<number>;
  history(chatId: string, options?: { before?: number }): Promise<ImserverHistory<MESSAGE>>;
  watch(chatId: string, onAnswer: (messageId: string) => void): () => void;
}
