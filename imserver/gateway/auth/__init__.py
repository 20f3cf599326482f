"""Authentication and authorization: who makes a request or login, and what it
may do."""
