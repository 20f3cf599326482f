"""The pages for browsers: the chat rooms and the operators' status pages."""
