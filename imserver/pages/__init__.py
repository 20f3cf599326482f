"""The pages that a person opens in a browser: the chat rooms and the operators' status page."""
